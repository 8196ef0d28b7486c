"""Cutting page runs into PAGES messages."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents import wire


@st.composite
def ascending_runs(draw):
    pairs, position = [], 0
    for gap, count in draw(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 300)), max_size=40)):
        pairs.append((position + gap, count))
        position += gap + count
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


def pages(runs):
    return [page for first, count in runs.tolist() for page in range(first, first + count)]


@given(runs=ascending_runs(), most_pages=st.integers(1, 500))
def test_the_pieces_hold_the_same_pages_in_order_and_each_keeps_to_the_limit(runs, most_pages):
    pieces = list(wire.split(runs, most_pages=most_pages))
    assert [page for piece in pieces for page in pages(piece.runs)] == pages(runs)
    assert all(0 < piece.bytes_due <= most_pages * 4096 for piece in pieces)


@given(runs=ascending_runs(), most_pages=st.integers(1, 500))
def test_no_two_pieces_that_follow_each_other_would_fit_into_one(runs, most_pages):
    pieces = list(wire.split(runs, most_pages=most_pages))
    for one, next_one in itertools.pairwise(pieces):
        assert one.bytes_due + int(next_one.runs[0, 1]) * 4096 > most_pages * 4096


def test_no_runs_are_no_messages():
    assert list(wire.split(np.empty((0, 2), dtype=np.uint64))) == []


def test_a_great_many_runs_are_spread_over_messages_that_can_all_be_sent(conversation):
    scattered = np.column_stack((np.arange(0, 16384, 2), np.ones(8192))).astype(np.uint64)
    crowded = np.concatenate((scattered, np.array([[16384 - 1, 1]], dtype=np.uint64)))
    ends = conversation.played(5)
    messages = list(wire.split(crowded))
    assert [len(message.runs) for message in messages] == [8192, 1]
    for message in messages:
        came = conversation.say(ends, wire.Role.SOURCE, message)
        assert came.runs.tolist() == message.runs.tolist()


def test_the_whole_ram_of_a_large_guest_goes_in_messages_of_64_mib():
    whole = np.array([[0, (1 << 30) // 4096 + 1]], dtype=np.uint64)
    assert [message.bytes_due >> 20 for message in wire.split(whole)] == [64] * 16 + [0]
