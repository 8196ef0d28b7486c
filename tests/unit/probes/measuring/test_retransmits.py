"""Retransmits in constructed traces: counting against a byte-by-byte model, typing by what the sender knew."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unnoticed.probes.packets import ACK, FIN, RST, SYN, merge
from unnoticed.probes.retransmits import count_retransmits
from unnoticed.probes.tcp_flows import serial_difference, unwrap

SENDER = 0x0A4D0101
MSS = 1448
STAMPS = {"options": 12, "timestamps": True}
MS = 1_000_000


def count(trace, **more):
    (result,) = count_retransmits(trace.table(), senders=[SENDER], **more)
    return result


def opened(trace, *, isn=0):
    """A connection after its handshake: data starts at position 1."""
    conversation = trace(isn=isn)
    conversation.send(0, 0, flags=SYN, mss=1460, sack_permitted=True, options=20)
    conversation.hear(1, flags=SYN | ACK, mss=1460, sack_permitted=True, options=20)
    return conversation.send(1, 0, **STAMPS)


@given(start=st.integers(0, 2**32 - 1), steps=st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=40))
def test_unwrapping_gives_back_every_step(start, steps):
    positions = np.cumsum([0, *steps])
    numbers = ((start + positions) % 2**32).astype(np.uint32)
    assert unwrap(numbers).tolist() == positions.tolist()
    assert serial_difference(numbers[1:], numbers[:-1]).tolist() == steps


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    isn=st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 100_000, 2**32 - 1)),
    actions=st.lists(
        st.tuples(st.sampled_from(["new", "old", "both", "ack"]), st.floats(0, 1), st.integers(1, 65_000)), max_size=40
    ),
)
def test_segments_sent_again_are_counted_as_in_a_model_of_every_byte(trace, isn, actions):
    conversation, high, expected, pieces, new_bytes = opened(trace, isn=isn), 1, 0, 0, 0
    for action, where, most in actions:
        size = most
        if action == "ack":
            conversation.hear(1)
            continue
        if action == "new" or high == 1:
            start = high
        elif action == "old":
            start = 1 + int(where * (high - 2))
            size = min(size, high - start)
        else:  # begins with old bytes and goes on with new ones
            start = max(1, high - 1 - int(where * 5000))
        conversation.send(start, size, **STAMPS)
        old = set(range(1, high)) & set(range(start, start + size))
        new_bytes += size - len(old)
        if old:
            expected += -(-len(old) // MSS)
        pieces += -(-len(old) // MSS) if old else -(-size // MSS)
        high = max(high, start + size)
    result = count(conversation)
    assert result.mss == 1460
    assert result.retransmits == expected
    assert result.segments == pieces + 1  # the SYN
    assert result.new_bytes == new_bytes
    assert sum(map(result.of_type, ("rto", "fast", "tlp"))) == expected


@pytest.mark.parametrize("isn", [0, 2**32 - 2])
def test_a_wrap_around_alone_is_no_retransmit(trace, isn):
    conversation = opened(trace, isn=isn)
    for k in range(100):
        conversation.send(1 + k * MSS, MSS, **STAMPS).hear(1 + (k + 1) * MSS)
    assert count(conversation).retransmits == 0
    assert count(conversation).new_bytes == 100 * MSS


def test_a_super_frame_sent_again_counts_its_segments(trace):
    conversation = opened(trace).send(1, 10 * MSS + 1, **STAMPS).send(1, 10 * MSS + 1, after_ns=300 * MS, **STAMPS)
    assert count(conversation).retransmits == 11


def test_options_beyond_the_stamps_make_segments_smaller(trace):
    conversation = opened(trace).send(1, MSS, **STAMPS)
    conversation.send(1, MSS, options=24, timestamps=True, after_ns=300 * MS)
    assert count(conversation).retransmits == 2


def test_without_a_syn_the_kernels_mss_is_taken(trace):
    conversation = trace().send(0, 3000, **STAMPS).send(0, 3000, after_ns=300 * MS, **STAMPS)
    assert not count(conversation).mss_known
    name = count(conversation).flow.name
    assert name == "10.77.1.1:40000>10.77.0.100:7000"
    result = count(conversation, snd_mss={name: 500})
    assert result.mss_known
    assert result.retransmits == 6


def test_a_syn_sent_again_counts_one_and_is_a_timeout(trace):
    conversation = trace(isn=77)
    for after_s in (0, 1, 2):
        conversation.send(0, 0, flags=SYN, mss=1460, after_ns=after_s * 1000 * MS + 1)
    result = count(conversation)
    assert (result.retransmits, result.of_type("rto"), result.segments) == (2, 2, 3)
    assert result.flow.incarnation == 0


def test_a_syn_and_ack_sent_again_counts_at_its_sender(trace):
    conversation = trace(isn=9)
    for _ in range(3):
        conversation.hear(0, flags=SYN, mss=1400)
        conversation.send(0, 0, flags=SYN | ACK, mss=1460, after_ns=1000 * MS)
    result = count(conversation)
    assert (result.retransmits, result.mss) == (2, 1400)


def test_a_four_tuple_used_again_is_another_connection(trace):
    first = opened(trace, isn=10).send(1, 5000, **STAMPS).send(5001, 0, flags=FIN | ACK, **STAMPS)
    second = opened(trace, isn=10 + 2000).send(1, 5000, **STAMPS)
    for row in second.rows:
        row["time_ns"] += first.now
    first.rows += second.rows
    results = count_retransmits(first.table(), senders=[SENDER])
    assert [result.flow.incarnation for result in results] == [0, 1]
    assert [result.retransmits for result in results] == [0, 0]
    assert [result.new_bytes for result in results] == [5000, 5000]


def test_a_fin_sent_again_counts_one_with_or_without_data(trace):
    conversation = opened(trace).send(1, 100, flags=FIN | ACK, **STAMPS)
    conversation.send(101, 0, flags=FIN | ACK, after_ns=10 * MS, **STAMPS)
    conversation.send(1, 100, flags=FIN | ACK, after_ns=300 * MS, **STAMPS)
    assert count(conversation).retransmits == 2


def test_resets_and_pure_acknowledgements_are_no_retransmits(trace):
    conversation = opened(trace).send(1, 5000, **STAMPS)
    conversation.send(5001, 0, **STAMPS).send(5001, 0, **STAMPS).send(1, 0, flags=RST).send(100, 0, flags=RST | ACK)
    result = count(conversation)
    assert (result.retransmits, result.probes) == (0, 0)


@pytest.mark.parametrize("payload", [0, 1])
def test_keep_alives_are_counted_on_their_own(trace, payload):
    conversation = opened(trace).send(1, 1000, **STAMPS).hear(1001)
    for _ in range(3):
        conversation.send(1000, payload, after_ns=1000 * MS, **STAMPS).hear(1001)
    result = count(conversation)
    assert (result.retransmits, result.probes) == (0, 3)


def test_one_byte_pushed_against_a_closed_window_is_a_probe_when_repeated(trace):
    conversation = opened(trace).send(1, 1000, **STAMPS).hear(1001, window=0)
    for _ in range(4):
        conversation.send(1001, 1, after_ns=300 * MS, **STAMPS).hear(1001, window=0)
    result = count(conversation)
    assert (result.retransmits, result.probes) == (0, 3)


def test_one_byte_of_data_lost_before_the_window_closed_is_a_retransmit(trace):
    conversation = opened(trace).send(1, 1, **STAMPS).hear(1, window=0).send(1, 1, after_ns=300 * MS, **STAMPS)
    assert count(conversation).retransmits == 1


def test_what_another_host_sent_before_the_move_counts_when_sent_again(trace):
    at_a = opened(trace, isn=2**32 - 700).send(1, 1000, **STAMPS).send(1001, 2000, **STAMPS).hear(1001)
    at_b = trace(isn=2**32 - 700)
    at_b.now = at_a.now
    at_b.send(1000, 0, after_ns=50 * MS, **STAMPS)  # leaving repair mode
    at_b.send(1001, 2000, after_ns=200 * MS, **STAMPS).hear(3001).send(3001, 500, **STAMPS)
    assert count(at_b).retransmits == 0
    (result,) = count_retransmits(merge([at_a.table(), at_b.table()]), senders=[SENDER])
    assert (result.retransmits, result.probes) == (2, 1)
    assert result.retransmits_until(at_a.now) == 0
    assert result.rows[0].sequence == (2**32 - 700 + 1001) % 2**32


def test_sacked_data_above_makes_it_fast(trace):
    conversation = opened(trace)
    for k in range(5):
        conversation.send(1 + k * MSS, MSS, **STAMPS)
    conversation.hear(1, sacks=[(1 + MSS, 1 + 4 * MSS)], after_ns=MS)
    conversation.send(1, MSS, after_ns=1000, **STAMPS)
    assert [row.type for row in count(conversation).rows] == ["fast"]


def test_three_repeated_acknowledgements_make_it_fast_without_sack(trace):
    conversation = trace()
    conversation.send(0, 0, flags=SYN, mss=1460).hear(1, flags=SYN | ACK, mss=1460)
    conversation.send(1, 6 * 1460)
    for _ in range(4):
        conversation.hear(1, after_ns=100)
    conversation.send(1, 1460)
    assert [row.type for row in count(conversation).rows] == ["fast"]


def test_the_last_bytes_after_a_short_silence_are_a_tail_loss_probe_and_then_comes_the_timeout(trace):
    conversation = opened(trace).send(1, 5 * MSS, **STAMPS)
    conversation.send(1 + 4 * MSS, MSS, after_ns=10 * MS, **STAMPS)
    for k in range(3):
        conversation.send(1, MSS, after_ns=(200 << k) * MS, **STAMPS)
    conversation.hear(1 + MSS).send(1 + MSS, 2 * MSS, **STAMPS)  # the rest goes again as well
    result = count(conversation)
    assert [row.type for row in result.rows] == ["tlp", "rto", "rto", "rto", "rto"]
    assert result.of_type("rto") == 5


def test_a_lone_segment_is_probed_first_and_without_sack_times_out(trace):
    conversation = opened(trace).send(1, 100, **STAMPS)
    for k in range(3):
        conversation.send(1, 100, after_ns=(200 << k) * MS, **STAMPS)
    assert [row.type for row in count(conversation).rows] == ["tlp", "rto", "rto"]
    plain = trace().send(0, 0, flags=SYN, mss=1460).hear(1, flags=SYN | ACK, mss=1460)
    plain.send(1, 100).send(1, 100, after_ns=200 * MS)
    assert [row.type for row in count(plain).rows] == ["rto"]


@pytest.mark.parametrize("sacks", [[(1, 101)], [(201, 301), (151, 401)]])
def test_what_the_receiver_reports_twice_was_spurious(trace, sacks):
    conversation = opened(trace).send(1, 100, **STAMPS).send(101, 400, **STAMPS)
    conversation.send(1, 100, after_ns=10 * MS, **STAMPS).send(101, 400, after_ns=10 * MS, **STAMPS)
    conversation.hear(101, sacks=sacks)
    rows = count(conversation).rows
    assert [row.spurious for row in rows] == ([True, False] if len(sacks) == 1 else [False, True])
    assert count(conversation).spurious == 1


def test_one_report_of_duplicates_can_name_several_frames(trace):
    conversation = opened(trace).send(1, 1000, **STAMPS)
    for k in range(3):
        conversation.send(1 + 100 * k, 100, after_ns=MS, **STAMPS)
    conversation.hear(1001, sacks=[(1, 201)])
    assert [row.spurious for row in count(conversation).rows] == [True, True, False]


def test_a_table_without_tcp_has_no_flows(trace):
    assert count_retransmits(trace().table(), senders=[SENDER]) == []
    assert count_retransmits(opened(trace).table(), senders=[1]) == []
