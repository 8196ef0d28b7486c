"""The dirtier: writes to pages of the guest's RAM in a pattern whose every word can be told afterwards.

The n-th write since the boot goes to a page given by n alone, and each visit to a page fills another of its 512 words
with a stamp of its own. So the number of writes, which itself lies in the RAM, says what every word of the area must
be: a page that was lost, late or doubled in a migration shows, even when it was written again afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_WORDS, Words

_FILL = np.uint64(0x9E3779B97F4A7C15)
STAMP = np.uint64(0xBF58476D1CE4E5B9)
_CHUNK_PAGES = 1024
_SPREAD = np.uint64(0x9E3779B1)  # near the golden section of 2^32: multiples of it fall evenly
_WHOLE_PPM = 1_000_000


class Pattern(IntEnum):
    """Which pages are written, in which order."""

    UNIFORM = 0  # a permutation of the working set, over and over
    SEQUENTIAL = 1
    HOT_AND_COLD = 2  # nine writes in ten go to the first tenth of the working set

    @classmethod
    def named(cls, name: str) -> Pattern:
        return cls[name.replace("-", "_").upper()]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the boot fills the area with: so many pages are zero, and so much of each other one compresses away.

    The rest does not compress: no two words of it are alike, which is what the dirtier writes, too.
    """

    zero_ppm: int = 0
    compressible_ppm: int = 0


UNCOMPRESSIBLE = Contents()


@dataclass(frozen=True)
class _Lane:
    """A region that is visited in a fixed cyclic order: the o-th visit is to page `first + o * stride % pages`."""

    first: int
    pages: int
    stride: int


class Dirtier:
    """The writes of one pattern over a working set. All methods are functions of the number of writes, or of time."""

    def __init__(
        self,
        *,
        pattern: Pattern,
        working_set_pages: int,
        pages_per_s: int = 0,
        contents: Contents = UNCOMPRESSIBLE,
    ) -> None:
        self._pages_per_s, self._contents = pages_per_s, contents
        self._hot_and_cold = pattern is Pattern.HOT_AND_COLD and working_set_pages >= 10
        if self._hot_and_cold:
            hot = working_set_pages // 10
            cold = working_set_pages - hot
            self._lanes = [_Lane(0, hot, _stride(hot)), _Lane(hot, cold, _stride(cold))]
        else:
            stride = 1 if pattern is Pattern.SEQUENTIAL else _stride(working_set_pages)
            self._lanes = [_Lane(0, working_set_pages, stride)] if working_set_pages else []

    @property
    def is_idle(self) -> bool:
        """Whether it never writes anything."""
        return not self._lanes or not self._pages_per_s

    def due(self, elapsed_ns: int) -> int:
        """How many writes are due when it has gone on for so long."""
        return elapsed_ns * self._pages_per_s // 1_000_000_000

    def elapsed_ns(self, written: int) -> int:
        """For how long it has gone on, at least, when so many writes are due."""
        return -(-written * 1_000_000_000 // self._pages_per_s)

    def write(self, words: Words, *, start: int, stop: int) -> None:
        """Make the writes `start` (included) to `stop` (excluded). `words` is the whole RAM, shape (pages, 512)."""
        for number, lane in enumerate(self._lanes):
            visits = np.arange(self._visits(number, start), self._visits(number, stop), dtype=np.uint64)
            pages = FIRST_DIRTIER_PAGE + lane.first + visits * np.uint64(lane.stride) % np.uint64(lane.pages)
            words[pages, visits // np.uint64(lane.pages) % np.uint64(PAGE_WORDS)] = (visits + np.uint64(1)) * STAMP

    def wrong_pages(self, words: Words, *, written: int) -> int:
        """How many pages of the area are not what the first `written` writes, and nothing else, make of them."""
        wrong = 0
        total = len(words) - FIRST_DIRTIER_PAGE
        for begin in range(0, total, _CHUNK_PAGES):
            pages = np.arange(begin, min(begin + _CHUNK_PAGES, total), dtype=np.int64)
            right = initial_words(pages, self._contents)
            for number, lane in enumerate(self._lanes):
                inside = (pages >= lane.first) & (pages < lane.first + lane.pages)
                if inside.any():
                    _stamp(right, inside, pages, lane, self._visits(number, written))
            found = words[FIRST_DIRTIER_PAGE + begin : FIRST_DIRTIER_PAGE + begin + len(pages)]
            wrong += int(np.count_nonzero((found != right).any(axis=1)))
        return wrong

    def _visits(self, lane: int, writes: int) -> int:
        """How many of the first `writes` writes go to a lane."""
        if not self._hot_and_cold:
            return writes
        return writes // 10 if lane == 1 else writes - writes // 10


def initial_words(pages: npt.NDArray[np.int64], contents: Contents) -> Words:
    """What the boot puts into pages of the area (numbers relative to it); shape (pages, 512)."""
    numbers = pages.astype(np.uint64)[:, None] * np.uint64(PAGE_WORDS) + np.arange(PAGE_WORDS, dtype=np.uint64)
    words: Words = np.multiply(numbers + np.uint64(1), _FILL, dtype=np.uint64)
    words[:, : PAGE_WORDS * contents.compressible_ppm // _WHOLE_PPM] = words[:, :1]
    is_zero = (pages.astype(np.uint64) * _SPREAD) % (1 << 32) < (contents.zero_ppm << 32) // _WHOLE_PPM
    words[is_zero] = 0
    return words


def fill(words: Words, contents: Contents = UNCOMPRESSIBLE) -> None:
    """Give the whole area its initial content."""
    for begin in range(FIRST_DIRTIER_PAGE, len(words), _CHUNK_PAGES):
        end = min(begin + _CHUNK_PAGES, len(words))
        words[begin:end] = initial_words(np.arange(begin - FIRST_DIRTIER_PAGE, end - FIRST_DIRTIER_PAGE), contents)


def _stamp(right: Words, inside: npt.NDArray[np.bool_], pages: npt.NDArray[np.int64], lane: _Lane, visits: int) -> None:
    """Enter what `visits` visits of a lane leave in the pages that lie in it."""
    rank = (
        (pages[inside] - lane.first) * pow(lane.stride, -1, lane.pages) % lane.pages
        if lane.pages > 1
        else (pages[inside] - lane.first)
    )
    count = np.maximum(0, -(-(visits - rank) // lane.pages))[:, None]  # visits to each page
    word = np.arange(PAGE_WORDS, dtype=np.int64)[None, :]
    last = count - 1 - (count - 1 - word) % PAGE_WORDS  # the last visit that wrote this word; negative: none
    stamps = (rank[:, None] + last * lane.pages + 1).astype(np.uint64) * STAMP
    right[inside] = np.where(last >= 0, stamps, right[inside])


def _stride(pages: int) -> int:
    """A step near the golden section of the region that visits every page before it repeats one."""
    stride = max(1, int(pages * 0.618))
    while math.gcd(stride, pages) != 1:
        stride += 1
    return stride
