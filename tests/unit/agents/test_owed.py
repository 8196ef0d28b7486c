"""Which pages are owed, who takes them, and in which order."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.owed import OwedPages, runs_in
from unnoticed.agents.page_wire import WINDOW_PAGES

PAGES = 1000


@pytest.fixture
def owed():
    made = OwedPages.create(pages=PAGES)
    yield made
    made.close()


def runs(*pairs):
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


def pages_of(window):
    first, mask = window
    return [first + bit for bit in range(WINDOW_PAGES) if mask >> bit & 1]


def drain(owed):
    taken = []
    while (window := owed.take()) is not None:
        taken += pages_of(window)
    return taken


def demand(owed, page):
    """As `page_loops.serve` does."""
    flags, pivot = owed.views()
    flags[page], pivot[0] = 0, page + 1


def test_nothing_is_owed_at_first(owed):
    assert owed.take() is None


def test_every_page_is_taken_once_in_order(owed):
    owed.owe(runs((3, 200), (700, 1), (999, 1)))
    assert owed.take() == (3, (1 << 64) - 1)
    assert drain(owed) == [*range(67, 203), 700, 999]
    assert owed.take() is None


def test_a_page_that_was_demanded_is_not_pushed_and_what_lies_behind_it_comes_first(owed):
    owed.owe(runs((0, PAGES)))
    assert pages_of(owed.take())[0] == 0
    demand(owed, 500)
    assert pages_of(owed.take()) == list(range(501, 565))
    taken = drain(owed)
    assert taken[:2] == [565, 566]
    assert sorted(taken) == [page for page in range(64, PAGES) if not 500 <= page < 565]


def test_what_is_behind_the_last_page_is_the_first(owed):
    owed.owe(runs((0, 2)))
    demand(owed, PAGES - 1)
    assert pages_of(owed.take()) == [0, 1]


def test_another_process_sees_the_same(owed):
    other = OwedPages(os.dup(owed.fd), pages=PAGES)
    owed.owe(runs((10, 2)))
    demand(other, 10)
    assert pages_of(owed.take()) == [11]
    assert other.take() is None
    other.close()


def test_those_that_are_not_owed_yet_are_told_from_the_others(owed):
    owed.owe(runs((10, 2)))
    assert owed.not_owed(runs((9, 1), (10, 1), (11, 1), (12, 1))).tolist() == [[9, 1], [12, 1]]


@given(first=st.integers(0, 1 << 30), mask=st.integers(0, (1 << 64) - 1))
def test_the_runs_of_a_mask_are_its_pages(first, mask):
    found = runs_in(first, mask)
    assert [page for start, count in found for page in range(start, start + count)] == pages_of((first, mask))
    assert all(start + count < after for (start, count), (after, _) in itertools.pairwise(found))
