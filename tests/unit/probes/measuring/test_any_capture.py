"""What must be known before the flows of somebody else's capture are counted: copies, place, order, steady rates."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unnoticed.probes.byte_stream import byte_stream
from unnoticed.probes.capture_file import INBOUND, OUTBOUND
from unnoticed.probes.copies import copies
from unnoticed.probes.packets import ACK, SYN, merge
from unnoticed.probes.repeats import repeats
from unnoticed.probes.steady_flows import steady_flows
from unnoticed.probes.tcp_flows import split_flows
from unnoticed.probes.vantage import vantage

MS = 1_000_000
CLIENT, SERVER = 0x0A4D0101, 0x0A4D0064  # as the conftest's traces have them


def both_ways(one):
    packets = one.table()
    flows = {rows.flow.local_port: rows for rows in split_flows(packets)}
    return packets, flows[40000], flows[7000]


# -- copies ----------------------------------------------------------------------------------------------------------


def test_a_frame_seen_at_two_places_is_one(trace):
    one = trace()
    for start in (0, 100):
        one.send(start, 100, interface=1, length=166).send(start, 100, interface=2, length=170)
    assert copies(one.table()).tolist() == [False, True, False, True]


def test_a_frame_with_the_same_ip_id_is_one_also_at_one_place(trace):
    one = trace().send(0, 100, ip_id=7).send(0, 100, ip_id=7).send(0, 100, ip_id=8).send(0, 100, ip_id=8, window=400)
    assert copies(one.table()).tolist() == [False, True, False, False]


def test_what_is_sent_again_is_no_copy_though_both_are_seen_at_two_places(trace):
    one = trace()
    for ip_id, order in ((0, (1, 2)), (0, (1, 2)), (0, (1, 1, 2, 2))):
        for interface in order:
            one.send(0, 100, ip_id=ip_id, interface=interface)
    assert (~copies(one.table())).sum() == 4


def test_the_same_words_later_are_no_copy_but_with_an_ip_id_elsewhere_they_are(trace):
    one = trace().send(0, 100, ip_id=7).send(0, 100, ip_id=7, after_ns=11 * MS)
    assert not copies(one.table()).any()
    for ip_id, expected in ((7, True), (0, False)):
        one = trace().send(0, 100, ip_id=ip_id).send(0, 100, ip_id=ip_id, interface=2, after_ns=500 * MS)
        assert copies(one.table()).tolist() == [False, expected]


@given(sent=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_without_its_copies_a_capture_at_two_places_is_that_at_one(trace, sent):
    once, twice = trace(), trace()
    for number, (start, heard) in enumerate(sent):
        add = "hear" if heard else "send"
        fields = {"ip_id": number + 1} | ({} if heard else {"payload": 10})
        getattr(once, add)(start, interface=1, **fields)
        for interface in (1, 2):
            getattr(twice, add)(start, interface=interface, **fields)
    if not sent:
        return
    packets = twice.table()
    left = packets.select(~copies(packets))
    assert left.interface.tolist() == [1] * len(sent)
    assert left.ip_id.tolist() == once.table().ip_id.tolist()


def test_copies_that_were_written_later_than_what_was_sent_again_are_copies(trace):
    one = trace().send(0, 100, interface=1).send(0, 100, interface=1, after_ns=30 * MS)
    one.send(0, 100, interface=2, after_ns=-30 * MS + 500).send(0, 100, interface=2, after_ns=30 * MS)
    assert copies(one.table()).tolist() == [False, False, True, True]


def test_frames_of_which_too_little_is_known_are_no_copies(trace):
    one = trace().send(0, 0, protocol=58, destination_mac=1).send(0, 0, protocol=58, destination_mac=2)
    assert not copies(one.table()).any()


def test_acknowledgements_whose_options_are_cut_off_are_no_copies_of_one_another(trace):
    """Each of them reported another block, and so was longer than the one before."""
    one = trace()
    for length in (78, 86, 94):
        one.hear(100, length=length, whole=False)
    assert not copies(one.table()).any()


# -- repeats ---------------------------------------------------------------------------------------------------------


def kinds_of(one):
    packets, there, _ = both_ways(one)
    found = repeats(packets, byte_stream(packets, there))
    return list(found.kinds.values()), found.missing_bytes


def test_at_the_sender_all_that_starts_lower_was_sent_again(trace):
    one = trace().send(0, 10).send(10, 10).send(0, 10).hear(20)
    assert kinds_of(one) == (["again"], 0)


@pytest.mark.parametrize(("ip_id", "kind"), [(9, "again"), (5, "overtaken")])
def test_a_filled_hole_was_sent_again_or_overtaken_by_its_ip_id(trace, ip_id, kind):
    one = trace()
    for start, number in ((0, 3), (10, 4), (30, 6), (40, 7), (50, 8)):
        one.send(start, 10, ip_id=number)
    assert kinds_of(one.send(20, 10, ip_id=ip_id).hear(60)) == ([kind], 0)


def test_ip_ids_are_compared_across_their_wrap_around(trace):
    one = trace()
    for start, number in ((0, 65533), (10, 65534), (30, 0), (40, 1), (50, 2)):
        one.send(start, 10, ip_id=number)
    assert kinds_of(one.send(20, 10, ip_id=3).hear(60))[0] == ["again"]


def test_without_ip_ids_a_filled_hole_is_unclear_but_bytes_seen_twice_are_not(trace):
    one = trace().send(0, 10).send(20, 10).send(0, 10).send(10, 10).send(10, 10).hear(30)
    assert kinds_of(one) == (["again", "unclear", "again"], 0)


def test_bytes_that_were_acknowledged_but_never_seen_are_missing(trace):
    one = trace().send(0, 10).send(30, 10).send(15, 5).hear(40).hear(47)
    assert kinds_of(one) == (["unclear"], 15 + 7)
    assert kinds_of(trace().send(0, 10).send(30, 10).hear(10)) == ([], 0)  # a hole that is not acknowledged


# -- place -----------------------------------------------------------------------------------------------------------


def place_of(one, **more):
    packets, there, back = both_ways(one)
    streams = byte_stream(packets, there), byte_stream(packets, back)
    found = vantage(packets, there, *streams, **more), vantage(packets, back, *reversed(streams), **more)
    return [(one.place, one.by) for one in found]


def shaken(trace, *, there_ns, back_ns, **fields):
    one = trace().send(0, 0, flags=SYN, **fields.get("sent", {}))
    one.add(back=True, flags=SYN | ACK, acknowledgement=1, sequence=5000, after_ns=there_ns, **fields.get("heard", {}))
    return one.send(1, 0, acknowledgement=5001, after_ns=back_ns, **fields.get("sent", {}))


@pytest.mark.parametrize(
    ("there_ns", "back_ns", "places"),
    [
        (20 * MS, 30_000, ["sender", "receiver"]),
        (30_000, 20 * MS, ["receiver", "sender"]),
        (10 * MS, 9 * MS, ["unknown", "unknown"]),
        (80_000, 8_000, ["unknown", "unknown"]),  # so soon that it could be a matter of scheduling
    ],
)
def test_the_end_that_answers_at_once_is_where_the_capture_was_taken(trace, there_ns, back_ns, places):
    assert [place for place, _ in place_of(shaken(trace, there_ns=there_ns, back_ns=back_ns))] == places


@pytest.mark.parametrize(
    ("sent", "heard", "places"),
    [
        (OUTBOUND, INBOUND, ["sender", "receiver"]),
        (INBOUND, OUTBOUND, ["receiver", "sender"]),
        (INBOUND, INBOUND, ["between", "between"]),
        (0, 0, ["unknown", "unknown"]),
    ],
)
def test_the_file_says_what_came_in_and_went_out(trace, sent, heard, places):
    marks = {"sent": {"direction": sent}, "heard": {"direction": heard}}
    assert [place for place, _ in place_of(shaken(trace, there_ns=1000, back_ns=1000, **marks))] == places


def test_the_users_word_is_taken_before_the_answers(trace):
    one = shaken(trace, there_ns=20 * MS, back_ns=30_000)
    assert place_of(one, at=[SERVER]) == [("receiver", "user"), ("sender", "user")]
    assert place_of(one, at=[CLIENT, SERVER]) == [("sender", "user"), ("sender", "user")]


def test_on_the_loopback_nothing_lies_between(trace):
    ends = {"source": 0x7F000001, "destination": 0x7F000001}
    one = shaken(trace, there_ns=20 * MS, back_ns=30_000, sent=ends, heard=ends)
    assert place_of(one) == [("sender", "loopback"), ("sender", "loopback")]


# -- steady flows ----------------------------------------------------------------------------------------------------


def train(trace, times_ns, **fields):
    one, last = trace(), 0
    for number, time_ns in enumerate(times_ns):
        more = {name: value(number) if callable(value) else value for name, value in fields.items()}
        one.add(back=False, after_ns=time_ns - last, **{"protocol": 17, "payload": 24, **more})
        last = time_ns
    return one.table()


def test_a_steady_flow_has_its_longest_gap_with_bounds(trace):
    times = [k * MS for k in range(100)] + [k * MS for k in range(180, 300)]
    (flow,) = steady_flows(train(trace, times))
    assert (flow.kind, flow.frames, flow.period_ns) == ("udp", 220, MS)
    assert flow.outage.outage_ns == 80 * MS
    assert flow.outage.low_ns <= 80 * MS <= flow.outage.high_ns
    assert flow.outage.high_ns - flow.outage.low_ns <= 2 * MS + 1


@pytest.mark.parametrize("times", [[k * MS for k in range(9)], [k * k * MS for k in range(40)], [0] * 30])
def test_what_keeps_no_period_or_is_too_short_is_none(trace, times):
    assert steady_flows(train(trace, times)) == []


def test_a_ping_is_measured_by_its_answers(trace):
    asked = [k * 10 * MS for k in range(100)]
    out = train(trace, asked, protocol=1, echo=1, echo_identifier=5, echo_sequence=lambda k: k)
    answered = [k for k in range(100) if not 40 <= k < 60]
    back = train(
        trace,
        [asked[k] + MS for k in answered],
        protocol=1,
        echo=2,
        echo_identifier=5,
        echo_sequence=lambda k: answered[k],
        source=SERVER,
        destination=CLIENT,
    )
    (flow,) = steady_flows(merge([out, back]))
    assert (flow.kind, flow.source, flow.destination) == ("ping", "10.77.1.1", "10.77.0.100")
    assert (flow.frames, flow.unanswered) == (100, 20)
    assert flow.outage.low_ns <= 200 * MS <= flow.outage.high_ns
    assert flow.outage.high_ns <= 212 * MS


def test_a_table_without_packets_has_nothing(trace):
    empty = trace().send(0, 1).table().select(np.zeros(1, np.bool_))
    assert steady_flows(empty) == []
    assert len(copies(empty)) == 0
