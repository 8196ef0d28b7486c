"""Runs of pages: made of flags and of numbers, counted, cut and united."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.page_runs import (
    NO_RUNS,
    cut,
    page_numbers,
    pages_in,
    runs_of,
    runs_of_numbers,
    single_pages,
    union,
    whole,
)

PAGES = 64
sets = st.sets(st.integers(0, PAGES - 1))


def runs_with(pages):
    """Maximal runs of a set of pages, made without numpy."""
    found = []
    for page in sorted(pages):
        if found and sum(found[-1]) == page:
            found[-1][1] += 1
        else:
            found.append([page, 1])
    return np.array(found, dtype=np.uint64).reshape(-1, 2)


def check(runs, pages):
    """The runs hold these pages, in as few runs as can be."""
    assert runs.tolist() == runs_with(pages).tolist()
    assert (runs.shape[1], runs.dtype) == (2, np.uint64)


@given(flags=st.lists(st.booleans(), max_size=200))
def test_flags_become_as_few_runs_as_can_be(flags):
    check(runs_of(np.array(flags, dtype=np.bool_)), {page for page, flag in enumerate(flags) if flag})


@given(pages=sets, kind=st.sampled_from([np.int64, np.uint64]))
def test_numbers_become_as_few_runs_as_can_be(pages, kind):
    check(runs_of_numbers(np.array(sorted(pages), dtype=kind)), pages)


@given(pages=sets)
def test_runs_become_numbers_and_single_pages_of_which_there_are_as_many(pages):
    runs = runs_with(pages)
    assert page_numbers(runs).tolist() == sorted(pages)
    assert single_pages(runs).tolist() == [[page, 1] for page in sorted(pages)]
    assert pages_in(runs) == len(pages)


@given(pages=sets, page=st.integers(0, PAGES))
def test_runs_are_cut_at_a_page(pages, page):
    runs = runs_with(pages)
    before, after = cut(runs, page)
    check(before, {each for each in pages if each < page})
    check(after, {each for each in pages if each >= page})
    check(runs, pages)


@given(first=sets, second=sets)
def test_the_union_is_in_as_few_runs_as_can_be(first, second):
    check(union(runs_with(first), runs_with(second)), first | second)


def test_the_union_imports_nothing_at_its_first_call_which_is_made_in_the_blackout():
    code = """
import sys
import numpy as np
from unnoticed.agents.page_runs import union
runs, before = np.array([[1, 2], [5, 1]], dtype=np.uint64), set(sys.modules)
union(runs, runs + np.uint64(1))
print(sorted(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(("runs", "pages"), [(whole(PAGES), set(range(PAGES))), (NO_RUNS, set())], ids=["all", "none"])
def test_there_are_runs_of_all_pages_and_of_none(runs, pages):
    check(runs, pages)
