"""Stalls of a flow's delivery and of the machine."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unnoticed.probes.packets import ACK, FIN
from unnoticed.probes.samples import Samples
from unnoticed.probes.stalls import Interval, deliveries, longest_stall, machine_stalls, merged, overlap_ns

SENDER, RECEIVER = 0x0A4D0101, 0x0A4D0064
MS = 1_000_000


def arrived(trace_table):
    (delivery,) = deliveries(trace_table, receivers=[RECEIVER])
    return delivery


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    isn=st.integers(2**32 - 3000, 2**32 - 1),
    order=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=40),
)
def test_bytes_are_delivered_when_the_hole_before_them_is_filled(trace, isn, order):
    conversation, there, edge, expected = trace(isn=isn).send(0, 100), {0}, 1, [100]
    for block, count in order:
        conversation.send(block * 100, count * 100)
        there |= set(range(block, block + count))
        reach = edge
        while reach in there:
            reach += 1
        if reach > edge:
            expected.append((reach - edge) * 100)
        edge = reach
    assert arrived(conversation.table()).new_bytes.tolist() == expected


def test_the_longest_stall_lies_between_two_arrivals_of_new_bytes(trace):
    conversation = trace()
    for k in range(10):
        conversation.send(k * 1000, 1000, after_ns=MS)
    stalled_from = conversation.now
    conversation.send(0, 1000, after_ns=100 * MS)  # nothing new
    conversation.send(10_000, 1000, after_ns=50 * MS)
    delivery = arrived(conversation.table())
    assert longest_stall(delivery, from_ns=0, to_ns=conversation.now) == Interval(
        start_ns=stalled_from, end_ns=conversation.now
    )
    assert longest_stall(delivery, from_ns=0, to_ns=stalled_from).duration_ns == MS


def test_a_flow_that_did_not_finish_is_stalled_to_the_end_of_the_window(trace):
    conversation = trace().send(0, 10).send(10, 10, after_ns=MS)
    end = conversation.now + 500 * MS
    assert longest_stall(arrived(conversation.table()), from_ns=0, to_ns=end).duration_ns == 500 * MS
    conversation.send(20, 0, flags=FIN | ACK)
    delivery = arrived(conversation.table())
    assert delivery.finished
    assert longest_stall(delivery, from_ns=0, to_ns=end).duration_ns == MS


def test_the_machine_stood_still_when_the_control_probe_was_late_lost_or_sent_late():
    intended = np.arange(100, dtype=np.int64) * MS + MS
    sent, answered = intended.copy(), intended + 50_000
    answered[10] = sent[10] + 8 * MS
    answered[40:50] = 0
    sent[70] = intended[70] + 6 * MS
    answered[70] = sent[70] + 50_000
    stalls = machine_stalls(Samples(intended_ns=intended, sent_ns=sent, answered_ns=answered, period_ns=MS))
    assert stalls == [
        Interval(start_ns=11 * MS, end_ns=19 * MS),
        Interval(start_ns=41 * MS, end_ns=51 * MS + 50_000),
        Interval(start_ns=71 * MS, end_ns=77 * MS),
    ]
    assert overlap_ns(stalls, from_ns=15 * MS, to_ns=45 * MS) == 8 * MS


def test_a_quiet_machine_has_no_stalls():
    intended = np.arange(100, dtype=np.int64) * MS + MS
    control = Samples(intended_ns=intended, sent_ns=intended, answered_ns=intended + 90_000, period_ns=MS)
    assert machine_stalls(control) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10))))
def test_merging_intervals_keeps_every_covered_instant(pairs):
    intervals = [Interval(start_ns=start, end_ns=start + size) for start, size in pairs]
    covered = {instant for one in intervals for instant in range(one.start_ns, one.end_ns)}
    union = merged(intervals)
    assert {instant for one in union for instant in range(one.start_ns, one.end_ns)} == covered
    assert overlap_ns(union, from_ns=0, to_ns=100) == len(covered)
