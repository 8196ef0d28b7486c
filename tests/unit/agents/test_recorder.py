"""The recorder keeps to the grid of its clock, however late a look comes."""

import numpy as np
import pytest

from unnoticed.agents.recorder import record

MS = 1_000_000
INTERVAL_NS = 100 * MS


class Clock:
    """Time goes on when somebody sleeps, or by what a look takes."""

    def __init__(self, at_ns, takes=()):
        self.at_ns, self.takes, self.looks = at_ns, list(takes), []

    def now(self):
        return self.at_ns

    def sleep(self, seconds):
        self.at_ns += round(seconds * 1e9)

    def look(self):
        self.looks.append(self.at_ns)
        self.at_ns += self.takes.pop(0) if self.takes else 0
        return np.array([len(self.looks)], np.uint64)


def recorded(clock, count):
    return record(clock, interval_ns=INTERVAL_NS, goes_on=lambda have: have < count, now=clock.now, sleep=clock.sleep)


def test_it_looks_once_for_nothing_and_then_at_the_end_of_each_interval():
    clock = Clock(1_234 * MS)
    found = recorded(clock, 3)
    assert clock.looks == [1_300 * MS, 1_400 * MS, 1_500 * MS, 1_600 * MS]
    assert [pages.tolist() for pages in found.intervals] == [[2], [3], [4]]
    assert (found.first, found.late, found.lateness_ns) == (13, 0, [0, 0, 0, 0])


@pytest.mark.parametrize(("takes_ms", "late"), [(50, 0), (105, 0), (130, 1), (250, 2)])
def test_a_look_that_takes_long_moves_none_of_the_later_ends(takes_ms, late):
    clock = Clock(0, [0, takes_ms * MS])
    found = recorded(clock, 5)
    assert found.late == late
    assert clock.looks[-1] == 500 * MS
    assert len(found.intervals) == 5


def test_it_ends_when_there_is_nothing_to_go_on_with():
    assert recorded(Clock(0), 0).intervals == []
