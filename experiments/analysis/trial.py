"""From the raw records of a trial to its tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unnoticed.experiments.analysis.brownout import Brownout
from unnoticed.experiments.analysis.downtime import Downtime
from unnoticed.experiments.analysis.flows import FlowTables, analyse_flows
from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.experiments.analysis.timeline import timeline_table
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.planning.settings import PAGE_BYTES
from unnoticed.probes.outages import Outage
from unnoticed.results.schema import NEW_CONNECTION, REQUEST_LATENCY, TIME_STAMP, empty
from unnoticed.workload import Kind

_NOTABLE_LATE = 0.02


def analyse(trial: Trial, folder: Path) -> Mapping[str, pd.DataFrame]:
    """All tables of one trial, by name. Raises RecordError where its records are incomplete."""
    raw = RawRecords(folder, trial.settings)
    flows = analyse_flows(raw)
    downtime = Downtime(raw, flows.retransmits)
    brownout = Brownout(raw)
    tables = {
        "rounds": _rounds(raw),
        "encodings": _encodings(raw),
        "steps": _steps(raw),
        "faults": _faults(raw),
        "flows": flows.flows,
        "retransmits": flows.retransmits,
        "outages": downtime.outages_table(),
        "requests": _requests(raw),
        "brownout": brownout.table(),
        "relearned": downtime.relearned_table(),
        "links": _links(raw),
        "waterfall": downtime.waterfall_table(),
        "timeline": timeline_table(raw),
        "stalls": downtime.stalls_table(),
        "captures": _captures(raw, flows),
    }
    tables["trials"] = pd.DataFrame([_trial(raw, flows, downtime, tables) | brownout.of_trial()])
    return {name: table.assign(trial_id=trial.id) for name, table in tables.items()}


def _trial(
    raw: RawRecords, flows: FlowTables, downtime: Downtime, tables: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """The row of the trials table that the measurement gives; the plan's part is the runner's."""
    migration, worst = raw.migration, downtime.worst
    table, again = flows.flows, flows.retransmits
    by_sender = table.groupby("sender")["retransmits"].sum()
    cutover = again[again["phase"] == "cutover"]
    in_phase = again.groupby("phase")["segments"].sum()
    held = next(raw.named("held"), None)
    known = table[table["kernel_retransmits"].notna()]
    pages = tables["rounds"]["pages"].tolist()
    ram = next(raw.named("ram"), None)
    complete = bool(len(tables["captures"])) and bool(tables["captures"]["complete"].all())
    return {
        "outcome": migration.outcome,
        "reason": next((event["reason"] for event in raw.named("lost")), migration.reason) or None,
        "blackout_ns": migration.blackout_ns,
        "total_ns": None if migration.completed_ns is None else migration.completed_ns - migration.start_ns,
        "rounds": migration.rounds,
        "bytes_sent": migration.bytes_sent,
        "tracker": migration.tracker,
        "codec": migration.codec,
        "rto_min_ns": migration.rto_min_ns,
        "rounds_shrink": all(after < before for before, after in itertools.pairwise(pages)) if pages else None,
        "perceived_ns": worst.outage_ns,
        "perceived_low_ns": worst.low_ns,
        "perceived_high_ns": worst.high_ns,
        "slowest_request_ns": _longest(tables["outages"], REQUEST_LATENCY),
        "slowest_connect_ns": _longest(tables["outages"], NEW_CONNECTION),
        "unfinished": _unfinished(tables["outages"]),
        "retransmits": int(table["retransmits"].sum()),
        "client_retransmits": int(by_sender.get("client", 0)),
        "guest_retransmits": int(by_sender.get("guest", 0)),
        "worst_flow_retransmits": int(table["retransmits"].max()) if len(table) else 0,
        "cutover_retransmits": int(cutover["segments"].sum()),
        "worst_flow_cutover_retransmits": int(cutover.groupby("flow")["segments"].sum().max()) if len(cutover) else 0,
        "rounds_retransmits": int(in_phase.get("rounds", 0)),
        "push_retransmits": int(in_phase.get("push", 0)),
        "after_retransmits": int(in_phase.get("after", 0)),
        "held_frames": held["frames"] if held is not None else None,
        "held_refused": held["refused"] if held is not None else None,
        "held_answers": held["answers"] if held is not None else None,
        **_later_pages(raw, tables["faults"]),
        "resets": sum(1 for event in raw.named("reset")),
        "host_stall_ns": downtime.longest_stall_ns,
        "integrity": _integrity(table, tables["requests"], ram),
        "captures_complete": complete,
        "kernel_agrees": bool((known["retransmits"] == known["kernel_retransmits"]).all()),
        "start_ns": migration.start_ns,
        "paused_ns": migration.paused_ns,
        "resumed_ns": migration.resumed_ns,
        "end_ns": migration.end_ns,
        "disturbed": downtime.disturbed,
        "notes": " ".join([*_notes(raw, table, tables["requests"], ram, worst), *_differing(tables["captures"])])
        or None,
    }


def _later_pages(raw: RawRecords, faults: pd.DataFrame) -> dict[str, int | None]:
    """What came after the guest; None throughout where nothing did, or not all of it."""
    pages = next(raw.named("pages"), None)
    if pages is None or raw.migration.completed_ns is None or raw.migration.resumed_ns is None:
        names = ("catch_up_ns", "faults", "fault_p50_ns", "fault_p99_ns", "fault_max_ns")
        return dict.fromkeys((*names, "pushed_bytes", "demanded_bytes"))
    latencies = faults["latency_ns"].to_numpy(dtype="float64")

    def latency(share: float) -> int | None:
        return int(np.quantile(latencies, share)) if len(latencies) else None

    return {
        "catch_up_ns": raw.migration.completed_ns - raw.migration.resumed_ns,
        "faults": len(latencies),
        "fault_p50_ns": latency(0.5),
        "fault_p99_ns": latency(0.99),
        "fault_max_ns": latency(1.0),
        "pushed_bytes": int(pages["pushed_pages"]) * PAGE_BYTES,
        "demanded_bytes": int(pages["demanded_pages"]) * PAGE_BYTES,
    }


def _longest(outages: pd.DataFrame, estimator: str) -> int | None:
    """The longest of the clients' values by one estimator; None where no client has one."""
    values = outages.loc[outages["estimator"] == estimator, "outage_ns"]
    return int(values.max()) if len(values) else None


def _unfinished(outages: pd.DataFrame) -> bool:
    """Whether a client still waited when the trial was judged."""
    waits = outages[outages["estimator"].isin([TIME_STAMP, REQUEST_LATENCY, NEW_CONNECTION])]
    return bool(waits["high_ns"].isna().any())


def _integrity(flows: pd.DataFrame, requests: pd.DataFrame, ram: Mapping[str, Any] | None) -> bool:
    """No byte of any flow lost, repeated or changed, every answer that came the right one, and RAM as it must be."""
    answered = requests[requests["answered_ns"].notna()]
    return (
        bool(flows["integrity"].all())
        and bool(answered["right"].all())
        and ram is not None
        and int(ram["wrong_pages"]) == 0
    )


def _notes(
    raw: RawRecords, flows: pd.DataFrame, requests: pd.DataFrame, ram: Mapping[str, Any] | None, worst: Outage
) -> list[str]:
    """What the reader of the row must know."""
    notes: list[str] = []
    if not raw.clock_is_steady:
        notes.append(
            f"The realtime clock moved by {raw.clock_moved_ns / 1e3:.0f} us: times from captures are off by that."
        )
    if unsent := int(requests["sent_ns"].isna().sum()):
        notes.append(
            f"Of {len(requests)} requests and new connections that were due, {unsent} could not be sent, since too "
            "many were open: the load was less than asked for, and what these would have waited is not known."
        )
    unread = int(flows["kernel_retransmits"].isna().sum())
    if unread:
        notes.append(f"The kernel's counters of {unread} of {len(flows)} flows were not read.")
    if worst.censored and worst.end_ns is None:
        notes.append("A client was still without answers when the trial ended: its outage is a lower bound.")
    elif worst.censored:
        notes.append("A client had no answers from its first probe on: its outage is a lower bound.")
    if ram is None:
        notes.append("The guest's RAM was not checked.")
    elif skipped := int(ram.get("pages_skipped", 0)):
        asked = int(ram["pages_written"]) + skipped
        notes.append(
            f"The guest could not dirty its memory as fast as asked: {skipped / asked:.1%} of it was left out."
        )
    for event in raw.named("trouble"):
        notes.append(f"At {event['place']}, {event['step']} failed when there was no way back: {event['reason']}")
    for event in raw.named("held"):
        if event["refused"]:
            notes.append(f"Where frames were held there was no room for {event['refused']} of them: they were lost.")
        if event["overdue"]:
            notes.append("Frames were held for as long as the plan allows: what came later was lost.")
    for event in raw.named("announcement-unseen"):
        notes.append(
            f"The announcement of the guest at its destination was not seen at {event['place']}: what came there "
            "after it had left was sent after it, for a while."
        )
    if lost := sum(1 for _ in raw.named("connection-lost")):
        notes.append(f"{lost} connections had ended before they could be moved.")
    for event in raw.named("link-missed"):
        notes.append(f"The link {event['link']} was never changed ({event['change']}): {event['moment']} never came.")
    held = [counts for event in raw.named("links") for counts in event["relay"].values()]
    late, sent = sum(counts["late"] for counts in held), sum(counts["sent"] for counts in held)
    if late > _NOTABLE_LATE * sent:
        latest_ms = max(counts["latest_ns"] for counts in held) / 1e6
        notes.append(
            f"Of the frames on links with a delay, {late / sent:.1%} came more than 0.3 ms late, by up to "
            f"{latest_ms:.1f} ms: this machine was too busy to keep them on time."
        )
    return notes


def _differing(captures: pd.DataFrame) -> list[str]:
    """Where the kernel of a namespace counted other retransmissions than the captures show."""
    known = captures.dropna(subset=["retransmits", "kernel_retransmits"])
    columns = (known[name].tolist() for name in ("point", "retransmits", "kernel_retransmits"))
    return [
        f"From {point} {ours:.0f} segments were sent again, but {kernels:.0f} by the kernel's counter of its namespace."
        for point, ours, kernels in zip(*columns, strict=True)
        if ours != kernels
    ]


def _rounds(raw: RawRecords) -> pd.DataFrame:
    rows = []
    # Where it took long until new connections waited, what was dirty after a round was looked for once more.
    again = {(event["migration"], event["round"]): event["dirty_pages"] for event in raw.named("looked-again")}
    for event in raw.named("round"):
        duration_ns = int(event["end_ns"]) - int(event["start_ns"])
        rows.append(
            {
                "migration": str(event["migration"]),
                "round": event["round"],
                "start_ns": event["start_ns"],
                "duration_ns": duration_ns,
                "pages": event["pages"],
                "bytes": event["bytes"],
                "wire_bytes": event["wire_bytes"],
                "dirty_pages": again.get((event["migration"], event["round"]), event["dirty_pages"]),
                "dirty_pages_per_s": event["dirty_pages"] * 1e9 / duration_ns if duration_ns else None,
                "bit_per_s": event["bytes"] * 8e9 / duration_ns if duration_ns else None,
                "rate_limit_bit_per_s": event.get("rate_limit_bit_per_s"),
                "throttle": event.get("throttle_ppm", 0) / 1e6,
                "throttled_ns": event.get("throttled_ns", 0),
            }
        )
    return pd.DataFrame(rows, columns=_columns("rounds"))


def _encodings(raw: RawRecords) -> pd.DataFrame:
    rows = [
        {
            "migration": str(event["migration"]),
            "round": event.get("round"),
            "encoding": encoding,
            "pages": pages,
            "bytes": pages * PAGE_BYTES,
            "wire_bytes": wire_bytes,
        }
        for event in itertools.chain(raw.named("round"), raw.named("rest"))
        for encoding, (pages, wire_bytes) in event["encodings"].items()
    ]
    return pd.DataFrame(rows, columns=_columns("encodings"))


def _steps(raw: RawRecords) -> pd.DataFrame:
    rows = [
        {
            **{name: event[name] for name in ("step", "place", "start_ns", "end_ns")},
            "migration": str(event["migration"]),
        }
        for event in raw.named("step")
    ]
    return pd.DataFrame(rows, columns=_columns("steps"))


def _faults(raw: RawRecords) -> pd.DataFrame:
    rows = [
        {"migration": str(event["migration"]), "start_ns": start_ns, "latency_ns": latency_ns}
        for event in raw.named("faults")
        for start_ns, latency_ns in zip(event["start_ns"], event["latency_ns"], strict=True)
    ]
    return pd.DataFrame(rows, columns=_columns("faults"))


def _links(raw: RawRecords) -> pd.DataFrame:
    columns = _columns("links")
    return pd.DataFrame([{name: event[name] for name in columns} for event in raw.named("link")], columns=columns)


def _captures(raw: RawRecords, flows: FlowTables) -> pd.DataFrame:
    rows = [
        {
            **{name: event[name] for name in ("point", "frames", "packets", "drops")},
            "complete": event["drops"] == 0 and event["frames"] == event["packets"],
            "retransmits": flows.by_point.get(event["point"]),
            "kernel_retransmits": event.get("kernel_retransmits"),
        }
        for event in raw.captures
    ]
    return pd.DataFrame(rows, columns=_columns("captures"))


def _requests(raw: RawRecords) -> pd.DataFrame:
    frames = []
    for client in raw.clients:
        records = raw.requests(client)
        frames.append(
            pd.DataFrame(
                {
                    "client": client,
                    "workload": [Kind(kind).name.lower() for kind in records.workload],
                    "connection": records.connection.astype("int64"),
                    "sequence": records.sequence,
                    "intended_ns": records.intended_ns,
                    "sent_ns": pd.Series(records.sent_ns, dtype="Int64").replace(0, pd.NA),
                    "answered_ns": pd.Series(records.answered_ns, dtype="Int64").replace(0, pd.NA),
                    "right": records.right,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)[_columns("requests")]


def _columns(table: str) -> list[str]:
    return [str(name) for name in empty(table).columns if name != "trial_id"]
