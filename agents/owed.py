"""Which pages the source of a post-copy still owes: shared by its agent and the two processes that send pages.

One byte for each page, 1 while it is owed; behind them the page behind that which was demanded last, and how many were
sent on demand. Who sends a page takes it first. Two may take the same at the same moment; then it is sent twice, and
the destination keeps the first.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel.pagemap import Runs
from unnoticed.agents.page_wire import WINDOW_PAGES

_OWED = b"\1"
_FULL = _OWED * WINDOW_PAGES
_DEMAND_BYTES = 2 * 8


class OwedPages:
    """The pages owed, in a memfd that processes share."""

    def __init__(self, fd: int, *, pages: int) -> None:
        self.fd = fd
        self.pages = pages
        self._map = mmap.mmap(fd, pages + _DEMAND_BYTES)
        self._cursor = 0
        self._followed = 0

    @classmethod
    def create(cls, *, pages: int) -> OwedPages:
        """None is owed yet."""
        fd = os.memfd_create("owed-pages", os.MFD_CLOEXEC)
        os.ftruncate(fd, pages + _DEMAND_BYTES)
        return cls(fd, pages=pages)

    def owe(self, runs: Runs) -> None:
        """These pages are owed."""
        for first, count in runs.tolist():
            self._map[first : first + count] = _OWED * count

    def not_owed(self, single_pages: Runs) -> Runs:
        """Those of some runs of one page each that are not owed."""
        flags = np.frombuffer(self._map[: self.pages], dtype=np.uint8)
        found: Runs = single_pages[flags[single_pages[:, 0].astype(np.int64)] == 0]
        return found

    def views(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
        """For who sends pages on demand: a flag for each page; the page to be pushed next, and how many went."""
        return np.frombuffer(self._map, np.uint8, self.pages), np.frombuffer(self._map, np.uint64, 2, self.pages)

    @property
    def demanded(self) -> int:
        """How many pages were sent on demand."""
        return int.from_bytes(self._map[self.pages + 8 :], "little")

    def take(self) -> tuple[int, int] | None:
        """The next pages to push: the first, and a mask in which bit i is page `first + i`. None: nothing is owed."""
        pivot = int.from_bytes(self._map[self.pages : self.pages + 8], "little")
        if pivot != self._followed:
            self._cursor = self._followed = pivot
        first = self._map.find(_OWED, self._cursor, self.pages)
        if first < 0:
            first = self._map.find(_OWED, 0, self._cursor)
        if first < 0:
            return None
        end = min(first + WINDOW_PAGES, self.pages)
        window = self._map[first:end]
        self._map[first:end] = bytes(end - first)
        self._cursor = end
        if window == _FULL:
            return first, (1 << WINDOW_PAGES) - 1
        return first, int.from_bytes(
            np.packbits(np.frombuffer(window, np.uint8), bitorder="little").tobytes(), "little"
        )

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


def runs_in(first: int, mask: int) -> list[tuple[int, int]]:
    """The runs of pages of a mask: first page and count."""
    runs: list[tuple[int, int]] = []
    while mask:
        skipped = (mask & -mask).bit_length() - 1
        mask >>= skipped
        count = (~mask & (mask + 1)).bit_length() - 1
        runs.append((first + skipped, count))
        first += skipped + count
        mask >>= count
    return runs
