"""Dirty tracking: which pages of the guest's RAM were written since the last look."""

from __future__ import annotations

import contextlib
from typing import Protocol

from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.kernel import pagemap, userfaultfd
from unnoticed.agents.kernel.pagemap import Runs
from unnoticed.agents.ram import Ram
from unnoticed.errors import MachineError


class DirtyTracker(Protocol):
    """Tracks from its making until `close`. `harvest` gives the runs of pages written since, and starts anew.

    No write is ever lost: the caller reads the pages of a harvest from `content` only after that harvest, and what is
    written while it reads, or while the harvest looks, is in the next one.
    """

    name: str
    content: Ram  # where the pages of a harvest are to be read: the guest's own RAM, but for `comparison`

    def harvest(self) -> Runs: ...

    def close(self) -> None: ...


class WriteProtectTracker:
    """userfaultfd in asynchronous write-protect mode, with PAGEMAP_SCAN (kernel 6.7 and later).

    The guest pays about 1.2 us for the first write to a page in each round.
    """

    name = "userfaultfd-wp"

    def __init__(self, guest: GuestProcess) -> None:
        if guest.tracker_fd is None:
            raise MachineError(
                "This kernel has no asynchronous userfaultfd write protection (Linux 6.7 and later have it), "
                "so written pages cannot be tracked."
            )
        self.content = guest.ram
        self._fd = guest.tracker_fd
        self._start, self._length = guest.address, guest.ram.memory_bytes
        self._scanner = pagemap.WrittenScanner(guest.pid, start=self._start, length=self._length)
        try:
            userfaultfd.register(self._fd, start=self._start, length=self._length)
            self._scanner.scan()  # everything counts as written at first: protect it
        except BaseException:
            self.close()
            raise

    def harvest(self) -> Runs:
        return self._scanner.scan()

    def close(self) -> None:
        self._scanner.close()
        with contextlib.suppress(OSError):  # the guest is gone, and its memory with it
            userfaultfd.unregister(self._fd, start=self._start, length=self._length)
