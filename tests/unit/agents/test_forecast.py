"""The forecast of a blackout, part by part, on rounds that were made up for it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.forecast import Outlook, Round, forecast, recent_rate_bit_per_s

MIB = 1 << 20
MS = 1_000_000
NOBODY = Outlook()


def one_round(number=0, *, sent=64 * MIB, duration_ms=512, left=0):
    return Round(number=number, sent_bytes=sent, duration_ns=duration_ms * MS, remaining_bytes=left)


rounds = st.lists(
    st.builds(
        one_round, sent=st.integers(0, 1 << 34), duration_ms=st.integers(0, 100_000), left=st.integers(0, 1 << 34)
    ),
    min_size=1,
    max_size=8,
)
outlooks = st.builds(
    Outlook,
    connections=st.integers(0, 5000),
    connection_ns=st.integers(0, MS),
    queued_bytes=st.integers(0, 1 << 28),
    settle_ns=st.integers(0, 10 * MS),
    path_ns=st.integers(0, 100 * MS),
    harvest_ns=st.integers(0, 100 * MS),
    since_ns=st.integers(0, 1000 * MS),
)


def test_pages_take_their_time_at_the_rate_of_the_round():
    assert forecast([one_round(left=8 * MIB)], NOBODY).pages_ns == pytest.approx(64 * MS)


def test_the_slower_of_the_last_two_rounds_counts_and_those_before_do_not():
    slow, quick = one_round(duration_ms=1024), one_round(duration_ms=256)
    assert recent_rate_bit_per_s([slow, quick]) == slow.bit_per_s
    assert recent_rate_bit_per_s([slow, quick, quick]) == quick.bit_per_s


def test_rounds_that_sent_nothing_tell_no_rate():
    empty = Round(number=1, sent_bytes=0, duration_ns=0, remaining_bytes=4096)
    assert recent_rate_bit_per_s([one_round(), empty, empty]) == one_round().bit_per_s
    assert forecast([empty], NOBODY).blackout_ns == math.inf
    assert forecast([empty], NOBODY).as_integers()["blackout_ns"] is None


def test_nothing_left_and_nobody_there_still_costs_what_a_cutover_costs():
    nothing = Round(number=0, sent_bytes=0, duration_ns=0, remaining_bytes=0)
    assert 0 < forecast([nothing], NOBODY).blackout_ns < 20 * MS


def test_what_the_guest_writes_from_the_harvest_to_the_pause_is_sent_too():
    busy = one_round(left=16 * MIB)  # 32 MiB/s
    assert forecast([busy], Outlook(since_ns=100 * MS)).rewritten_ns >= forecast([busy], NOBODY).rewritten_ns + 25 * MS


def test_the_look_for_dirty_pages_in_the_blackout_takes_as_long_as_the_last_one():
    slow = forecast([one_round()], Outlook(harvest_ns=60 * MS))
    assert slow.blackout_ns == forecast([one_round()], NOBODY).blackout_ns + 60 * MS


def test_queues_move_as_bytes_and_connections_one_by_one():
    held = Outlook(connections=200, connection_ns=300_000, queued_bytes=16 * MIB, settle_ns=3 * MS)
    expected = forecast([one_round()], held)
    assert expected.connections_ns == 60 * MS
    assert expected.queues_ns >= 128 * MS
    assert expected.settle_ns == 3 * MS


@given(rounds, outlooks)
def test_the_parts_are_never_negative_and_sum_to_the_whole(history, outlook):
    expected = forecast(history, outlook)
    parts = vars(expected).values()
    assert all(value >= 0 for value in parts)
    assert expected.blackout_ns == pytest.approx(sum(parts))
    assert str(expected)


@given(rounds, outlooks, outlooks)
def test_more_of_anything_never_forecasts_a_shorter_blackout(history, one, other):
    more = Outlook(**{name: value + vars(other)[name] for name, value in vars(one).items() if value is not None})
    assert forecast(history, more).blackout_ns >= forecast(history, one).blackout_ns


@given(rounds, outlooks, st.integers(1, 1 << 30))
def test_more_left_never_forecasts_a_shorter_blackout(history, outlook, more):
    last = history[-1]
    grown = Round(
        number=last.number,
        sent_bytes=last.sent_bytes,
        duration_ns=last.duration_ns,
        remaining_bytes=last.remaining_bytes + more,
    )
    assert forecast([*history[:-1], grown], outlook).blackout_ns >= forecast(history, outlook).blackout_ns
