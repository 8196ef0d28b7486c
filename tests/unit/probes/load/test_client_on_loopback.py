"""The load client as the runner starts it, against a guest of the tests on loopback."""

import time
from collections import Counter

import numpy as np
import pytest

from unnoticed.events import read_events
from unnoticed.probes.records import read_requests
from unnoticed.workload import HELLO, Kind

EVERYTHING = {
    "request_response": {"connections": 5, "rate_hz": 500},
    "download": {"connections": 1},
    "upload": {"connections": 2},
    "connect": {"rate_hz": 50},
}


def events_of(tmp_path, name):
    path = tmp_path / "events.jsonl"
    return [event for event in read_events(path) if event["event"] == name] if path.exists() else []


def test_all_workloads_together_end_in_order_with_every_byte_right(guest, client, tmp_path):
    server = guest()
    done = client(server, **EVERYTHING).run(0.6)
    sockets = events_of(tmp_path, "socket")
    records = read_requests(tmp_path / "c1.requests.npz")

    assert [event for event in sockets if not event["integrity"] or event["detail"] or event["wrong_bytes"]] == []
    assert {event["reason"] for event in sockets} == {"close"}
    kinds = Counter(event["workload"] for event in sockets)
    connects = int((records.workload == Kind.CONNECT).sum())
    assert kinds == {"request": 5, "download": 1, "upload": 2, "connect": connects}
    assert connects > 10
    assert len({event["connection"] for event in sockets}) == len(sockets) == done["connections"]
    assert all(event["connection"] >> 32 == 1 for event in sockets)
    assert {event["remote"] for event in sockets} == {f"127.0.0.1:{server.port}"}
    assert len({event["local"] for event in sockets}) == len(sockets)

    uploads = [event for event in sockets if event["workload"] == "upload"]
    uploads = {event["connection"]: event["bytes_sent"] - HELLO.size for event in uploads}
    assert uploads == server.uploads
    assert min(uploads.values()) > 1_000_000
    downloaded = [event["bytes_received"] for event in sockets if event["workload"] == "download"]
    assert sum(downloaded) == done["bytes_downloaded"] > 1_000_000

    assert len(records) == done["requests"] == done["answered"] == done["right"]
    assert records.right.all()
    assert (done["resets"], done["unfinished"], done["unsent"], done["wrong_bytes"]) == (0, 0, 0, 0)


def test_requests_are_meant_at_even_times_and_spread_over_the_connections(guest, client, tmp_path):
    client(guest(), request_response={"connections": 4, "rate_hz": 400}).run(0.4)
    records = read_requests(tmp_path / "c1.requests.npz")
    assert set(np.diff(records.intended_ns)) == {2_500_000}
    assert records.connection[:8].tolist() == [(1 << 32) + number for number in (1, 2, 3, 4)] * 2
    for connection in set(records.connection):
        sequences = records.sequence[records.connection == connection]
        assert sequences.tolist() == list(range(1, len(sequences) + 1))
    assert (records.sent_ns >= records.intended_ns).all()


def test_a_frozen_guest_delays_every_request_that_was_meant_while_it_stood(guest, client, tmp_path):
    """No coordinated omission: a client that waited for answers would have one late request per connection."""
    server = guest()
    load = client(server, request_response={"connections": 5, "rate_hz": 1000}, connect={"rate_hz": 100})
    load.command("start")
    time.sleep(0.3)
    server.freeze_s = 0.3
    time.sleep(0.6)
    load.stop()
    records = read_requests(tmp_path / "c1.requests.npz")
    begin_ns, end_ns = server.frozen_from_ns, server.frozen_until_ns
    for kind, rate_hz in ((Kind.REQUEST, 1000), (Kind.CONNECT, 100)):
        chosen = (records.workload == kind) & (records.intended_ns > begin_ns) & (records.intended_ns < end_ns)
        expected = (end_ns - begin_ns) * rate_hz / 1e9
        assert abs(int(chosen.sum()) - expected) <= 1
        assert records.right[chosen].all()
        assert (records.answered_ns[chosen] >= end_ns).all()
        # They left while it stood, not in one burst afterwards: 50 of them are enough to show it on a busy machine.
        assert len(set((records.sent_ns[chosen] - begin_ns) // 5_000_000)) > 10
    latency_ns = records.answered_ns - records.intended_ns
    waited = latency_ns[(records.intended_ns > begin_ns) & (records.intended_ns < end_ns)]
    assert waited.max() > 250_000_000


def test_a_wrong_byte_of_a_download_is_found_with_its_position(guest, client, tmp_path):
    done = client(guest(corrupt_download_at=777_777), download={"connections": 1}).run(0.4)
    (socket,) = events_of(tmp_path, "socket")
    assert (socket["integrity"], socket["wrong_bytes"], done["wrong_bytes"]) == (False, 1, 1)
    assert "the first at position 777777" in socket["detail"]
    assert socket["bytes_received"] > 777_777


def test_a_connection_that_is_reset_is_an_event_and_a_new_one_takes_its_place(guest, client, tmp_path):
    done = client(guest(reset_after=40), request_response={"connections": 2, "rate_hz": 200}).run(0.7)
    resets = events_of(tmp_path, "reset")
    reopened = events_of(tmp_path, "reopened")
    sockets = {event["connection"]: event for event in events_of(tmp_path, "socket")}
    assert {event["connection"] for event in resets} == {(1 << 32) + 1, (1 << 32) + 2}
    assert {event["workload"] for event in resets} == {"request"}
    assert {event["detail"] for event in resets} == {"Connection reset by peer"}
    assert done["resets"] == 2
    assert {event["instead_of"] for event in reopened} == {event["connection"] for event in resets}

    records = read_requests(tmp_path / "c1.requests.npz")
    for reset in resets:
        dead = sockets[reset["connection"]]
        assert (dead["reason"], dead["integrity"]) == ("reset", False)
        assert dead["bytes_received"] == 39 * 32
        rows = records.connection == reset["connection"]
        assert records.right[rows].tolist()[:39] == [True] * 39
        assert (records.answered_ns[rows][39:] == 0).all()
    for event in reopened:
        rows = records.connection == event["connection"]
        assert records.sequence[rows].tolist() == list(range(1, int(rows.sum()) + 1))
        assert records.right[rows].all()
        assert sockets[event["connection"]]["reason"] == "close"
    assert set(np.diff(records.intended_ns)) == {5_000_000}


def test_a_refused_connection_is_an_event_each_time(guest, client, tmp_path):
    server = guest()
    server.stopped = True
    server.join()
    done = client(server, connect={"rate_hz": 50}, upload={"connections": 1}).run(0.3)
    resets = events_of(tmp_path, "reset")
    assert {event["detail"] for event in resets} == {"connecting failed: Connection refused"}
    assert len(resets) == done["resets"] == done["connections"] == done["requests"] + 1
    assert done["answered"] == 0
    assert all(event["integrity"] for event in events_of(tmp_path, "socket"))  # they lost no byte: they carried none
    assert (read_requests(tmp_path / "c1.requests.npz").answered_ns == 0).all()


def test_attempts_without_an_answer_pile_up_to_the_limit_and_are_marked_when_given_up(guest, client, tmp_path):
    done = client(guest(silent=True), connect={"rate_hz": 2000}, grace_s=0.2).run(0.5)
    sockets = events_of(tmp_path, "socket")
    assert len(sockets) == done["unfinished"] == done["connections"] == 512
    assert done["unsent"] == done["requests"] - 512 > 0
    assert {event["reason"] for event in sockets} == {"final"}
    assert all("no answer" in event["detail"] and not event["integrity"] for event in sockets)
    records = read_requests(tmp_path / "c1.requests.npz")
    assert int((records.sent_ns == 0).sum()) == done["unsent"]


@pytest.mark.parametrize("workload", ["upload", "download"])
def test_a_rate_is_not_exceeded(guest, client, workload):
    begin = time.monotonic()
    done = client(guest(), **{workload: {"connections": 1, "rate_bit_per_s": 40_000_000}}).run(1.0)
    moved = done["bytes_uploaded"] + done["bytes_downloaded"]
    ahead = 4_000_000  # what was in buffers at the start and is taken out at the end
    assert moved <= (time.monotonic() - begin) * 5_000_000 + ahead
    assert moved > 1_000_000


def test_the_guest_is_asked_for_the_rate_of_a_download_and_for_no_other(guest, client, tmp_path):
    server = guest()
    rated = {**EVERYTHING, "download": {"connections": 2, "rate_bit_per_s": 80_000_000}}
    client(server, **rated).run(0.3)
    workloads = {event["connection"]: event["workload"] for event in events_of(tmp_path, "socket")}
    assert server.rates.keys() == workloads.keys()
    asked = {connection: rate for connection, rate in server.rates.items() if workloads[connection] == "download"}
    assert list(asked.values()) == [10_000_000, 10_000_000]
    assert {rate for connection, rate in server.rates.items() if connection not in asked} == {0}


def test_two_processes_of_a_client_share_the_event_log_and_keep_their_records_apart(guest, client, tmp_path):
    server = guest()
    first = client(server, connect={"rate_hz": 50})
    second = client(server, upload={"connections": 1}, records_name="c1-bulk", connection_base=2 << 32)
    first.command("start")
    second.run(0.2)
    first.stop()
    assert {event["connection"] >> 32 for event in events_of(tmp_path, "socket")} == {1, 2}
    assert len(read_requests(tmp_path / "c1.requests.npz")) > 0
    assert len(read_requests(tmp_path / "c1-bulk.requests.npz")) == 0


def test_a_client_that_is_stopped_before_it_was_started_leaves_an_empty_record(guest, client, tmp_path):
    done = client(guest(), **EVERYTHING).stop()
    assert done["connections"] == 0
    assert len(read_requests(tmp_path / "c1.requests.npz")) == 0


def test_a_client_whose_parent_dies_is_gone(guest, client):
    load = client(guest(), **EVERYTHING)
    load.command("start")
    time.sleep(0.1)
    load.process.stdin.close()
    assert load.process.wait(5) == 1
    load.process.stdin = open("/dev/null", "wb")  # noqa: SIM115, PTH123 (for the fixture to close)


def test_schedules_begin_at_points_of_their_own_which_a_seed_gives(guest, client, tmp_path):
    phases = []
    for seed in ("0001/c1", "0001/c2"):
        load = {"request_response": {"connections": 1, "rate_hz": 20}, "connect": {"rate_hz": 20}}
        client(guest(), records_name=seed[-2:], seed=seed, **load).run(0.3)
        records = read_requests(tmp_path / f"{seed[-2:]}.requests.npz")
        requests, connects = (records.intended_ns[records.workload == kind] for kind in (Kind.REQUEST, Kind.CONNECT))
        assert set(np.diff(requests)) == set(np.diff(connects)) == {50_000_000}
        phases.append((connects[0] - requests[0]) % 50_000_000)
    assert phases[0] != phases[1]
    assert 0 not in phases
