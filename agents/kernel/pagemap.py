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
_IS_WRITTEN = 1 << 1

PAGE_BYTES = 4096

# size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask, category_anyof_mask,
# return_mask: struct pm_scan_arg, twelve u64
_SIZE, _FLAGS, _START, _END, _VEC, _VEC_LEN = 0, 1, 2, 3, 5, 6
_CATEGORY_MASK, _RETURN_MASK = 9, 11

Runs = npt.NDArray[np.uint64]
"""Shape (n, 2): first page and number of pages of each run, ascending, without overlap."""


class WrittenScanner:
    """Finds and re-protects the written pages of one mapping of another process."""

    def __init__(self, pid: int, *, start: int, length: int) -> None:
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._start, self._length = start, length
        # Room for the most runs there can be, so that one call always reaches the end. A second call could not know
        # where to go on: the kernel leaves walk_end at the last point where its own buffer of 512 runs was full.
        self._vector = np.zeros((length // PAGE_BYTES // 2 + 1, 3), dtype=np.uint64)

    def scan(self) -> Runs:
        """The runs of pages written since the last scan; from here on they count as unwritten.

        Protecting comes first: a page written while this runs is either in the answer or found by the next scan. A
        process that is gone has written nothing: some kernels say so, others that there is no such process.
        """
        argument = (ctypes.c_uint64 * 12)()
        argument[_SIZE] = ctypes.sizeof(argument)
        argument[_FLAGS] = _WP_MATCHING | _CHECK_WPASYNC
        argument[_START], argument[_END] = self._start, self._start + self._length
        argument[_VEC], argument[_VEC_LEN] = self._vector.ctypes.data, len(self._vector)
        argument[_CATEGORY_MASK] = argument[_RETURN_MASK] = _IS_WRITTEN
        try:
            count = libc.ioctl(self._fd, _PAGEMAP_SCAN, argument)
        except ProcessLookupError:
            count = 0
        regions = self._vector[:count]
        first = (regions[:, 0] - np.uint64(self._start)) // np.uint64(PAGE_BYTES)
        pages = (regions[:, 1] - regions[:, 0]) // np.uint64(PAGE_BYTES)
        return np.column_stack((first, pages))

    def close(self) -> None:
        os.close(self._fd)
