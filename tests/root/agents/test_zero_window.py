"""Long blackouts in which clients are answered: nobody repeats anything, and what was acknowledged is not lost.

The kernels' own counters are the judges. Tail-loss probes are off: on a busy machine they say that something took long.
Retransmission timers are as they are. Every blackout here is longer than they are, and shorter than a SYN's second.
"""

import time

import pytest
from tests.root.agents.conftest import Stage
from tests.root.agents.test_hold import counters, set_timers

pytestmark = [pytest.mark.root, pytest.mark.since_kernel("6.7")]

RATE_BYTES_PER_S = 110 << 20  # for a guest of 64 MiB
LEAST_TIMEOUT_US = 200_000


@pytest.fixture(autouse=True)
def no_probes(fabric):
    set_timers(fabric, probes=0, least_us=LEAST_TIMEOUT_US)
    yield
    set_timers(fabric, probes=3, least_us=LEAST_TIMEOUT_US)


@pytest.fixture(params=["ipv4", "ipv6"])
def answering(fabric, tmp_path, request):
    """A stage whose agents hold frames and can answer for them."""
    made = Stage(fabric, tmp_path, hold=True, zero_window=True, ip=request.param)
    try:
        yield made
    finally:
        made.close()


def stand_still(stage, source, destination, *, zero_window=True, **settings):
    """A migration without rounds, slowly."""
    settings = {"mode": "stop-and-copy", "policy": "none", "rate_bytes_per_s": RATE_BYTES_PER_S, **settings}
    report = stage.migrate(source, destination, zero_window=zero_window, **settings)
    stage.agents[destination].wait_reply("arrival", 10)
    return report


def sent_again(stage, before):
    """By place, what was sent again, or came twice or out of order; and the timers of the client that ran out.

    Those of a guest that has paused run out, too, but there they send nothing.
    """
    names = ("RetransSegs", "TCPFastRetrans", "TCPOFOQueue", "TCPDSACKOldSent", "TCPDSACKOfoSent")
    counted = [(place, name) for place in ("c1", "guest-a", "guest-b") for name in names] + [("c1", "TCPTimeouts")]
    now = counters(stage)
    return {f"{name} at {place}": grown for place, name in counted if (grown := now[place, name] - before[place, name])}


def test_clients_wait_for_a_guest_that_stands_still_for_long_and_repeat_nothing(answering):
    answering.boot()
    client = answering.load(bulk=False, connect_hz=0)
    before = counters(answering)
    for source, destination in (("a", "b"), ("b", "a")):
        report = stand_still(answering, source, destination)
        assert (report["outcome"], report["reason"]) == ("completed", "")
        assert report["resumed_ns"] - report["paused_ns"] > 400_000_000
        time.sleep(0.5)
    assert sent_again(answering, before) == {}
    assert all(event["answers"] >= 10 and event["refused"] == 0 for event in answering.events("held"))
    answering.check_guest("a", resumes=3)
    stand_still(answering, "a", "b", zero_window=False)
    time.sleep(0.5)
    # Most of these send nothing: the segment is still held in the same kernel, which here serves all hosts.
    assert sent_again(answering, before)["TCPTimeouts at c1"] >= 10
    assert answering.events("held")[-1]["answers"] == 0
    answering.check_guest("b")
    answering.check_unharmed(client)


@pytest.mark.parametrize("answering", ["ipv4"], indirect=True)
@pytest.mark.parametrize("failing", [{"fail_there": "restore"}, {"fail_at": "await-ready"}, {"fail_at": "relinquish"}])
def test_what_was_acknowledged_for_a_guest_that_did_not_leave_is_given_back(answering, failing):
    answering.boot()
    client = answering.load(bulk=False, connect_hz=0)
    before = counters(answering)
    assert stand_still(answering, "a", "b", **failing)["outcome"] == "failed"
    time.sleep(0.5)
    assert sent_again(answering, before) == {}
    (returned,) = answering.events("returned")
    assert returned["frames"] >= 10
    answering.wait_until(lambda: answering.events("held"))
    assert answering.events("held")[0]["answers"] >= 10
    answering.check_guest("a", resumes=2)
    assert stand_still(answering, "a", "b")["outcome"] == "completed"
    answering.check_guest("b")
    answering.check_unharmed(client)


def test_a_destination_that_cannot_answer_refuses_to(holding):
    holding.boot()
    client = holding.load(bulk=False)
    report = holding.migrate("a", "b", zero_window=True)
    assert report["outcome"] == "failed"
    assert "was not started to answer for its guest" in report["reason"]
    holding.check_guest("a")
    holding.check_unharmed(client)


@pytest.mark.parametrize("answering", ["ipv4"], indirect=True)
def test_nothing_is_acknowledged_that_finds_no_room(answering):
    answering.boot()
    client = answering.load()
    report = stand_still(answering, "a", "b", hold_limit_bytes=3000)
    assert report["outcome"] == "completed"
    answering.wait_until(lambda: answering.events("held"))
    (held,) = answering.events("held")
    assert held["refused"] > 0
    assert held["answers"] == 0
    answering.check_guest("b")
    answering.check_unharmed(client)
