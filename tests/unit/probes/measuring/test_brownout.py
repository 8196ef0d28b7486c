"""Brownout: latency and the dirtier's pace within spans of time in which the guest ran."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.probes.brownout import LEAST_FOR_MEDIAN, LEAST_FOR_P99, latency, pace, tally

MS, S = 10**6, 10**9
SPANS = [(0, 2 * S), (3 * S, 5 * S)]


def waits_of(due, answered, spans=(SPANS[0],)):
    return latency(np.array(due, np.int64), np.array(answered, np.int64), list(spans))


def test_a_request_counts_from_when_it_was_due():
    due = np.arange(200) * MS
    found = waits_of(due, due + np.arange(1, 201) * 1000)
    assert (found.count, found.median_ns) == (200, 100_500)
    assert found.p99_ns == pytest.approx(198_010)


def test_what_is_not_answered_within_its_span_is_not_the_brownout_s():
    due = [1 * S, 2 * S - MS, 2 * S - MS, 2 * S + MS, 5 * S]
    answered = [1 * S + MS, 2 * S + MS, 0, 2 * S + 2 * MS, 6 * S]
    assert waits_of(due, answered, SPANS).count == 1


@pytest.mark.parametrize("spans", [[(0, S)], [(0, S), (S + MS, 2 * S)]])
def test_a_request_that_spans_two_spans_is_in_neither(spans):
    assert waits_of([S - MS], [S + 2 * MS], spans).count == 0


@given(st.integers(0, 2 * LEAST_FOR_P99))
def test_too_few_answers_have_no_percentile(count):
    due = np.arange(count) * MS
    found = waits_of(due, due + MS)
    assert found.count == count
    assert (found.median_ns is None) == (count < LEAST_FOR_MEDIAN)
    assert (found.p99_ns is None) == (count < LEAST_FOR_P99)


def test_the_pace_is_what_the_counters_rise_by_between_the_first_and_the_last_sample_of_a_span():
    counters = tally([(n * 20 * MS, n * 100, n * 10) for n in range(200)])
    found = pace(counters, [(7 * MS, S + 3 * MS)])
    assert found is not None
    assert (found.pages_per_s, found.skipped_per_s) == (pytest.approx(5000), pytest.approx(500))


def test_several_spans_count_as_one_and_what_lies_between_them_not_at_all():
    samples = [(n * 20 * MS, n * 100 + (100_000 if n > 110 else 0), 0) for n in range(250)]
    found = pace(tally(samples), SPANS)
    assert found is not None
    assert found.pages_per_s == pytest.approx(5000)


def test_a_span_with_a_single_sample_has_no_pace():
    counters = tally([(n * 20 * MS, n, 0) for n in range(10)])
    assert pace(counters, [(0, 15 * MS)]) is None
    assert pace(tally([]), SPANS) is None


def test_the_counters_that_a_place_still_has_do_not_turn_those_of_the_guest_back():
    left = [(n * 20 * MS, min(n, 50) * 100, 0) for n in range(60)]  # paused at sample 50, looked at until 60
    come = [(n * 20 * MS + 5, n * 100, 0) for n in range(51, 100)]
    found = pace(tally(left + come), [(0, 2 * S)])
    assert found is not None
    assert found.pages_per_s == pytest.approx(5000, rel=0.01)
    assert (np.diff(tally(come + left).written) >= 0).all()
