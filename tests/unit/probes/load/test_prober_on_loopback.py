"""The prober and the echo as the runner starts them, on loopback."""

import os
import signal
import time

import numpy as np
import pytest

from unnoticed.events import read_events
from unnoticed.probes.records import read_probes


@pytest.fixture
def probe(child, tmp_path):
    def start(*targets, **settings):
        base = {
            "client": "c1",
            "targets": [{"stream": stream, "ip": "127.0.0.1", "port": port} for stream, port in enumerate(targets)],
            "records": str(tmp_path),
            "events": str(tmp_path / "events.jsonl"),
            "rate_hz": 500,
            "realtime": False,
        }
        return child("prober", {**base, **settings})

    return start


@pytest.fixture
def echo(child):
    return child("echo", {"ip": "127.0.0.1", "port": 0, "realtime": False})


def test_every_probe_is_answered_by_both_and_intended_at_even_times(probe, guest, echo, tmp_path):
    done = probe(guest().echo_port, echo.ready["port"]).run(0.4)
    records = read_probes(tmp_path / "c1.probe.npz")
    for stream in (0, 1):
        rows = records.stream == stream
        sent = records.sent_ns[rows] != 0
        assert records.sequence[rows].tolist() == list(range(done["slots"]))
        assert set(records.intended_ns[rows][1:] - records.intended_ns[rows][:-1]) == {2_000_000}
        assert (records.sent_ns[rows] >= records.intended_ns[rows])[sent].all()
        assert (records.answered_ns[rows] != 0).tolist() == sent.tolist()
        assert int((~sent).sum()) == done["skipped"]
    assert done["slots"] > 100
    assert done["errors"] == {}
    assert echo.stop()["echoed"] == int((records.stream[records.sent_ns != 0] == 1).sum())


def test_probes_that_nobody_answers_are_lost_and_their_errors_do_not_stop_the_prober(probe, guest, echo, tmp_path):
    """The port is closed: each probe brings an ICMP error, which the kernel reports by refusing the next call."""
    closed = guest()
    closed.stopped = True
    closed.join()
    done = probe(closed.echo_port, echo.ready["port"]).run(0.3)
    records = read_probes(tmp_path / "c1.probe.npz")
    sent = records.sent_ns != 0
    assert sent.sum() > 100
    assert (records.answered_ns[records.stream == 0] == 0).all()
    assert (records.answered_ns[(records.stream == 1) & sent] != 0).all()
    assert done["errors"]["Connection refused"] > 10


def test_a_prober_that_stood_skips_what_it_missed_and_says_so(probe, guest, tmp_path):
    prober = probe(guest().echo_port)
    prober.command("start")
    time.sleep(0.2)
    os.kill(prober.process.pid, signal.SIGSTOP)
    time.sleep(0.2)
    os.kill(prober.process.pid, signal.SIGCONT)
    time.sleep(0.1)
    done = prober.stop()
    records = read_probes(tmp_path / "c1.probe.npz")
    skipped = records.sent_ns == 0
    assert int(skipped.sum()) == done["skipped"] >= 90
    assert (records.answered_ns[~skipped] != 0).all()
    late = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "late"]
    assert sum(event["skipped"] for event in late) == done["skipped"]
    assert max(event["late_ns"] for event in late) == done["late_max_ns"] > 150_000_000
    # No bunching: what was sent is the slot that was current, so no two lie closer than their slots do, less lateness.
    # But for one at most: that which it was about to send when it was stopped.
    lateness = np.sort((records.sent_ns - records.intended_ns)[~skipped])
    assert lateness[-2] < 100_000_000


def test_answers_are_stamped_when_they_arrive_and_not_when_they_are_read(probe, guest, tmp_path):
    """The prober wakes every 50 ms; by its own clock every answer would be 50 ms old."""
    probe(guest().echo_port, rate_hz=20).run(0.6)
    records = read_probes(tmp_path / "c1.probe.npz")
    latency_ns = (records.answered_ns - records.sent_ns)[records.answered_ns != 0]
    assert len(latency_ns) > 8
    assert (latency_ns < 40_000_000).sum() > len(latency_ns) // 2


def test_prober_and_echo_whose_parent_dies_are_gone(probe, guest, echo):
    prober = probe(guest().echo_port)
    prober.command("start")
    for each in (prober, echo):
        each.process.stdin.close()
        assert each.process.wait(5) == 1
        each.process.stdin = open("/dev/null", "wb")  # noqa: SIM115, PTH123 (for the fixture to close)
