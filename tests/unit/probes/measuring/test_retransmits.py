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


@pytest.mark.parametrize("isn", [0, 2**32 - 3000])
def test_when_it_was_sent_first_is_known_of_what_is_sent_again_any_number_of_times(trace, isn):
    conversation = opened(trace, isn=isn)
    times = []
    for start, size in ((1, 1000), (1001, 4000), (5001, 1000), (2449, 1448), (5001, 1000), (2449, 1448)):
        conversation.send(start, size, **STAMPS)
        conversation.hear(1)
        times.append(int(conversation.table().time_ns[-2]))
    result = count(conversation)
    assert [row.first_ns for row in result.rows] == [times[1], times[2], times[1]]
    assert [row.time_ns for row in result.rows] == times[3:]


def test_of_what_was_sent_before_the_capture_the_first_time_is_not_known(trace):
    conversation = trace(isn=0).send(5000, 1000, **STAMPS).send(3000, 1000, **STAMPS)
    (row,) = count(conversation).rows
    assert row.first_ns == row.time_ns


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
    assert result.until(at_a.now).retransmits == 0
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


def in_flight(trace, segments, *, stamps=STAMPS, window=500):
    conversation = opened(trace).hear(1, after_ns=5 * MS, window=window)
    for k in range(segments):
        conversation.send(1 + k * MSS, MSS, **stamps)
    return conversation


def at(k):
    return 1 + k * MSS


def again(conversation, k, *, after_ns=1000, **more):
    return conversation.send(at(k), MSS, after_ns=after_ns, **(STAMPS | more))


def types(conversation, **more):
    return [row.type for row in count(conversation, **more).rows]


def test_all_that_goes_again_after_a_timeout_is_its_consequence_until_what_was_in_flight_is_acknowledged(trace):
    conversation = again(in_flight(trace, 6), 5, after_ns=20 * MS)
    again(conversation, 0, after_ns=250 * MS)
    conversation.hear(at(1), after_ns=5 * MS)
    again(conversation, 1)
    again(conversation, 2).hear(at(6), after_ns=5 * MS)
    for k in range(6, 10):
        conversation.send(at(k), MSS, **STAMPS)
    conversation.hear(at(6), sacks=[(at(7), at(10))], after_ns=5 * MS)
    again(conversation, 6)
    assert types(conversation) == ["tlp", "rto", "rto", "rto", "fast"]
    assert [row.timeout for row in count(conversation).rows] == [False, True, False, False, False]


def test_a_timeout_is_spurious_when_what_was_never_repeated_is_acknowledged(trace):
    conversation = again(in_flight(trace, 6), 5, after_ns=20 * MS)
    again(conversation, 0, after_ns=250 * MS)
    conversation.hear(at(3), after_ns=1 * MS)  # three arrived, and only the first was repeated
    conversation.send(at(6), MSS, **STAMPS).hear(at(3), sacks=[(at(4), at(7))], after_ns=5 * MS)
    again(conversation, 3)
    assert types(conversation) == ["tlp", "rto", "fast"]


def test_a_timeout_is_spurious_when_the_echoed_stamp_is_older_than_the_retransmission(trace):
    def stamped(ms):
        return STAMPS | {"timestamp": ms}

    for echo, expected in ((100, "fast"), (360, "rto")):
        conversation = in_flight(trace, 6, stamps=stamped(100))
        for after_ms, k, ms in ((20, 5, 120), (240, 0, 360)):
            conversation.send(at(k), MSS, after_ns=after_ms * MS, **stamped(ms))
        conversation.hear(at(1), after_ns=MS, timestamps=True, timestamp_echo=echo)
        conversation.send(at(6), MSS, **stamped(361)).hear(at(1), sacks=[(at(6), at(7))], after_ns=MS)
        conversation.send(at(1), MSS, **stamped(362))
        assert types(conversation) == ["tlp", "rto", expected]


def test_a_timeout_is_spurious_when_all_that_was_repeated_is_reported_as_duplicate(trace):
    conversation = in_flight(trace, 6)
    conversation.hear(at(1), after_ns=MS).send(at(6), 1, **STAMPS)
    again(conversation, 1, after_ns=250 * MS)
    conversation.hear(at(2), sacks=[(at(1), at(2))], after_ns=5 * MS)
    conversation.hear(at(2), sacks=[(at(3), at(6))], after_ns=5 * MS)
    again(conversation, 2)
    assert types(conversation) == ["rto", "fast"]


def test_a_retransmission_that_is_lost_as_well_ends_the_slow_start_after_a_timeout(trace):
    conversation = again(in_flight(trace, 8), 7, after_ns=20 * MS)
    again(conversation, 0, after_ns=250 * MS).hear(at(1), after_ns=5 * MS)
    again(conversation, 1)
    again(conversation, 2, after_ns=MS).hear(at(1), sacks=[(at(2), at(3))], after_ns=5 * MS)
    again(conversation, 1)  # the third was sent later, and is there
    assert types(conversation) == ["tlp", "rto", "rto", "rto", "fast"]


def test_what_nothing_has_overtaken_shows_that_the_timer_went_before_the_evidence(trace):
    """Both were due at once, as on a busy machine: which it was, what is repeated after it tells."""

    def late(sacked):
        conversation = again(in_flight(trace, 8), 7, after_ns=20 * MS)
        conversation.hear(at(0), sacks=[(at(1), at(sacked))], after_ns=250 * MS)
        again(conversation, 0).hear(at(sacked), after_ns=5 * MS)
        return again(conversation, sacked)

    assert types(late(2)) == ["tlp", "rto", "rto"]
    assert [row.timeout for row in count(late(2)).rows] == [False, True, False]
    overtaken = again(in_flight(trace, 8), 7, after_ns=20 * MS)
    overtaken.hear(at(0), sacks=[(at(1), at(2)), (at(3), at(8))], after_ns=250 * MS)
    again(overtaken, 0).hear(at(2), sacks=[(at(3), at(8))], after_ns=5 * MS)
    assert types(again(overtaken, 2)) == ["tlp", "fast", "fast"]


def test_a_second_loss_probe_waits_for_the_first_ones_answer(trace):
    conversation = in_flight(trace, 2)
    for after_ms in (20, 230):
        again(conversation, 1, after_ns=after_ms * MS)
    again(conversation, 0, after_ns=MS)
    conversation.hear(at(2), after_ns=5 * MS).send(at(2), 100, **STAMPS)
    conversation.send(at(2), 100, after_ns=250 * MS, **STAMPS)
    assert types(conversation)[0] == "tlp"
    assert types(conversation)[-1] == "tlp"
    assert count(conversation).of_type("tlp") == 2


def test_after_a_timeout_the_next_timer_is_no_loss_probes_until_something_new_is_sent(trace):
    conversation = again(in_flight(trace, 3), 2, after_ns=20 * MS)
    again(conversation, 0, after_ns=250 * MS)
    conversation.hear(at(2), after_ns=5 * MS)  # the second was never repeated: spurious
    again(conversation, 2, after_ns=450 * MS)
    assert types(conversation) == ["tlp", "rto", "rto"]


def test_without_sack_a_recovery_lasts_until_something_beyond_it_is_acknowledged(trace):
    plain = {"options": 12, "timestamps": True}
    conversation = trace().send(0, 0, flags=SYN, mss=1460).hear(1, flags=SYN | ACK, mss=1460).hear(1, after_ns=5 * MS)
    for k in range(6):
        conversation.send(at(k), MSS, **plain)
    for _ in range(4):
        conversation.hear(at(1), after_ns=1000)
    again(conversation, 1).hear(at(6), after_ns=5 * MS).send(at(6), MSS, **plain).send(at(7), MSS, **plain)
    for _ in range(3):
        conversation.hear(at(6), after_ns=1000)
    again(conversation, 6, after_ns=250 * MS)
    assert types(conversation) == ["fast", "rto"]


def test_a_syn_and_ack_for_a_syn_that_came_again_is_not_its_senders_timer(trace):
    conversation = trace(isn=9).hear(0, flags=SYN, mss=1460).send(0, 0, flags=SYN | ACK, mss=1460)
    conversation.send(0, 0, flags=SYN | ACK, mss=1460, after_ns=1000 * MS)
    conversation.hear(0, flags=SYN, mss=1460).send(0, 0, flags=SYN | ACK, mss=1460)
    assert [row.timeout for row in count(conversation).rows] == [True, False]


def test_timeouts_that_sent_nothing_are_what_the_kernel_counts_beyond_those_seen(trace):
    conversation = again(in_flight(trace, 3), 2, after_ns=20 * MS)
    again(conversation, 0, after_ns=250 * MS)
    result = count(conversation)
    assert result.timeouts_held(3, time_ns=conversation.now) == 2
    assert result.timeouts_held(0, time_ns=conversation.now - 1) == 0


@pytest.mark.parametrize("acknowledged_on_the_way", [False, True])
def test_thousands_of_segments_can_be_in_flight(trace, acknowledged_on_the_way):
    conversation, frames = opened(trace), 1000
    for k in range(frames):
        conversation.send(at(40 * k), 40 * MSS, **STAMPS)
        if acknowledged_on_the_way and k > 150:
            conversation.hear(at(40 * (k - 100)))
    conversation.hear(at(40 * (frames - 100)), sacks=[(at(40 * frames - 30), at(40 * frames))], after_ns=5 * MS)
    for k in range(40 * frames - 50, 40 * frames - 30):
        again(conversation, k)
    result = count(conversation)
    assert result.segments == 40 * frames + 20 + 1
    assert types(conversation) == ["fast"] * 20
