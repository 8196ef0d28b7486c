"""The tables `flows` and `retransmits`: every TCP connection, both ways, captures against the kernel's counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unnoticed.experiments.analysis.raw import Migration, RawRecords, socket_events
from unnoticed.probes.crossing import Crossing, crossing
from unnoticed.probes.retransmits import FlowRetransmits, count_retransmits
from unnoticed.probes.stalls import deliveries, longest_stall
from unnoticed.probes.tail_loss import harmless_blackout_ns
from unnoticed.probes.tcp_flows import address, split_flows
from unnoticed.results.schema import empty

AFTERMATH_NS = 1_500_000_000  # how long after the resume a retransmission still counts as the cutover's
_BULK = ("download", "upload")


@dataclass(frozen=True, kw_only=True)
class FlowTables:
    """The two tables, without trial_id; `by_point`: segments sent again from each place where a capture was taken."""

    flows: pd.DataFrame
    retransmits: pd.DataFrame
    by_point: Mapping[str, int]


def phase_of(time_ns: int, migration: Migration, *, first_ns: int = 0, settled_ns: int | None = None) -> str:
    """In which phase something was sent again: rounds, cutover (with its aftermath), push, after, other.

    Where pages follow the guest, `settled_ns` is when it ran and its frames found it again: what was sent for the first
    time (`first_ns`) between that and the last page the cutover cannot have lost, but the congestion of the push can.
    """
    if settled_ns is not None and settled_ns <= first_ns <= (migration.completed_ns or migration.end_ns):
        return "push"
    if time_ns < migration.start_ns:
        return "other"
    if migration.cutover_ns is None:
        return "rounds" if time_ns <= migration.end_ns else "other"
    if time_ns < migration.cutover_ns:
        return "rounds"
    over_ns = migration.resumed_ns if migration.resumed_ns is not None else migration.end_ns
    return "cutover" if time_ns <= over_ns + AFTERMATH_NS else "after"


def analyse_flows(raw: RawRecords) -> FlowTables:
    """Count, type and place every retransmission, and compare each flow with what the kernel says of it."""
    kernel = _kernel_counters(raw)
    results = _counted(raw)
    counted = {result.flow.name: result for result in results}
    crossings = _crossings(raw)
    stalls = _stalls(raw)
    harmless = _harmless_blackouts(raw)
    settled_ns = _settled_ns(raw)
    flows: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    for reading in socket_events(raw, of_clients=True):
        there, back = f"{reading['local']}>{reading['remote']}", f"{reading['remote']}>{reading['local']}"
        for sender, name in (("client", there), ("guest", back)):
            result = counted.get(name)
            last_ns, kernel_count, timeouts = kernel.get(name, (0, None, None))
            held = _held(result, timeouts, last_ns)
            if result is not None and last_ns:  # what a socket sends after its last reading is nobody's any more
                result = result.until(last_ns)
            crossed = crossings.get(name)
            bulk = reading["workload"] == ("upload" if sender == "client" else "download")
            local, remote = name.split(">")
            flows.append(
                {
                    "client": reading["who"],
                    "workload": reading["workload"],
                    "connection": reading["connection"],
                    "sender": sender,
                    "local": local,
                    "remote": remote,
                    "segments": result.segments if result else 0,
                    "retransmits": result.retransmits if result else 0,
                    "rto": result.of_type("rto") if result else 0,
                    "fast": result.of_type("fast") if result else 0,
                    "tlp": result.of_type("tlp") if result else 0,
                    "spurious": result.spurious if result else 0,
                    "kernel_retransmits": kernel_count,
                    "harmless_blackout_ns": harmless.get(name),
                    "predicted_retransmit": _is_predicted(raw, harmless.get(name)),
                    "timeouts_held": held,
                    "lost": crossed.lost if crossed else None,
                    "overtaken": crossed.overtaken if crossed else None,
                    "stall_ns": stalls.get(name) if bulk else None,
                    "bytes": reading["bytes_sent" if sender == "client" else "bytes_received"],
                    "wrong_bytes": reading["wrong_bytes"],
                    "integrity": reading["integrity"],
                    "detail": reading.get("detail") or None,
                }
            )
            if result is not None:
                again += [
                    {
                        "flow": name,
                        "sender": sender,
                        "time_ns": row.time_ns,
                        "sequence": row.sequence,
                        "length": row.length,
                        "segments": row.segments,
                        "type": row.type,
                        "phase": phase_of(row.time_ns, raw.migration, first_ns=row.first_ns, settled_ns=settled_ns),
                    }
                    for row in result.rows
                ]
    return FlowTables(
        flows=_frame("flows", flows),
        retransmits=_frame("retransmits", again),
        by_point=_by_point(raw, results),
    )


def _settled_ns(raw: RawRecords) -> int | None:
    """When the guest ran and its frames found it, if its pages came after that; else None."""
    if raw.migration.resumed_ns is None or not raw.settings.migration.has_later_pages:
        return None
    return max([raw.migration.resumed_ns, *(int(event["time_ns"]) for event in raw.relearned)])


def _held(result: FlowRetransmits | None, timeouts: int | None, last_ns: int) -> int | None:
    """Timeouts of which nothing came; never below 0, though a type may be another than we think."""
    if result is None or timeouts is None:
        return timeouts
    return max(result.timeouts_held(timeouts, time_ns=last_ns), 0)


def _frame(table: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = [column for column in empty(table).columns if column != "trial_id"]
    return pd.DataFrame(rows, columns=columns)


def _counted(raw: RawRecords) -> list[FlowRetransmits]:
    """Every flow as counted at its sender: the clients' captures for theirs, the guest's two together for its."""
    mss = _mss(raw)
    results: list[FlowRetransmits] = []
    for client in raw.clients:
        results += count_retransmits(raw.packets(client), senders=[raw.client_address(client)], snd_mss=mss)
    guests = _guest_addresses(raw)
    if guests:
        results += count_retransmits(raw.guest_packets, senders=guests, snd_mss=mss)
    return results


def _mss(raw: RawRecords) -> dict[str, int]:
    return {f"{event['local']}>{event['remote']}": int(event["snd_mss"]) for event in raw.named("socket")}


def _by_point(raw: RawRecords, results: Iterable[FlowRetransmits]) -> dict[str, int]:
    """Segments sent again from each place: what the kernel there counts too, also of flows that are no client's load.

    At A, what the sockets that were left behind sent after the guest had gone is among them. At B, what is sent again
    may have been sent first at A.
    """
    places = {raw.client_address(client): client for client in raw.clients}
    found = dict.fromkeys([*raw.clients, "guest-b"], 0)
    at_b = raw.packets("guest-b").time_ns
    for result in results:
        if result.flow.local in places:
            found[places[result.flow.local]] += result.retransmits
        elif result.rows:
            times = np.array([row.time_ns for row in result.rows], np.int64)
            segments = np.array([row.segments for row in result.rows], np.int64)
            found["guest-b"] += int(segments[np.isin(times, at_b)].sum())
    at_a = count_retransmits(raw.packets("guest-a"), senders=_guest_addresses(raw), snd_mss=_mss(raw))
    return {**found, "guest-a": sum(result.retransmits for result in at_a)}


def _crossings(raw: RawRecords) -> dict[str, Crossing]:
    """What became of the frames of each flow on the way, by name, where the IP-ID tells."""
    found: dict[str, Crossing] = {}
    at_guest = raw.guest_packets
    ends = {rows.flow: rows for rows in split_flows(at_guest)}
    for client in raw.clients:
        at_client, local = raw.packets(client), raw.client_address(client)
        for here in split_flows(at_client):
            there = ends.get(here.flow)
            if there is None:
                continue
            if here.flow.local == local:
                crossed = crossing(at_client, here.sent, at_guest, there.sent)
            else:
                crossed = crossing(at_guest, there.sent, at_client, here.sent)
            if crossed is not None:
                found[here.flow.name] = crossed
    return found


def _guest_addresses(raw: RawRecords) -> list[int]:
    names = {str(event["remote"]).rsplit(":", 1)[0] for event in socket_events(raw, of_clients=True)}
    return sorted(address(name) for name in names)


def _kernel_counters(raw: RawRecords) -> dict[str, tuple[int, int | None, int | None]]:
    """For each flow: when its sender's counters were last read, and their sums over the sockets it lived in.

    The sums are of segments sent again, and of timeouts (None before Linux 6.7).

    A restored socket counts from 0, so what the source's socket had counted when it was dumped is added.
    """
    readings: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in raw.named("socket"):
        readings[f"{event['local']}>{event['remote']}"].append(event)
    counters: dict[str, tuple[int, int | None, int | None]] = {}
    for name, events in readings.items():
        closed = any(event["reason"] != "dump" for event in events)  # a flow that was only dumped has an end unread
        total = sum(int(event["total_retrans"]) for event in events) if closed else None
        timeouts = [int(event["total_rto"]) for event in events]
        known = closed and min(timeouts) >= 0
        counters[name] = (max(int(event["time_ns"]) for event in events), total, sum(timeouts) if known else None)
    return counters


def _harmless_blackouts(raw: RawRecords) -> dict[str, int]:
    """For each flow of a client that moved, by name: from which blackout on a timer of the client may run out.

    What the guest's kernel knew of the way when the guest stood still tells: the shortest round trip, since the usual
    one has the client's delayed acknowledgements in it.
    """
    load = raw.settings.clients
    requests = load.request_response
    intervals = {"upload": 0, "connect": None}
    if requests is not None:
        intervals["request"] = requests.connections * 1_000_000_000 // requests.rate_hz
    found = {}
    for event in raw.named("socket"):
        if event["reason"] == "dump" and event["workload"] in intervals:
            rtt_us = max(int(event["min_rtt_us"]), 0) or int(event["rtt_us"])
            found[f"{event['remote']}>{event['local']}"] = harmless_blackout_ns(
                rtt_ns=rtt_us * 1000, interval_ns=intervals[event["workload"]]
            )
    return found


def _is_predicted(raw: RawRecords, harmless_ns: int | None) -> bool | None:
    """Whether a flow's client repeats a segment though none is lost; unknown where frames are dropped, or answered."""
    blackout_ns, migration = raw.migration.blackout_ns, raw.settings.migration
    if harmless_ns is None or blackout_ns is None or migration.gap != "hold" or migration.zero_window:
        return None
    return blackout_ns > harmless_ns


def _stalls(raw: RawRecords) -> dict[str, int]:
    """For each bulk flow, by name: the longest time without a new byte delivered, from the migration's start on."""
    from_ns, to_ns = raw.migration.start_ns, raw.phase_ns("quiesce")
    found: dict[str, int] = {}
    kinds = {str(event["workload"]) for event in socket_events(raw, of_clients=True)}
    if not kinds & set(_BULK):
        return found
    sides: Iterable[tuple[Any, list[int]]] = [
        *((raw.packets(client), [raw.client_address(client)]) for client in raw.clients if "download" in kinds),
        *([(raw.guest_packets, _guest_addresses(raw))] if "upload" in kinds else []),
    ]
    for packets, receivers in sides:
        for delivery in deliveries(packets, receivers=receivers):
            stall = longest_stall(delivery, from_ns=from_ns, to_ns=to_ns)
            if stall is not None:
                found[delivery.flow.name] = stall.duration_ns
    return found
