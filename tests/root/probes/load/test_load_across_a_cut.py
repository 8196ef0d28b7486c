"""The load over a real path that is cut for a known time: what it records must be the cut."""

import os
import time
from pathlib import Path

import pytest
from tests.realtime import is_permitted

from unnoticed.events import read_events
from unnoticed.probes.records import read_probes, read_requests
from unnoticed.workload import Kind

pytestmark = pytest.mark.root

GUEST_IP, PORT, PROBE_PORT = "10.99.0.2", 7000, 7001


def test_a_cut_path_delays_every_request_meant_in_it_loses_none_and_shows_in_the_kernels_counters(pair, tmp_path):
    client = pair.child(
        "client",
        {
            "client": "c1",
            "guest": GUEST_IP,
            "port": PORT,
            "events": str(tmp_path / "events.jsonl"),
            "records": str(tmp_path),
            "request_response": {"connections": 5, "rate_hz": 500},
            "connect": {"rate_hz": 50},
        },
    )
    pair.command(client, "start")
    time.sleep(0.3)
    (from_ns, until_ns), _ = pair.cut(0.3)
    time.sleep(1.2)
    pair.command(client, "stop")
    done = pair.reply(client)

    records = read_requests(tmp_path / "c1.requests.npz")
    assert records.right.all()
    meant = (records.intended_ns > from_ns) & (records.intended_ns < until_ns) & (records.sent_ns < until_ns)
    sent = meant & (records.sent_ns > from_ns)
    assert int((sent & (records.workload == Kind.REQUEST)).sum()) > 50
    assert int((sent & (records.workload == Kind.CONNECT)).sum()) > 5
    assert (records.answered_ns[sent] > until_ns).all()

    sockets = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "socket"]
    assert all(event["integrity"] and event["reason"] == "close" for event in sockets)
    assert done["resets"] == 0
    requests = [event for event in sockets if event["workload"] == "request"]
    assert len(requests) == 5
    assert all(event["total_retrans"] >= 1 for event in requests)
    repeated_connects = [event for event in sockets if event["workload"] == "connect" and event["total_retrans"]]
    assert len(repeated_connects) >= int((sent & (records.workload == Kind.CONNECT)).sum())  # their SYNs


def test_probes_sent_into_a_cut_are_lost_and_those_to_the_control_server_are_not(pair, tmp_path):
    common = {"events": str(tmp_path / "events.jsonl"), "realtime": True}
    echo = pair.child("echo", {**common, "ip": "127.0.0.1", "port": PROBE_PORT})
    prober = pair.child(
        "prober",
        {
            **common,
            "client": "c1",
            "targets": [
                {"stream": 0, "ip": GUEST_IP, "port": PROBE_PORT},
                {"stream": 1, "ip": "127.0.0.1", "port": PROBE_PORT},
            ],
            "records": str(tmp_path),
            "rate_hz": 1000,
        },
    )
    for process in (echo, prober):
        assert os.sched_getscheduler(process.pid) == (os.SCHED_FIFO if is_permitted() else os.SCHED_OTHER)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "VmLck:\t       0 kB" not in status
    pair.command(prober, "start")
    time.sleep(0.3)
    (from_ns, until_ns), (before_ns, after_ns) = pair.cut(0.2)
    time.sleep(0.3)
    pair.command(prober, "stop")
    assert pair.reply(prober)["errors"] == {}

    records = read_probes(tmp_path / "c1.probe.npz")
    sent, lost = records.sent_ns != 0, (records.sent_ns != 0) & (records.answered_ns == 0)
    to_guest = records.stream == 0
    inside = sent & (records.sent_ns > from_ns) & (records.sent_ns < until_ns)
    outside = sent & ((records.sent_ns < before_ns - 1_000_000) | (records.sent_ns > after_ns))
    assert int((inside & to_guest).sum()) > 100
    assert lost[inside & to_guest].all()
    assert not lost[outside & to_guest].any()
    assert not lost[~to_guest].any()
    refused = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "not-realtime"]
    assert [event["detail"].split(" (")[0] for event in refused] == ["SCHED_FIFO was refused"] * (
        0 if is_permitted() else 2
    )
