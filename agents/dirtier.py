"""The dirtier: writes to pages of the guest's RAM in a pattern whose every word can be told afterwards.

The n-th write since the boot goes to a page given by n alone, and each visit to a page fills another of its 512 words
with a stamp of its own. So the number of writes, which itself lies in the RAM, says what every word of the area must
be: a page that was lost, late or doubled in a migration shows, even when it was written again afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_WORDS, Words

_FILL = np.uint64(0x9E3779B97F4A7C15)
STAMP = np.uint64(0xBF58476D1CE4E5B9)
_CHUNK_PAGES = 1024
_SPREAD = np.uint64(0x9E3779B1)  # near the golden section of 2^32: multiples of it fall evenly
_WHOLE_PPM = 1_000_000
_S = 1_000_000_000
_CYCLE = 1000  # writes in which each octave of a Zipf pattern has its share
_BURST_NS, _BURST_EVERY_NS = 100_000_000, 500_000_000


class Pattern(IntEnum):
    """Which pages are written, in which order, and how evenly."""

    UNIFORM = 0  # a permutation of the working set, over and over
    SEQUENTIAL = 1
    HOT_AND_COLD = 2  # nine writes in ten go to the first tenth of the working set
    # The r-th page has 1/r of the writes that the first one has, up to the octave that r lies in: pages of the same
    # octave have equally many (Zipf's law with exponent 1; Gray et al., SIGMOD 1994, has it for databases).
    ZIPF = 3
    BURSTS = 4  # as uniform, but all writes of 500 ms are made in the first 100 ms of them

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
        self._bursts = pattern is Pattern.BURSTS
        self._lanes, cycle = _lanes(pattern, working_set_pages)
        self._cycle = np.asarray(cycle, dtype=np.intp)
        # By lane: how many of the first 0, 1, ... writes of a cycle go to it.
        turns = self._cycle[None, :] == np.arange(len(self._lanes))[:, None]
        self._before = np.pad(turns.cumsum(axis=1, dtype=np.uint64), ((0, 0), (1, 0)))
        self._shapes = np.array([(lane.first, lane.pages, lane.stride) for lane in self._lanes], dtype=np.uint64)

    @property
    def is_idle(self) -> bool:
        """Whether it never writes anything."""
        return not self._lanes or not self._pages_per_s

    def due(self, elapsed_ns: int) -> int:
        """How many writes are due when it has gone on for so long."""
        if self._bursts:
            whole, rest = divmod(elapsed_ns, _BURST_EVERY_NS)
            elapsed_ns = whole * _BURST_EVERY_NS + min(rest, _BURST_NS) * (_BURST_EVERY_NS // _BURST_NS)
        return elapsed_ns * self._pages_per_s // _S

    def elapsed_ns(self, written: int) -> int:
        """For how long it has gone on, at least, when so many writes are due."""
        even_ns = -(-written * _S // self._pages_per_s)
        if not self._bursts or not even_ns:
            return even_ns
        whole, rest = divmod(even_ns - 1, _BURST_EVERY_NS)
        return whole * _BURST_EVERY_NS + -(-(rest + 1) // (_BURST_EVERY_NS // _BURST_NS))

    def write(self, words: Words, *, start: int, stop: int) -> None:
        """Make the writes `start` (included) to `stop` (excluded). `words` is the whole RAM, shape (pages, 512)."""
        if not self._lanes:
            return
        cycles, turn = np.divmod(np.arange(start, stop, dtype=np.int64), len(self._cycle))
        lane = self._cycle[turn]
        visits = cycles.astype(np.uint64) * self._before[lane, -1] + self._before[lane, turn]
        first, pages, stride = self._shapes[lane].T
        where = FIRST_DIRTIER_PAGE + first + visits * stride % pages
        words[where, visits // pages % np.uint64(PAGE_WORDS)] = (visits + np.uint64(1)) * STAMP

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
        cycles, turn = divmod(writes, len(self._cycle))
        return cycles * int(self._before[lane, -1]) + int(self._before[lane, turn])


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


def _lanes(pattern: Pattern, pages: int) -> tuple[list[_Lane], list[int]]:
    """The regions of a working set, and whose turn it is: the lane of each write of a cycle."""
    if not pages:
        return [], []
    if pattern is Pattern.SEQUENTIAL:
        return [_Lane(0, pages, 1)], [0]
    if pattern is Pattern.HOT_AND_COLD and pages >= 10:
        bounds, cycle = [0, pages // 10, pages], [0] * 9 + [1]
    elif pattern is Pattern.ZIPF:
        bounds = sorted({*((1 << octave) - 1 for octave in range(pages.bit_length())), pages})
        weights = [sum(1 / rank for rank in range(begin + 1, end + 1)) for begin, end in pairwise(bounds)]
        cycle = _turns(weights)
    else:
        bounds, cycle = [0, pages], [0]
    return [_Lane(begin, end - begin, _stride(end - begin)) for begin, end in pairwise(bounds)], cycle


def _turns(weights: list[float]) -> list[int]:
    """A cycle in which each has turns by its weight, as evenly spread as they go."""
    total, had, turns = sum(weights), [0] * len(weights), []
    for turn in range(1, _CYCLE + 1):
        chosen = max(range(len(weights)), key=lambda number: turn * weights[number] / total - had[number])
        had[chosen] += 1
        turns.append(chosen)
    return turns


def _stride(pages: int) -> int:
    """A step near the golden section of the region that visits every page before it repeats one."""
    stride = max(1, int(pages * 0.618))
    while math.gcd(stride, pages) != 1:
        stride += 1
    return stride
