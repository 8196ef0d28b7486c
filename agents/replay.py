"""The replay: writes the pages of a recorded trace, interval by interval, over and over.

Within an interval its pages are written evenly over the time, in the order of their numbers. The t-th interval since
the boot writes word t % 512 of each of its pages, with a stamp of its own: so the number of writes says here, too, what
every word of the area must be. The trace lies in the last pages of the RAM and moves with it.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math

import numpy as np
import numpy.typing as npt

from unnoticed.agents.dirtier import STAMP, UNCOMPRESSIBLE, Contents, initial_words
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_BYTES, PAGE_WORDS, Ram, Super, Words
from unnoticed.agents.trace import Bits, Pages, Trace, counts, pages_of
from unnoticed.errors import MigrationError

_CHUNK_PAGES = 1024


class Replay:
    """The writes of one trace. All methods are functions of the number of writes, or of time."""

    is_idle = False

    def __init__(self, bits: Bits, *, pages: int, interval_ns: int, digest: int, contents: Contents) -> None:
        """`bits` as in `Trace`, best where they lie in the RAM; `digest` is what they should have (`digest_of`)."""
        self._bits, self._pages, self._interval_ns = bits, pages, interval_ns
        self._digest, self._contents = digest, contents
        # Writes of a cycle before each interval.
        self._ends: list[int] = [0, *itertools.accumulate(counts(bits).tolist())]
        self._cached: tuple[int, Pages] = (-1, np.empty(0, np.int64))

    def due(self, elapsed_ns: int) -> int:
        """How many writes are due when the replay has gone on for so long."""
        number, part_ns = divmod(elapsed_ns, self._interval_ns)
        cycle, row = divmod(number, len(self._bits))
        before, after = self._ends[row], self._ends[row + 1]
        return cycle * self._ends[-1] + before + (after - before) * part_ns // self._interval_ns

    def elapsed_ns(self, written: int) -> int:
        """For how long the replay has gone on, at least, when so many writes are due."""
        number, offset = self._place(written)
        row = number % len(self._bits)
        count = self._ends[row + 1] - self._ends[row]
        return number * self._interval_ns - (-offset * self._interval_ns // count)

    def write(self, words: Words, *, start: int, stop: int) -> None:
        """Make the writes `start` (included) to `stop` (excluded). `words` is the whole RAM, shape (pages, 512)."""
        while start < stop:
            number, offset = self._place(start)
            pages = self._pages_in(number)[offset : offset + stop - start]
            words[FIRST_DIRTIER_PAGE + pages, number % PAGE_WORDS] = self._stamps(number, pages)
            start += len(pages)

    def wrong_pages(self, words: Words, *, written: int) -> int:
        """How many pages are not what the first `written` writes, and nothing else, make of them.

        All of them count where the trace itself has changed: it cannot tell any more what they should be.
        """
        area = words[FIRST_DIRTIER_PAGE : len(words) - pages_for(self._bits.nbytes)]
        if digest_of(self._bits) != self._digest:
            return len(area)
        wrong = 0
        number, offset = self._place(written)
        # Whatever word was written before that has been written again since.
        first = max(0, number - math.lcm(PAGE_WORDS, len(self._bits)))
        rows = [pages_of(row, pages=self._pages) for row in self._bits]
        last = [(each, rows[each % len(rows)]) for each in range(first, number)]
        last.append((number, rows[number % len(rows)][:offset]))
        for begin in range(0, len(area), _CHUNK_PAGES):
            end = min(begin + _CHUNK_PAGES, len(area))
            right = initial_words(np.arange(begin, end, dtype=np.int64), self._contents)
            for each, pages in last:
                inside = pages[np.searchsorted(pages, begin) : np.searchsorted(pages, end)]
                right[inside - begin, each % PAGE_WORDS] = self._stamps(each, inside)
            wrong += int(np.count_nonzero((area[begin:end] != right).any(axis=1)))
        return wrong

    def _place(self, written: int) -> tuple[int, int]:
        """The interval since the boot, and the place in it, of the write of this number (from 0)."""
        cycle, rest = divmod(written, self._ends[-1])
        row = bisect.bisect_right(self._ends, rest) - 1
        return cycle * len(self._bits) + row, rest - self._ends[row]

    def _pages_in(self, number: int) -> Pages:
        """The pages of an interval, numbered since the boot."""
        row = number % len(self._bits)
        if self._cached[0] != row:
            self._cached = row, pages_of(self._bits[row], pages=self._pages)
        return self._cached[1]

    def _stamps(self, number: int, pages: Pages) -> npt.NDArray[np.uint64]:
        return (np.uint64(number * self._pages + 1) + pages.astype(np.uint64)) * STAMP


def pages_for(matrix_bytes: int) -> int:
    """How many pages of the RAM a trace's matrix takes."""
    return -(-matrix_bytes // PAGE_BYTES)


def digest_of(bits: Bits) -> int:
    """A word that tells a trace from a changed one."""
    return int.from_bytes(hashlib.blake2b(bits.tobytes(), digest_size=8).digest(), "little")


def load(ram: Ram, trace: Trace) -> None:
    """Put a trace into the RAM of a guest that was booted and does not run yet. Raises MigrationError: no room."""
    own = pages_for(trace.matrix_bytes)
    if FIRST_DIRTIER_PAGE + trace.pages + own > ram.pages:
        raise MigrationError(
            f"The trace writes to {trace.pages} pages and takes {own} itself; the guest's memory of "
            f"{ram.memory_bytes >> 20} MiB is too small for that."
        )
    place = ram.words[ram.pages - own :].reshape(-1).view(np.uint8)
    place[:] = 0
    place[: trace.matrix_bytes] = trace.bits.reshape(-1)
    for word, value in (
        (Super.TRACE_PAGES, trace.pages),
        (Super.TRACE_INTERVALS, trace.intervals),
        (Super.TRACE_INTERVAL_NS, trace.interval_ns),
        (Super.TRACE_DIGEST, digest_of(trace.bits)),
    ):
        ram.quads[word] = value


def loaded(ram: Ram, contents: Contents = UNCOMPRESSIBLE) -> Replay | None:
    """The replay of the trace in a guest's RAM, if there is one. `contents`: what its area was filled with."""
    pages, intervals = ram.quads[Super.TRACE_PAGES], ram.quads[Super.TRACE_INTERVALS]
    if not pages:
        return None
    matrix_bytes = intervals * -(-pages // 8)
    place = ram.words[ram.pages - pages_for(matrix_bytes) :].reshape(-1).view(np.uint8)
    return Replay(
        place[:matrix_bytes].reshape(intervals, -1),
        pages=pages,
        interval_ns=ram.quads[Super.TRACE_INTERVAL_NS],
        digest=ram.quads[Super.TRACE_DIGEST],
        contents=contents,
    )
