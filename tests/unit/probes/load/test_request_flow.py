"""Requests and their answers, fed by hand: every way in which a guest's memory can have gone wrong must be found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.probes.client_flows import ConnectFlow, RequestFlow
from unnoticed.probes.records import RequestLog
from unnoticed.workload import ANSWER, HELLO, MAGIC, REQUEST, Kind, mix

CONNECTION = (7 << 32) + 5


def right_answer(sequence, **deviations):
    fields = {
        "sequence": sequence,
        "answered": sequence,
        "previous": mix(CONNECTION, sequence - 1) if sequence > 1 else 0,
        "value": mix(CONNECTION, sequence),
        **deviations,
    }
    return ANSWER.pack(*fields.values())


def asked(count, *, sent=True):
    """A flow that asked `count` times, at 100, 200, ..., and sent it all at 1000."""
    flow = RequestFlow(connection=CONNECTION, log=RequestLog())
    for number in range(1, count + 1):
        flow.request(intended_ns=100 * number)
    if sent:
        flow.took(len(flow.next_bytes()), now_ns=1000)
    return flow


def hear(flow, data, now_ns=2000):
    flow.received(data, len(data), now_ns=now_ns)


def test_it_says_hello_and_then_its_requests_in_order():
    flow = asked(2, sent=False)
    expected = HELLO.pack(MAGIC, Kind.REQUEST, CONNECTION, 0)
    expected += REQUEST.pack(1, mix(CONNECTION, 1)) + REQUEST.pack(2, mix(CONNECTION, 2))
    assert bytes(flow.next_bytes()) == expected


def test_right_answers_leave_nothing_to_say():
    flow = asked(3)
    for sequence in (1, 2, 3):
        hear(flow, right_answer(sequence), now_ns=2000 + sequence)
    assert flow._log.answered_ns.tolist() == [2001, 2002, 2003]
    assert flow._log.right.tolist() == [1, 1, 1]
    assert (flow.integrity, flow.detail, flow.wrong_bytes, flow.outstanding) == (True, "", 0, 0)
    assert (flow.bytes_sent, flow.bytes_received) == (HELLO.size + 3 * 16, 3 * 32)


def test_requests_are_asked_whether_or_not_the_former_were_answered():
    flow = asked(500)
    assert flow.outstanding == 500
    assert flow._log.intended_ns.tolist() == [100 * number for number in range(1, 501)]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_a_request_counts_as_sent_when_the_kernel_has_taken_its_last_byte(pieces):
    flow = asked(20, sent=False)
    taken = 0
    for time_ns, piece in enumerate(pieces, start=1000):
        count = min(piece, len(flow.next_bytes()))
        flow.took(count, now_ns=time_ns)
        taken += count
        assert sum(1 for sent_ns in flow._log.sent_ns if sent_ns) == max(0, taken - HELLO.size) // REQUEST.size


@given(st.lists(st.integers(1, 100), max_size=30))
def test_answers_may_come_in_any_pieces(pieces):
    flow = asked(10)
    data = b"".join(right_answer(sequence) for sequence in range(1, 11))
    for piece in [*pieces, len(data)]:
        hear(flow, data[:piece])
        data = data[piece:]
    assert flow.integrity
    assert flow.outstanding == 0


def test_one_wrong_bit_is_one_wrong_byte_and_the_answer_is_marked():
    flow = asked(3)
    hear(flow, right_answer(1) + right_answer(2, value=mix(CONNECTION, 2) ^ 1) + right_answer(3))
    assert flow._log.right.tolist() == [1, 0, 1]
    assert flow.wrong_bytes == 1
    assert not flow.integrity
    assert flow.detail.startswith("answer to request 2: value ")


def test_an_answer_that_comes_again_is_found_and_disturbs_no_other():
    flow = asked(3)
    hear(flow, right_answer(1) + right_answer(2) + right_answer(1) + right_answer(3))
    assert flow.detail == "request 1 was answered again"
    assert flow.wrong_bytes == ANSWER.size
    assert flow._log.right.tolist() == [1, 1, 1]
    assert not flow.integrity


def test_an_answer_that_is_left_out_is_found_and_its_request_stays_unanswered():
    flow = asked(4)
    hear(flow, right_answer(1) + right_answer(4))
    assert flow.detail == "the answer to request 2 to 3 was left out"
    assert flow._log.answered_ns.tolist() == [2000, 0, 0, 2000]
    assert flow._log.right.tolist() == [1, 0, 0, 1]
    assert not flow.integrity


def test_a_counter_that_went_back_is_found():
    """The guest's memory is that of an earlier moment: it has forgotten two of its answers."""
    flow = asked(5)
    hear(flow, b"".join(right_answer(sequence) for sequence in (1, 2, 3, 4)))
    hear(flow, right_answer(5, answered=3, previous=mix(CONNECTION, 2)))
    assert flow._log.right.tolist() == [1, 1, 1, 1, 0]
    assert "answered 3 instead of 5" in flow.detail
    assert f"previous {mix(CONNECTION, 2)} instead of {mix(CONNECTION, 4)}" in flow.detail
    assert not flow.integrity


def test_an_answer_of_another_connection_is_found():
    flow = asked(1)
    hear(flow, ANSWER.pack(1, 1, 0, mix(CONNECTION + 1, 1)))
    assert flow._log.right.tolist() == [0]
    assert not flow.integrity


def test_an_answer_to_no_request_is_found():
    flow = asked(1)
    hear(flow, right_answer(1) + right_answer(2))
    assert flow.detail.startswith("an answer came to no request")
    assert not flow.integrity


def test_an_answer_to_a_request_that_was_not_sent_yet_is_found():
    flow = asked(1, sent=False)
    hear(flow, right_answer(1))
    assert flow.outstanding == 1
    assert flow.detail.startswith("an answer came to no request")


def test_every_single_wrong_bit_of_an_answer_is_found():
    for bit in range(8 * ANSWER.size):
        flow = asked(1)
        wrong = bytearray(right_answer(1))
        wrong[bit // 8] ^= 1 << bit % 8
        hear(flow, wrong)
        assert not flow.integrity, bit
        assert not any(flow._log.right), bit


def test_it_may_end_only_when_told_and_when_every_answer_is_in():
    flow = asked(2)
    hear(flow, right_answer(1))
    flow.finish()
    assert not flow.may_end
    assert flow.missing == "1 requests from 2 on were not answered"
    hear(flow, right_answer(2)[:20])
    assert "an answer ended after 20 bytes" in flow.missing
    hear(flow, right_answer(2)[20:])
    assert flow.may_end
    assert flow.integrity


def test_a_connection_cut_short_has_no_integrity_but_one_that_never_carried_a_byte_has():
    assert not asked(1).integrity
    assert asked(1, sent=False).integrity


def test_what_goes_beyond_the_outstanding_limit_is_recorded_as_meant_and_not_sent():
    flow = RequestFlow(connection=CONNECTION, log=RequestLog(), outstanding_max=2)
    assert [flow.request(intended_ns=number) for number in (1, 2, 3)] == [True, True, False]
    assert flow._log.sequence.tolist() == [1, 2, 0]
    assert flow._log.intended_ns.tolist() == [1, 2, 3]
    assert len(flow.next_bytes()) == HELLO.size + 2 * REQUEST.size


def test_many_faults_are_counted_and_only_some_are_told():
    flow = asked(50)
    hear(flow, b"".join(right_answer(sequence, answered=0) for sequence in range(1, 51)))
    assert flow.detail.count("answer to request") == 4
    assert flow.detail.endswith("and 46 faults more")


def connecting():
    flow = ConnectFlow(connection=CONNECTION, log=RequestLog(), intended_ns=500)
    flow.started(now_ns=510)
    flow.took(len(flow.next_bytes()), now_ns=600)
    return flow


def test_a_connection_attempt_ends_with_its_answer():
    flow = connecting()
    assert not flow.may_end
    hear(flow, right_answer(0, previous=0), now_ns=700)
    assert flow.may_end
    assert flow.integrity
    log = flow._log
    assert (log.sequence[0], log.intended_ns[0], log.sent_ns[0], log.answered_ns[0], log.right[0]) == (
        0,
        500,
        510,
        700,
        1,
    )


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (right_answer(0, previous=0, answered=1), "the answer is wrong from byte 8 on"),
        (right_answer(0, previous=0) + b"x", "1 bytes came after the answer"),
        (right_answer(0, previous=0)[:31], "no answer"),
    ],
)
def test_a_connection_attempt_with_anything_but_its_answer_has_no_integrity(data, detail):
    flow = connecting()
    hear(flow, data)
    assert flow.detail == detail
    assert not flow.integrity
