"""A bench without a network: it computes the raw records of a trial from a small model, and says what the truth was.

Beside the records of a real trial it leaves `truth.json`: the model's times, and for each connection what its two ends
repeated. Bulk flows are thinned out, so that a trial takes a fraction of a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unnoticed.errors import FabricError
from unnoticed.events import EventLog
from unnoticed.experiments.bench import Progress
from unnoticed.experiments.fake.frames import pcap
from unnoticed.experiments.fake.load import Connection, Load, load_of
from unnoticed.experiments.fake.model import DELAY_NS, MS, RTO_NS, S, Truth, migrate, writes_of
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.planning.settings import PAGE_BYTES, Settings
from unnoticed.tcpinfo import TcpInfo

Fault = Literal["raise", "incomplete-capture", "reset", "interrupt"]

_START_NS = 1_000 * S
_OFFSET_NS = 1_700_000_000 * S
_LONGEST_PHASE_NS = S
_FAULTS, _FAULT_NS = 100, MS // 100  # pages waited for, and the least of their waits: the n-th is n times as long
_NO_INFO = dict.fromkeys(TcpInfo.__dataclass_fields__, 0)


class FakeBench:
    """Performs trials by computing them. `faults` are injected into the trials of these numbers."""

    def __init__(self, *, seed: int = 1, faults: Mapping[int, Fault] | None = None) -> None:
        self._seed = seed
        self._faults = dict(faults or {})
        self.performed: list[str] = []
        self.closed = False

    def perform(self, trial: Trial, folder: Path, progress: Progress) -> None:
        """See Bench. The same seed and trial give the same records, byte for byte."""
        fault = self._faults.get(trial.number)
        progress("warm-up")
        if fault == "raise":
            raise FabricError("switch s1 did not come up; this fault was injected.")
        if fault == "interrupt":
            raise KeyboardInterrupt
        self.performed.append(trial.id)
        settings, seed = trial.settings, f"{self._seed}/{trial.id}"
        truth = migrate(
            settings,
            seed=seed,
            trial_start_ns=_START_NS + trial.number * 100 * S,
            warm_up_ns=min(settings.phases.warm_up_ns, _LONGEST_PHASE_NS),
            cool_down_ns=min(settings.phases.cool_down_ns, _LONGEST_PHASE_NS) + S,
        )
        progress("migration")
        loads = {
            client: load_of(settings, client=client, truth=truth, seed=seed, reset=fault == "reset" and client == 1)
            for client in range(1, settings.clients.count + 1)
        }
        progress("records")
        _write_captures(folder, truth, loads, missing=5 if fault == "incomplete-capture" else 0)
        for client, load in loads.items():
            _write_arrays(folder / f"c{client}.requests.npz", load.requests)
            _write_arrays(folder / f"c{client}.probe.npz", load.probes)
        connections = [connection for load in loads.values() for connection in load.connections]
        log = EventLog(folder / "events.jsonl", who="runner")
        log.close()
        held = sum(int((load.rows["late_ns"] > 0).sum()) for load in loads.values())
        lines = sorted(_events(trial, truth, connections, held=held), key=lambda line: int(line["time_ns"]))
        with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        _write_truth(folder, truth, connections)

    def close(self) -> None:
        """See Bench."""
        self.closed = True


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez(path, **arrays)


def _write_captures(folder: Path, truth: Truth, loads: Mapping[int, Load], *, missing: int) -> None:
    captures = folder / "captures"
    captures.mkdir(exist_ok=True)
    points: dict[str, bytes] = {}
    for client, load in loads.items():
        points[f"c{client}"] = pcap(load.rows, at_client=True, one_way_ns=DELAY_NS, realtime_offset_ns=_OFFSET_NS)
    rows = np.concatenate([load.rows[~load.rows["control"]] for load in loads.values()])
    moved = truth.resumed_ns if truth.resumed_ns is not None else 1 << 62
    reaches = rows["sent_ns"] + np.where(rows["from_client"], DELAY_NS + rows["late_ns"], 0)
    for name, these in (("guest-a", reaches < moved), ("guest-b", reaches >= moved)):
        points[name] = pcap(rows[these], at_client=False, one_way_ns=DELAY_NS, realtime_offset_ns=_OFFSET_NS)
    again = {
        f"c{client}": sum(connection.client_retransmits for connection in load.connections)
        for client, load in loads.items()
    }
    log = EventLog(folder / "events.jsonl", who="observer")
    for point, data in points.items():
        (captures / f"{point}.pcap").write_bytes(data)
        frames = _count(data)
        packets = frames + (missing if point == "c1" else 0)
        file = f"captures/{point}.pcap"
        fields: dict[str, Any] = {"point": point, "frames": frames, "packets": packets, "drops": 0, "file": file}
        if point in again:
            fields["kernel_retransmits"] = again[point]
        log.write("capture", time_ns=truth.trial_end_ns, **fields)
    log.close()


def _count(data: bytes) -> int:
    at, frames = 24, 0
    while at < len(data):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        frames += 1
    return frames


def _events(trial: Trial, truth: Truth, connections: Iterable[Connection], *, held: int) -> Iterable[dict[str, Any]]:
    def line(time_ns: int, who: str, event: str, **fields: Any) -> dict[str, Any]:
        return {"time_ns": time_ns, "who": who, "event": event, **fields}

    start, end = truth.trial_start_ns, truth.trial_end_ns
    yield line(start, "runner", "clock", offset_ns=_OFFSET_NS, at="start")
    yield line(start, "runner", "phase", phase="warm-up")
    yield line(truth.start_ns, "runner", "phase", phase="migration")
    yield line(truth.end_ns, "runner", "phase", phase="cool-down")
    yield line(end - 300 * MS, "runner", "phase", phase="quiesce")
    yield line(end, "runner", "phase", phase="end")
    yield line(end, "runner", "clock", offset_ns=_OFFSET_NS, at="stop")
    for number, entry in enumerate(truth.rounds):
        yield line(
            entry.end_ns,
            "agent-a",
            "round",
            migration=0,
            round=number,
            start_ns=entry.start_ns,
            end_ns=entry.end_ns,
            pages=entry.sent_bytes // PAGE_BYTES,
            bytes=entry.sent_bytes,
            wire_bytes=entry.sent_bytes,
            encodings={"none": [entry.sent_bytes // PAGE_BYTES, entry.sent_bytes]},
            dirty_pages=entry.dirty_bytes // PAGE_BYTES,
            rate_limit_bit_per_s=entry.rate_limit_bit_per_s,
            throttle_ppm=entry.throttle_ppm,
            throttled_ns=(entry.end_ns - entry.start_ns) * entry.throttle_ppm // 10**6,
        )
    for step, place, began, ended in truth.steps():
        yield line(ended, f"agent-{place}", "step", migration=0, step=step, place=place, start_ns=began, end_ns=ended)
    sent = sum(entry.sent_bytes for entry in truth.rounds)
    if truth.outcome == "completed":
        sent += truth.rounds[-1].dirty_bytes if truth.rounds else trial.settings.guest.memory_bytes
    if truth.later_bytes and truth.resumed_ns is not None and truth.completed_ns is not None:
        pages = truth.later_bytes // PAGE_BYTES
        waits = {"start_ns": [truth.resumed_ns + number * MS for number in range(_FAULTS)]}
        latencies = [_FAULT_NS * (number + 1) for number in range(_FAULTS)]
        yield line(truth.completed_ns, "agent-b", "faults", migration=0, **waits, latency_ns=latencies)
        came = {"pushed_pages": pages - _FAULTS, "demanded_pages": _FAULTS, "twice_pages": 0}
        yield line(truth.completed_ns, "agent-b", "pages", migration=0, **came)
    announce = trial.settings.migration.announce
    if truth.announced_ns is not None and announce != "none":
        yield line(truth.announced_ns, "agent-b", "announced", migration=0, place="b", frames=1, announce=announce)
    if truth.held is not None:
        yield line(
            truth.held[1],
            "agent-b",
            "held",
            **{"migration": 0, "place": "b", "frames": held, "bytes": held * 100},
            **{"late": 0, "refused": 0, "overdue": False, "answers": 0},
        )
    yield from _dirtier(trial.settings, truth)
    yield line(truth.end_ns, "agent-a", "migration", **_migration(trial.settings, truth, sent))
    taught_ns = truth.held[0] if truth.held is not None else truth.probe_cut[1] - MS // 5 if truth.probe_cut else None
    if taught_ns is not None:
        for number, switch in enumerate(("s1", "s2", "s3") if trial.settings.fabric.shape == "tree" else ("s1",)):
            when = taught_ns + number * MS // 50
            ports = {"port": f"{switch}-eth2", "previous": f"{switch}-eth1"}
            yield line(when, "observer", "relearned", switch=switch, **ports, toward="b", mac="02:77:00:00:00:64")
    yield line(end, f"agent-{'b' if truth.resumed_ns else 'a'}", "ram", pages=1000, wrong_pages=0)
    for connection in connections:
        yield from _sockets(connection, truth)


def _dirtier(settings: Settings, truth: Truth) -> Iterable[dict[str, Any]]:
    """Its counters, by the agent of the host that the guest is at."""
    _, rate = writes_of(settings.guest)
    moved = truth.resumed_ns if truth.resumed_ns is not None else truth.trial_end_ns
    for who, start, end in (("guest-a", truth.trial_start_ns, moved), ("guest-b", moved, truth.trial_end_ns)):
        samples = []
        for time_ns in range(start, end, 20 * MS):
            written, left_out = truth.written_bytes(time_ns, rate_bytes_per_s=rate)
            samples.append((time_ns, written // PAGE_BYTES, left_out // PAGE_BYTES))
        if samples:
            yield {"time_ns": end, "who": who, "event": "dirtier", "samples": samples}


def _migration(settings: Settings, truth: Truth, sent: int) -> dict[str, Any]:
    return {
        "migration": 0,
        "outcome": truth.outcome,
        "reason": truth.reason,
        "source": "a",
        "destination": "b",
        "mode": settings.migration.mode,
        "policy": settings.migration.policy,
        "total_ns": truth.end_ns - truth.start_ns,
        "paused_ns": truth.paused_ns,
        "resumed_ns": truth.resumed_ns,
        "blackout_ns": truth.blackout_ns,
        "bytes_sent": sent,
        "rounds": len(truth.rounds),
        "rto_min_ns": RTO_NS,
        "codec": "none",  # the fake has no codecs: all pages go as they are
        "completed_ns": truth.completed_ns,
        "tracker": "userfaultfd-wp" if settings.migration.has_rounds else "none",
        "start_ns": truth.start_ns,
        "end_ns": truth.end_ns,
    }


def _sockets(connection: Connection, truth: Truth) -> Iterable[dict[str, Any]]:
    """The readings of both ends. The guest's counters restart at 0 when its socket is restored at B."""
    local, remote = f"10.77.1.{connection.client}:{connection.port}", "10.77.0.100:7000"
    closed = connection.closed_ns
    info = {**_NO_INFO, "state": 1, "snd_mss": 1448, "rcv_mss": 1448, "rto_us": RTO_NS // 1000}
    common = {"event": "socket", "workload": connection.word, "connection": connection.number, **info}
    opened = connection.frames[0][0]
    moved = truth.paused_ns is not None and opened < truth.paused_ns < closed
    at_client = {"local": local, "remote": remote, "total_retrans": connection.client_retransmits}
    yield {
        "time_ns": closed,
        "who": f"c{connection.client}",
        **common,
        **at_client,
        "reason": "reset" if connection.was_reset else "close",
        "bytes_sent": connection.client_bytes,
        "bytes_received": connection.guest_bytes,
        "wrong_bytes": 0,
        "integrity": not connection.was_reset,
        "detail": "connection reset by peer" if connection.was_reset else "",
    }
    if connection.was_reset:
        detail = {"workload": connection.word, "connection": connection.number, "detail": "connection reset by peer"}
        yield {"time_ns": closed, "who": f"c{connection.client}", "event": "reset", **detail}
    at_guest = {"local": remote, "remote": local, "total_retrans": 0}
    if moved and truth.paused_ns is not None:
        yield {"time_ns": truth.paused_ns + MS, "who": "agent-a", **common, **at_guest, "reason": "dump"}
    place = "b" if truth.resumed_ns is not None and closed > truth.resumed_ns else "a"
    at_guest = {**at_guest, "total_retrans": connection.guest_retransmits}
    yield {"time_ns": closed, "who": f"guest-{place}", **common, **at_guest, "reason": "close"}


def _write_truth(folder: Path, truth: Truth, connections: Iterable[Connection]) -> None:
    flows = {
        f"10.77.1.{connection.client}:{connection.port}": {
            "workload": connection.word,
            "client_retransmits": connection.client_retransmits,
            "guest_retransmits": connection.guest_retransmits,
            "client_bytes": connection.client_bytes,
            "guest_bytes": connection.guest_bytes,
            "reset": connection.was_reset,
        }
        for connection in connections
    }
    document = {**truth.document(), "rounds": [asdict(entry) for entry in truth.rounds], "flows": flows}
    (folder / "truth.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
