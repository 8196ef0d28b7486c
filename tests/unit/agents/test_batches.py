"""A batch of connections as bytes: they cross the network, so they are not trusted."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents import batches
from unnoticed.agents.kernel.tcp_repair import TcpState

EXAMPLE = TcpState(
    slot=5,
    local=("10.77.0.100", 7000),
    remote=("10.77.1.1", 40000),
    write_sequence=0xFFFFFFF0,
    receive_sequence=7,
    mss=1448,
    options=7,
    send_scale=6,
    receive_scale=9,
    peer_closed=True,
    window=(1, 2, 3, 4, 5),
    timestamp=99,
    send_buffer_bytes=87040,
    receive_buffer_bytes=131072,
    unsent_bytes=2,
    congestion=b"cubic",
    send_queue=b"sent, unsent",
    receive_queue=b"unread",
)
OTHER = dataclasses.replace(EXAMPLE, slot=6, send_queue=b"", unsent_bytes=0, receive_queue=b"something else")


def packed(*states):
    size = batches.ROW.itemsize
    return b"".join(state.pack()[:size] for state in states) + b"".join(state.pack()[size:] for state in states)


def test_a_row_is_what_a_state_packs():
    row = np.frombuffer(EXAMPLE.pack(), batches.ROW, count=1)[0]
    for name in ("slot", "write_sequence", "receive_sequence", "mss", "options", "send_scale", "receive_scale"):
        assert row[name] == getattr(EXAMPLE, name), name
    for name in ("timestamp", "send_buffer_bytes", "receive_buffer_bytes", "unsent_bytes", "peer_closed"):
        assert row[name] == getattr(EXAMPLE, name), name
    assert tuple(row["window"]) == EXAMPLE.window
    assert bytes(row["congestion"]).rstrip(b"\0") == EXAMPLE.congestion
    assert (row["send_bytes"], row["receive_bytes"]) == (len(EXAMPLE.send_queue), len(EXAMPLE.receive_queue))


@given(st.lists(st.sampled_from([EXAMPLE, OTHER]), max_size=5))
def test_a_batch_comes_out_as_it_was_put_in(states):
    arrived = batches.parse(packed(*states), connections=len(states))
    assert [arrived.state(number) for number in range(len(arrived))] == states


@pytest.mark.parametrize("cut", [1, 6, 20])
def test_a_batch_that_is_cut_short_or_goes_on_is_none(cut):
    blob = packed(EXAMPLE, OTHER)
    for wrong in (blob[:-cut], blob + bytes(cut), blob[: batches.ROW.itemsize * 2 - cut]):
        with pytest.raises(ValueError, match="cut short"):
            batches.parse(wrong, connections=2)


def test_a_number_of_connections_that_their_bytes_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="cut short"):
        batches.parse(packed(EXAMPLE), connections=0xFFFFFFFF)


def test_more_unsent_bytes_than_queued_ones_are_refused():
    row = np.frombuffer(OTHER.pack()[: batches.ROW.itemsize], batches.ROW).copy()
    row["unsent_bytes"] = 1
    blob = row.tobytes() + OTHER.receive_queue
    with pytest.raises(ValueError, match="more unsent bytes"):
        batches.parse(blob, connections=1)
