"""Runs of pages: how the pages of a RAM are named when there are many, and what is made of such lists.

Lists are given and returned as `Runs`: first page and number of pages of each run, ascending, without overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel.pagemap import Runs

NO_RUNS: Runs = np.empty((0, 2), dtype=np.uint64)


def whole(pages: int) -> Runs:
    """All pages of a RAM that has so many."""
    return np.array([[0, pages]], dtype=np.uint64)


def runs_of(flags: npt.NDArray[np.bool_]) -> Runs:
    """The pages whose flag is True; `flags` has one for each page."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return np.column_stack((edges[::2], edges[1::2] - edges[::2])).astype(np.uint64)


def runs_of_numbers(numbers: npt.NDArray[Any]) -> Runs:
    """The pages with these numbers, which ascend."""
    if len(numbers) == 0:
        return NO_RUNS
    borders = np.flatnonzero(np.diff(numbers) != 1) + 1
    starts = np.concatenate(([0], borders))
    lengths = np.diff(np.concatenate((starts, [len(numbers)])))
    return np.column_stack((numbers[starts], lengths)).astype(np.uint64)


def pages_in(runs: Runs) -> int:
    """How many pages the runs hold."""
    return int(runs[:, 1].sum())


def page_numbers(runs: Runs) -> npt.NDArray[np.int64]:
    """The numbers of the pages of all runs, in order."""
    return single_pages(runs)[:, 0].astype(np.int64)


def single_pages(runs: Runs) -> Runs:
    """The same pages as runs of one page each."""
    counts = runs[:, 1].astype(np.int64)
    if len(counts) == 0 or int(counts.max()) == 1:
        return runs
    starts = np.repeat(runs[:, 0], counts)
    offsets = np.arange(len(starts), dtype=np.uint64) - np.repeat(np.cumsum(counts) - counts, counts).astype(np.uint64)
    return np.column_stack((starts + offsets, np.ones(len(starts), dtype=np.uint64)))


def cut(runs: Runs, page: int) -> tuple[Runs, Runs]:
    """The runs of pages before `page`, and those from there on."""
    ends = runs[:, 0] + runs[:, 1]
    before, after = runs[runs[:, 0] < page].copy(), runs[ends > page].copy()
    before[:, 1] = np.minimum(before[:, 0] + before[:, 1], np.uint64(page)) - before[:, 0]
    starts = np.maximum(after[:, 0], np.uint64(page))
    after[:, 1] -= starts - after[:, 0]
    after[:, 0] = starts
    return before, after


def union(first: Runs, second: Runs) -> Runs:
    """The pages that are in either list, in as few runs as can be."""
    pages = np.sort(np.concatenate((single_pages(first)[:, 0], single_pages(second)[:, 0])))
    # Not np.unique: its first call imports a module for 30 ms, and this one is made while the guest stands still.
    is_new = np.ones(len(pages), dtype=np.bool_)
    is_new[1:] = pages[1:] != pages[:-1]
    return runs_of_numbers(pages[is_new])
