"""Dirty tracking without the kernel's help: compare all RAM with a copy of what was last sent."""

from __future__ import annotations

import errno

import numpy as np

from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.kernel.libc import differs
from unnoticed.agents.kernel.pagemap import PAGE_BYTES, Runs
from unnoticed.agents.page_runs import runs_of
from unnoticed.agents.ram import Ram
from unnoticed.errors import MachineError

_CHUNK_PAGES = 16  # compared in one go; only where a chunk differs are its pages looked at


class ComparisonTracker:
    """Keeps a copy of the RAM. A harvest brings every page that differs up to date there, and names it.

    Pages are sent from the copy, never from the RAM: the two would part where the guest writes while a page is sent and
    then writes the old content again, which no later comparison could see. A page that is copied while the guest
    writes it may be torn; then it differs, and is copied again.

    It costs as much memory again as the guest has, and a look at both with each harvest, the one in the blackout too.
    """

    name = "comparison"

    def __init__(self, guest: GuestProcess) -> None:
        """Raises MachineError where there is no memory for the copy."""
        self._ram = guest.ram
        try:
            self.content = Ram.create(memory_bytes=guest.ram.memory_bytes)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise MachineError(
                f"Finding written pages by comparison needs a copy of the guest's {guest.ram.memory_bytes >> 20} MiB: "
                f"{error.strerror}; give the guest less."
            ) from error
        np.copyto(self.content.words, self._ram.words)

    def harvest(self) -> Runs:
        ram, copy = self._ram.words, self.content.words
        written = np.zeros(self._ram.pages, dtype=np.bool_)
        start, other = self._ram.address, self.content.address
        for first in range(0, self._ram.pages, _CHUNK_PAGES):
            chunk = slice(first, min(first + _CHUNK_PAGES, self._ram.pages))
            offset, length = first * PAGE_BYTES, (chunk.stop - first) * PAGE_BYTES
            if differs(start + offset, other + offset, length):
                pages = first + np.flatnonzero((ram[chunk] != copy[chunk]).any(axis=1))
                written[pages] = True
                copy[pages] = ram[pages]
        return runs_of(written)

    def close(self) -> None:
        self.content.close()
