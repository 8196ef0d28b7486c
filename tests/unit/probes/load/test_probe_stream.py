"""The record of one probe stream."""

import pytest

from unnoticed.probes.probe_stream import ProbeStream
from unnoticed.workload import MAGIC, PROBE


@pytest.fixture
def stream():
    """Two probes sent at 1000 and 2000, three slots skipped, one sent at 6000."""
    stream = ProbeStream(0)
    stream.probe(intended_ns=1000, now_ns=1000)
    stream.probe(intended_ns=2000, now_ns=2000)
    stream.skip(3)
    stream.probe(intended_ns=6000, now_ns=6500)
    return stream


def echo(sequence, *, stream=0, magic=MAGIC):
    return PROBE.pack(magic, stream, sequence, 0)


def test_a_probe_carries_its_stream_slot_and_intended_time(stream):
    assert stream.probe(intended_ns=7000, now_ns=7001) == PROBE.pack(MAGIC, 0, 6, 7000)


def test_skipped_slots_were_neither_sent_nor_answered(stream):
    assert stream.sent_ns.tolist() == [1000, 2000, 0, 0, 0, 6500]
    assert stream.answered_ns.tolist() == [0] * 6


def test_answers_find_their_slot_in_any_order(stream):
    stream.answer(echo(5), 24, arrived_ns=6600)
    stream.answer(echo(0), 24, arrived_ns=6700)
    assert stream.answered_ns.tolist() == [6700, 0, 0, 0, 0, 6600]
    assert stream.answers == 2


def test_the_first_of_two_answers_counts(stream):
    stream.answer(echo(1), 24, arrived_ns=2100)
    stream.answer(echo(1), 24, arrived_ns=2200)
    assert stream.answered_ns[1] == 2100
    assert (stream.answers, stream.duplicates) == (1, 1)


@pytest.mark.parametrize(
    "data", [echo(2), echo(6), echo(0, stream=1), echo(0, magic=1), echo(0)[:-1], echo(0) + b"x", b""]
)
def test_what_answers_no_probe_of_ours_is_strange(stream, data):
    stream.answer(data, len(data), arrived_ns=9000)
    assert (stream.answers, stream.strange) == (0, 1)
    assert stream.answered_ns.tolist() == [0] * 6


def test_only_probes_that_were_sent_lately_are_waited_for(stream):
    assert stream.unanswered_of_last(100) == 3
    assert stream.unanswered_of_last(4) == 1
    stream.answer(echo(5), 24, arrived_ns=6600)
    assert stream.unanswered_of_last(4) == 0
