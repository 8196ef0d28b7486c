"""Traces: small, exact, and bounded whatever a file claims to be."""

import json
import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unnoticed.agents import trace as traces
from unnoticed.agents.trace import condensed, packed, pages_of, read_trace, unpacked
from unnoticed.errors import PlanError

INTERVAL_NS = 100_000_000
some = settings(deadline=None, max_examples=40)
page_sets = st.lists(st.sets(st.integers(0, 1 << 52), max_size=30), min_size=1, max_size=12).filter(any)


def trace_of(sets, **given):
    intervals = [np.array(sorted(pages), np.uint64) for pages in sets]
    return condensed(intervals, **{"interval_ns": INTERVAL_NS, "tracker": "comparison", "about": {}, **given})


def file_of(header=None, matrix=None, *, version=1):
    header = {"interval_ns": INTERVAL_NS, "intervals": 2, "pages": 3, "tracker": "comparison", **(header or {})}
    body = lzma.compress(bytes([5, 2]) if matrix is None else matrix)
    return f"unnoticed trace {version}\n{json.dumps(header)}\n".encode() + body


def refusal(data):
    with pytest.raises(PlanError) as error:
        unpacked(data, source="some.trace")
    (sentence,) = error.value.problems
    assert sentence.startswith("some.trace: ")
    assert "\n" not in sentence
    return sentence


@some
@given(page_sets)
def test_a_trace_has_the_pages_of_each_interval_under_dense_numbers_in_order(sets):
    trace = trace_of(sets)
    every = sorted(set().union(*sets))
    assert trace.pages == len(every)
    found = [{every[page] for page in pages_of(row, pages=trace.pages)} for row in trace.bits]
    assert found == [set(pages) for pages in sets]
    assert trace.counts().tolist() == [len(pages) for pages in sets]


@some
@given(page_sets)
def test_a_file_gives_back_what_was_packed(sets):
    trace = trace_of(sets, about={"command": ["redis-server", "--port", "0"]})
    again = unpacked(packed(trace), source="some.trace")
    assert (again.bits == trace.bits).all()
    assert (again.pages, again.interval_ns, again.tracker) == (trace.pages, INTERVAL_NS, "comparison")
    assert again.about == trace.about


def test_the_mean_rate_counts_each_page_once_in_each_interval():
    assert trace_of([{1, 2}, {2}, set()]).bytes_per_s == pytest.approx(3 * 4096 / 0.3)


def test_nothing_written_is_no_trace():
    with pytest.raises(ValueError, match="no page was written"):
        trace_of([set(), set()])


@some
@given(page_sets, st.data())
def test_a_file_that_is_cut_off_anywhere_is_refused(sets, data):
    whole = packed(trace_of(sets))
    refusal(whole[: data.draw(st.integers(0, len(whole) - 1))])


@some
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_a_sentence(data):
    refusal(data)
    refusal(b"unnoticed trace 1\n" + data)
    refusal(file_of() + b"more")


@pytest.mark.parametrize(
    ("header", "matrix", "word"),
    [
        ({"pages": 1 << 60}, None, "pages is not a number from 1"),
        ({"pages": True}, None, "pages is not a number"),
        ({"intervals": 0}, None, "intervals is not a number from 1"),
        ({"interval_ns": 1}, None, "interval_ns is not a number"),
        ({"pages": 1 << 24, "intervals": 100_000}, None, "larger than 256 MiB"),
        ({"tracker": 3}, None, "how it was made"),
        ({}, b"\x01", "cut off: 1 of 2 bytes"),
        ({}, b"\x05\x02\x00", "more follows"),
        ({}, b"\x09\x00", "pages beyond the last"),
        ({}, b"\x00\x00", "no page is ever written"),
    ],
)
def test_what_a_file_claims_is_held_against_what_may_be(header, matrix, word):
    assert word in refusal(file_of(header, matrix))


def test_a_bomb_is_not_unpacked():
    bomb = file_of({"intervals": 1}, bytes(32 << 20))
    assert len(bomb) < 1 << 16
    assert "more follows" in refusal(bomb)


def test_another_version_is_named():
    assert "version 2; this release reads version 1" in refusal(file_of(version=2))
    assert "this is no trace" in refusal(b"\x7fELF")


def test_a_file_that_is_not_there_or_too_large_is_refused_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(PlanError, match=r"cannot be read \(No such file"):
        read_trace(tmp_path / "none.trace")
    monkeypatch.setattr(traces, "_FILE_BYTES", 10)
    path = tmp_path / "large.trace"
    path.write_bytes(file_of())
    with pytest.raises(PlanError, match="larger than a trace may be"):
        read_trace(path)
