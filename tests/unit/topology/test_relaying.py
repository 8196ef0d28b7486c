"""The rules of the relay, on arrays alone. What it does to real frames is tested in tests/root."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.topology import relaying
from unnoticed.topology.direction import Direction
from unnoticed.topology.relay import dropped, held, settings
from unnoticed.topology.relay_process import RelaySettings

MS = 1_000_000


def asked(**columns):
    row = np.zeros((1, relaying.ASKED_COLUMNS), np.int64)
    for name, value in columns.items():
        row[0, getattr(relaying, name.upper())] = value
    return row


@pytest.fixture
def luck():
    return np.array([88172645463325252], np.uint64)


def test_draws_are_even_and_the_same_for_the_same_state(luck):
    twin = luck.copy()
    draws = np.array([relaying.draw(luck, 0) for _ in range(20_000)])
    assert draws.min() >= 0
    assert draws.max() < 1 << 32
    parts = np.bincount(draws * 10 >> 32, minlength=10)
    assert ((parts - 2000) ** 2 / 2000).sum() < 27.9  # chi-square, 9 degrees of freedom, 0.999
    assert [relaying.draw(twin, 0) for _ in range(5)] == draws[:5].tolist()


@pytest.mark.parametrize("ppm", [0, 1_000, 500_000, 1_000_000])
def test_what_befalls_a_share_befalls_that_share(luck, ppm):
    share = sum(relaying.happens(luck, 0, ppm) for _ in range(20_000)) / 20_000
    assert abs(share - ppm / 1e6) <= 4 * (ppm / 1e6 * (1 - ppm / 1e6) / 20_000) ** 0.5


def test_a_frame_is_held_for_the_delay_and_evenly_within_the_jitter(luck):
    assert {relaying.held_ns(asked(delay=5 * MS), luck, 0) for _ in range(9)} == {5 * MS}
    row = asked(delay=5 * MS, jitter=2 * MS)
    held_for = np.array([relaying.held_ns(row, luck, 0) for _ in range(5000)])
    assert (held_for.min(), held_for.max()) == pytest.approx((3 * MS, 7 * MS), rel=0.01)
    assert held_for.min() >= 3 * MS
    assert held_for.max() <= 7 * MS
    assert held_for.mean() == pytest.approx(5 * MS, rel=0.02)


def test_a_frame_that_is_reordered_is_not_held(luck):
    row = asked(delay=5 * MS, jitter=MS, reorder=1_000_000)
    assert {relaying.held_ns(row, luck, 0) for _ in range(9)} == {0}


@given(
    capacity=st.integers(100, 400),
    entries=st.integers(1, 6),
    steps=st.lists(st.one_of(st.integers(1, 120), st.none()), max_size=60),
)
def test_no_two_frames_of_a_line_overlap_and_the_oldest_leave_first(capacity, entries, steps):
    state = np.zeros((1, relaying.STATE_COLUMNS), np.int64)
    waiting = deque()
    for size in steps:
        if size is None:
            if waiting:
                waiting.popleft()
        else:
            place = relaying.admit(state, 0, size, entries, capacity)
            taken = {at for first, last in waiting for at in range(first, last)}
            if place < 0:
                assert waiting or size > capacity
            else:
                assert len(waiting) < entries
                assert place >= 0
                assert place + size <= capacity
                assert not taken & set(range(place, place + size))
                waiting.append((place, place + size))
                state[0, relaying.END] = place + size
        state[0, relaying.WAITING] = len(waiting)
        state[0, relaying.FIRST] = waiting[0][0] if waiting else 0


def test_an_empty_line_takes_whatever_it_can_hold():
    state = np.zeros((1, relaying.STATE_COLUMNS), np.int64)
    state[0, relaying.END] = 90
    assert relaying.admit(state, 0, 100, 4, 100) == 0
    assert relaying.admit(state, 0, 101, 4, 100) == -1


def test_lines_and_rings_are_as_large_as_the_rate_and_the_delay_need():
    wide = Direction(rate_bit_per_s=100_000_000, delay_ns=100 * MS)
    given_settings = settings([(held(wide, inlet="l0-0", outlet="l0-1"), [wide])], seed=1)
    assert given_settings.line_bytes >= 100_000_000 // 8 * 0.2
    assert given_settings.entries * 64 >= 100_000_000 // 8 * 0.2
    assert given_settings.slots * 256 > 100_000_000 // 8 * 0.049
    longer = Direction(rate_bit_per_s=100_000_000, delay_ns=200 * MS)
    assert settings([(given_settings.held[0], [wide, longer])], seed=1).line_bytes > given_settings.line_bytes
    assert RelaySettings.parse(given_settings.text()) == given_settings


def test_frames_that_were_to_be_lost_are_not_counted_as_dropped():
    assert dropped({"lost": 5, "overflowed": 1, "oversized": 2, "refused": 3, "missed": 4, "late": 9}) == 10
