"""Dirty tracking by the kernel's soft-dirty bits, for kernels before 6.7."""

from __future__ import annotations

import contextlib

from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.kernel.pagemap import Runs
from unnoticed.agents.kernel.soft_dirty import SoftDirtyBits, attempt
from unnoticed.agents.page_runs import runs_of
from unnoticed.errors import MachineError


class SoftDirtyTracker:
    """Reads the bits of the guest's page table, then clears them.

    A write between the two would be lost, so the guest is stopped for the length of each harvest: some milliseconds in
    which its clients wait. Afterwards the guest pays a fault for its first write to any page, in RAM or not.
    """

    name = "soft-dirty"

    def __init__(self, guest: GuestProcess) -> None:
        """Raises MachineError where the kernel keeps no such bits."""
        if not works():
            raise MachineError(
                "This kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY does), so written pages cannot be tracked "
                "by them."
            )
        self.content = guest.ram
        self._guest = guest
        self._bits = SoftDirtyBits(guest.pid, start=guest.address, length=guest.ram.memory_bytes)
        with contextlib.suppress(ProcessLookupError):  # the guest is gone: the migration will find out
            self._bits.clear()

    def harvest(self) -> Runs:
        with self._guest.frozen():
            written = self._bits.read()
            with contextlib.suppress(ProcessLookupError):
                self._bits.clear()
        return runs_of(written)

    def close(self) -> None:
        self._bits.close()


def works() -> bool:
    """Whether this kernel keeps soft-dirty bits, tried on a page of this process."""
    try:
        return attempt() == (True, False)
    except OSError:
        return False
