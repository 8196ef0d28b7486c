"""The recorder: looks at a program in step with the clock, and makes a trace of what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unnoticed.agents.dirty import DirtyTracker
from unnoticed.agents.page_runs import single_pages
from unnoticed.agents.program import PageNumbers, PageWatch
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE
from unnoticed.clock import now_ns

_LATE_SHARE = 0.1  # of an interval


@dataclass(frozen=True)
class Recording:
    """What each interval has written, and how late each look came: the one for nothing, and that at each one's end.

    `first`: the number of the first interval by the clock.
    """

    intervals: list[PageNumbers]
    lateness_ns: list[int]
    interval_ns: int
    first: int

    @property
    def late(self) -> int:
        """How many looks came late by more than a tenth of an interval."""
        return sum(late_ns > self.interval_ns * _LATE_SHARE for late_ns in self.lateness_ns)


class AreaWatch:
    """The area that a guest's dirtier writes to, through a tracker of its RAM; pages are counted from its first."""

    def __init__(self, tracker: DirtyTracker) -> None:
        self._tracker = tracker
        self.name = tracker.name

    def look(self) -> PageNumbers:
        pages = single_pages(self._tracker.harvest())[:, 0]
        inside: PageNumbers = pages[pages >= FIRST_DIRTIER_PAGE] - np.uint64(FIRST_DIRTIER_PAGE)
        return inside

    def close(self) -> None:
        self._tracker.close()


def record(
    watch: PageWatch,
    *,
    interval_ns: int,
    goes_on: Callable[[int], bool],
    now: Callable[[], int] = now_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Recording:
    """Look once for nothing, then at the end of each interval, for as long as `goes_on(how many there are)`.

    Intervals begin at multiples of their length by the clock `now`. A look that comes late takes from the next
    interval, not from all of them; one that comes a whole interval late leaves an interval with nothing in it.
    """
    lateness_ns: list[int] = []

    def look(due_ns: int) -> PageNumbers:
        while (left_ns := due_ns - now()) > 0:
            sleep(left_ns / 1e9)
        lateness_ns.append(-left_ns)
        return watch.look()

    intervals: list[PageNumbers] = []
    due_ns = -(-now() // interval_ns) * interval_ns
    look(due_ns)
    while goes_on(len(intervals)):
        due_ns += interval_ns
        intervals.append(look(due_ns))
    first = due_ns // interval_ns - len(intervals)
    return Recording(intervals, lateness_ns, interval_ns=interval_ns, first=first)
