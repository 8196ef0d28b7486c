"""PAGEMAP_SCAN: which pages were written, and protect them again, in one call (include/uapi/linux/fs.h; kernel 6.7)."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel import libc

_PAGEMAP_SCAN = 0xC0606610
_WP_MATCHING = 1 << 0
_CHECK_WPASYNC = 1 << 1
_IS_WRITTEN, _IS_PRESENT, _IS_SWAPPED, _IS_ZERO = 1 << 1, 1 << 3, 1 << 4, 1 << 5

PAGE_BYTES = 4096
_STRETCH_BYTES = 1 << 30  # of what one call looks at, where a mapping may be of any size

# size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask, category_anyof_mask,
# return_mask: struct pm_scan_arg, twelve u64
_SIZE, _FLAGS, _START, _END, _VEC, _VEC_LEN = 0, 1, 2, 3, 5, 6
_INVERTED, _CATEGORY_MASK, _ANY_OF_MASK, _RETURN_MASK = 8, 9, 10, 11

Runs = npt.NDArray[np.uint64]
"""Shape (n, 2): first page and number of pages of each run, ascending, without overlap."""


class WrittenScanner:
    """Finds and re-protects the written pages of one mapping of another process."""

    def __init__(self, pid: int, *, start: int, length: int) -> None:
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._start, self._length = start, length
        self._vector = _vector_for(length)

    def scan(self) -> Runs:
        """The runs of pages written since the last scan; from here on they count as unwritten.

        Protecting comes first: a page written while this runs is either in the answer or found by the next scan. A
        process that is gone has written nothing: some kernels say so, others that there is no such process.
        """
        argument = _written_in(self._start, self._length, self._vector)
        try:
            count = libc.ioctl(self._fd, _PAGEMAP_SCAN, argument)
        except ProcessLookupError:
            count = 0
        return _runs(self._vector[:count], self._start)

    def close(self) -> None:
        os.close(self._fd)


class PopulatedScanner:
    """The same of any range of a process, for pages that have come to hold something of their own.

    A page of a new mapping that nobody has touched counts as written to the kernel, and one that was only read is the
    shared page of zeros: both are left out.
    """

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._vector = _vector_for(_STRETCH_BYTES)

    def scan(self, *, start: int, length: int) -> Runs:
        """The runs of pages written since the last scan, first pages counted from address 0. Raises OSError."""
        found: list[Runs] = []
        for begin in range(start, start + length, _STRETCH_BYTES):
            argument = _written_in(begin, min(_STRETCH_BYTES, start + length - begin), self._vector)
            argument[_CATEGORY_MASK] |= _IS_ZERO
            argument[_INVERTED] = _IS_ZERO
            argument[_ANY_OF_MASK] = _IS_PRESENT | _IS_SWAPPED
            count = libc.ioctl(self._fd, _PAGEMAP_SCAN, argument)
            found.append(_runs(self._vector[:count], 0))
        return np.concatenate(found)

    def close(self) -> None:
        os.close(self._fd)


def _vector_for(length: int) -> npt.NDArray[np.uint64]:
    """Room for the most runs there can be, so that one call always reaches the end.

    A second call could not know where to go on: the kernel leaves walk_end at the last point where its own buffer of
    512 runs was full.
    """
    return np.zeros((length // PAGE_BYTES // 2 + 1, 3), dtype=np.uint64)


def _written_in(start: int, length: int, vector: npt.NDArray[np.uint64]) -> ctypes.Array[ctypes.c_uint64]:
    argument = (ctypes.c_uint64 * 12)()
    argument[_SIZE] = ctypes.sizeof(argument)
    argument[_FLAGS] = _WP_MATCHING | _CHECK_WPASYNC
    argument[_START], argument[_END] = start, start + length
    argument[_VEC], argument[_VEC_LEN] = vector.ctypes.data, len(vector)
    argument[_CATEGORY_MASK] = argument[_RETURN_MASK] = _IS_WRITTEN
    return argument


def _runs(regions: npt.NDArray[np.uint64], start: int) -> Runs:
    first = (regions[:, 0] - np.uint64(start)) // np.uint64(PAGE_BYTES)
    pages = (regions[:, 1] - regions[:, 0]) // np.uint64(PAGE_BYTES)
    return np.column_stack((first, pages))
