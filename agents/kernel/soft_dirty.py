"""Soft-dirty bits: which pages a process wrote since they were cleared (Documentation/admin-guide/mm/soft-dirty.rst).

A kernel without CONFIG_MEM_SOFT_DIRTY takes the clearing without a word and keeps no bits: `attempt` finds out.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel.pagemap import PAGE_BYTES

_CLEAR_SOFT_DIRTY = b"4"  # fs/proc/task_mmu.c, CLEAR_REFS_SOFT_DIRTY
_BIT = np.uint64(1 << 55)  # Documentation/admin-guide/mm/pagemap.rst
_ENTRY_BYTES = 8


class SoftDirtyBits:
    """The bits of one mapping of a process. Clearing clears those of all its mappings: nobody else may rely on them."""

    def __init__(self, pid: int, *, start: int, length: int) -> None:
        """The mapping at address `start`, both in whole pages. Raises OSError."""
        self._offset = start // PAGE_BYTES * _ENTRY_BYTES
        self._entries = np.zeros(length // PAGE_BYTES, dtype=np.uint64)
        self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._clear_refs = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(self._pagemap)
            raise

    def read(self) -> npt.NDArray[np.bool_]:
        """For each page whether it was written since its bit was cleared; a process that is gone has written nothing.

        What is written between this and the next clearing is lost, unless the process stands still meanwhile.
        """
        self._entries[:] = 0
        view = self._entries.data.cast("B")
        position = 0
        while position < len(view):
            count = os.preadv(self._pagemap, [view[position:]], self._offset + position)
            if count == 0:
                break
            position += count
        written: npt.NDArray[np.bool_] = (self._entries & _BIT) != 0
        return written

    def clear(self) -> None:
        """From here on every page counts as unwritten. Raises ProcessLookupError when the process is gone."""
        os.write(self._clear_refs, _CLEAR_SOFT_DIRTY)

    def close(self) -> None:
        os.close(self._pagemap)
        os.close(self._clear_refs)


def attempt() -> tuple[bool, bool]:
    """Clear this process's bits and write one page: what then the bits of a written and of an untouched page are.

    (True, False) where the kernel keeps them. Raises OSError.
    """
    with mmap.mmap(-1, 2 * PAGE_BYTES) as memory:  # shared memory, as the guest's RAM is
        memory[:] = bytes(len(memory))
        place = ctypes.c_char.from_buffer(memory)
        start = ctypes.addressof(place)
        del place  # the map cannot be closed while something points into it
        bits = SoftDirtyBits(os.getpid(), start=start, length=len(memory))
        try:
            bits.clear()
            memory[0] = 1
            first, second = bits.read().tolist()
        finally:
            bits.close()
    return first, second
