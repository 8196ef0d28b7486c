"""Captures of any origin: which files belong together, and all that can be said of the flows in them.

Files whose times follow one another are the pieces of one capture (`tcpdump -C` or `-G`, a ring of dumpcap's). Files
whose times overlap are capture points. A connection that several points saw is read for each direction at the point
nearest to the sender of that direction: the one that is known to be there; else the one that has fewer holes; else
the one that has more of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from unnoticed.errors import PlanError, RecordError
from unnoticed.experiments.analysis.capture_notes import notes_of_flows, notes_of_packets, notes_of_records
from unnoticed.probes.byte_stream import ByteStream, byte_stream
from unnoticed.probes.capture_file import Records, open_capture
from unnoticed.probes.copies import copies
from unnoticed.probes.packets import ACK, FIN, RST, SYN, Packets, merge, parse
from unnoticed.probes.progress import closed_ns, longest_stall
from unnoticed.probes.repeats import repeats
from unnoticed.probes.retransmits import FlowRetransmits, count_retransmits
from unnoticed.probes.steady_flows import steady_flows
from unnoticed.probes.tcp_flows import Flow, FlowRows, split_flows
from unnoticed.probes.vantage import Vantage, round_trip_ns, vantage
from unnoticed.results.capture import Capture, Connection, Direction, Point, Repeat, Stall, Steady, Trace

_PIECES_OVERLAP_NS = 10_000_000  # stamps are not all in the order of capture


@dataclass(frozen=True, kw_only=True)
class _CapturePoint:
    """All that one point captured, each frame once."""

    name: str
    files: tuple[str, ...]
    frames: int
    packets: Packets
    dropped: int
    timed: bool  # every frame has a time of its own

    @property
    def is_complete(self) -> bool:
        return self.dropped == 0


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """One direction of a connection as one point saw it."""

    point: _CapturePoint
    rows: FlowRows
    counted: FlowRetransmits
    stream: ByteStream
    back: ByteStream
    vantage: Vantage

    @property
    def rank(self) -> tuple[bool, bool, int]:
        return self.vantage.place == "sender", not self.stream.has_holes, len(self.stream)


def analyse_captures(paths: Sequence[Path], *, at: Collection[int] = (), pictures: int = 0) -> Capture:
    """Everything that can be said of these files. `at`: addresses of the hosts that captured, as integers.

    `pictures`: of how many connections to keep what a picture of them needs. Raises PlanError with a sentence for each
    file that cannot be read, and RecordError if nothing can be said of any connection in them.
    """
    files, notes = _read(paths)
    points = [_point(group, notes) for group in _captures(files)]
    seen: dict[tuple[object, ...], dict[Flow, list[_Seen]]] = {}
    for point in points:
        for key, one in _directions(point, at):
            ends = seen.setdefault(key, {})
            same = next((flow for flow in ends if flow.name == one.rows.flow.name), one.rows.flow)
            ends.setdefault(same, []).append(one)
    found = [_connection(list(ends.values())) for ends in seen.values()]
    found.sort(key=lambda pair: (-pair[0].stall_ns, -pair[0].retransmits, pair[0].first_ns, pair[0].name))
    connections = tuple(connection for connection, _ in found)
    notes += notes_of_flows(connections)
    return Capture(
        points=tuple(
            Point(
                name=point.name,
                files=point.files,
                frames=point.frames,
                first_ns=int(point.packets.time_ns.min()) if len(point.packets) else None,
                last_ns=int(point.packets.time_ns.max()) if len(point.packets) else None,
            )
            for point in points
        ),
        connections=connections,
        steady=tuple(_steady(points)),
        notes=tuple(notes),
        traces=tuple(_trace(connection, best) for connection, best in found[:pictures]),
    )


# -- files -----------------------------------------------------------------------------------------------------------


def _read(paths: Sequence[Path]) -> tuple[list[tuple[Path, Records]], list[str]]:
    files, problems = [], []
    notes: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            records = open_capture(path, truncated="flag")
        except RecordError as error:
            problems.append(str(error))
            continue
        files.append((path, records))
        notes += notes_of_records(path, records)
    if problems:
        raise PlanError(*problems)
    return files, notes


def _captures(files: Iterable[tuple[Path, Records]]) -> list[list[tuple[Path, Records]]]:
    """Which files are the pieces of one capture, in their order."""
    groups: list[list[tuple[Path, Records]]] = []
    ends: list[int] = []
    timed = [(file, records) for file, records in files if len(records)]
    for file, records in sorted(timed, key=lambda item: int(item[1].time_ns.min())):
        first, last = int(records.time_ns.min()), int(records.time_ns.max())
        overlap = min(_PIECES_OVERLAP_NS, (last - first) // 2)
        before = [k for k, end in enumerate(ends) if end - first <= overlap]
        if before:
            latest = max(before, key=lambda k: ends[k])
            groups[latest].append((file, records))
            ends[latest] = max(ends[latest], last)
        else:
            groups.append([(file, records)])
            ends.append(last)
    return groups + [[(file, records)] for file, records in files if not len(records)]


def _table(records: Records) -> Packets:
    """The packets of a file in the order of capture.

    That is the order in the file; but what came in at several interfaces is written by turns, so there time decides.
    """
    packets = parse(records)
    interfaces = np.unique(records.interface)
    if len(interfaces) < 2:
        return packets
    return merge(packets.select(records.interface == one) for one in interfaces)


def _point(group: Sequence[tuple[Path, Records]], notes: list[str]) -> _CapturePoint:
    tables = [_table(records) for _, records in group]
    packets = tables[0] if len(tables) == 1 else merge(tables)
    name = group[0][0].name if len(group) == 1 else f"{group[0][0].name} and {len(group) - 1} more"
    twice = copies(packets)
    notes += notes_of_packets(name, packets, copied=int(twice.sum()))
    dropped = sum(records.dropped for _, records in group)
    return _CapturePoint(
        name=name,
        files=tuple(str(path) for path, _ in group),
        frames=len(packets),
        packets=packets.select(~twice) if twice.any() else packets,
        dropped=dropped,
        timed=not any(records.untimed for _, records in group),
    )


# -- connections -----------------------------------------------------------------------------------------------------


def _directions(point: _CapturePoint, at: Collection[int]) -> Iterable[tuple[tuple[object, ...], _Seen]]:
    """Every direction of every connection of a point, with what names the connection at all points."""
    packets = point.packets
    flows = split_flows(packets)
    counted = count_retransmits(packets)
    streams = {rows.flow: byte_stream(packets, rows) for rows in flows}
    nothing = np.zeros(0, np.int64)
    for rows, count in zip(flows, counted, strict=True):
        flow = rows.flow
        reverse = Flow(
            local=flow.remote,
            local_port=flow.remote_port,
            remote=flow.local,
            remote_port=flow.local_port,
            incarnation=flow.incarnation,
        )
        stream = streams[flow]
        back = streams.get(reverse)
        if back is None:
            back = byte_stream(packets, FlowRows(flow=reverse, sent=nothing, received=rows.sent))
        yield (
            _key(packets, rows),
            _Seen(
                point=point,
                rows=rows,
                counted=count,
                stream=stream,
                back=back,
                vantage=vantage(packets, rows, stream, back, at=at),
            ),
        )


def _key(packets: Packets, rows: FlowRows) -> tuple[object, ...]:
    """The same at every point: the ends, and the SYN's number (where no SYN was seen: how often they were in use)."""
    flow = rows.flow
    ends = tuple(sorted([(flow.local, flow.local_port), (flow.remote, flow.remote_port)]))
    both = np.concatenate([rows.sent, rows.received])
    syns = both[(packets.flags[both] & (SYN | ACK)) == SYN]
    return (*ends, "syn", int(packets.sequence[syns[0]])) if len(syns) else (*ends, "before", flow.incarnation)


def _connection(directions: Sequence[Sequence[_Seen]]) -> tuple[Connection, list[_Seen]]:
    best = [max(views, key=lambda one: one.rank) for views in directions]
    best.sort(key=lambda one: not _is_client(one))
    every = [one for views in directions for one in views]
    rows = [(one.point.packets, np.concatenate([one.rows.sent, one.rows.received])) for one in best]
    first = min(int(packets.time_ns[both].min()) for packets, both in rows)
    last = max(int(packets.time_ns[both].max()) for packets, both in rows)
    flow = best[0].rows.flow
    trips = [trip for one in best if (trip := round_trip_ns(one.stream, one.back)) is not None]
    is_client = _is_client(best[0])
    return (
        Connection(
            client=flow.local_name if is_client else flow.remote_name,
            server=flow.remote_name if is_client else flow.local_name,
            first_ns=first,
            last_ns=last,
            opened=any(_has(one, SYN) for one in every),
            ended=_ended(best),
            round_trip_ns=min(trips, default=None),
            ends=tuple(_direction(one) for one in best),
        ),
        best,
    )


def _is_client(one: _Seen) -> bool:
    """Whether the sender of this direction opened the connection; where no SYN was seen, the higher port did."""
    packets, rows = one.point.packets, one.rows
    for mine, theirs in ((rows.sent, rows.received), (rows.received, rows.sent)):
        asked = (packets.flags[mine] & (SYN | ACK)) == SYN
        answered = (packets.flags[theirs] & (SYN | ACK)) == (SYN | ACK)
        if asked.any() or answered.any():
            return mine is rows.sent
    return rows.flow.local_port > rows.flow.remote_port


def _has(one: _Seen, flag: int) -> bool:
    return bool((one.point.packets.flags[one.rows.sent] & flag).any())


def _ended(best: Sequence[_Seen]) -> Literal["closed", "reset", "open"]:
    if any(_has(one, RST) for one in best):
        return "reset"
    return "closed" if len(best) > 1 and all(_has(one, FIN) for one in best) else "open"


def _direction(one: _Seen) -> Direction:
    packets, rows, stream = one.point.packets, one.rows, one.stream
    found, missing = _repeats(one)
    last = int(packets.time_ns[np.concatenate([rows.sent, rows.received])].max())
    flags = packets.flags[rows.sent]
    # A sender's reasons are what it heard and how long it waited.
    typed = bool(len(rows.received)) and one.point.timed and not packets.options_cut[rows.received].any()
    again = [repeat for repeat in found if repeat.kind == "again"]
    plain = (flags & (SYN | FIN | RST)) == 0
    keep_alives = _keep_alives(one)
    reset = _has(one, RST) or bool((packets.flags[rows.received] & RST).any())
    stall = longest_stall(stream, last_ns=last, reset=reset) if one.point.timed else None
    return Direction(
        sender=rows.flow.local_name,
        receiver=rows.flow.remote_name,
        point=one.point.name,
        place=one.vantage.place,
        place_by=one.vantage.by,
        packets=len(rows.sent),
        new_bytes=one.counted.new_bytes,
        retransmits=sum(repeat.segments for repeat in again),
        exact=_is_exact(one, found, missing),
        rto=_of_type(again, "rto") if typed else None,
        fast=_of_type(again, "fast") if typed else None,
        tlp=_of_type(again, "tlp") if typed else None,
        spurious=sum(repeat.segments for repeat in again if repeat.spurious) if typed else None,
        unclear=sum(repeat.segments for repeat in found if repeat.kind == "unclear"),
        overtaken=sum(repeat.segments for repeat in found if repeat.kind == "overtaken"),
        keep_alives=keep_alives,
        window_probes=max(one.counted.probes - keep_alives, 0),
        zero_windows=int((plain & (packets.window[rows.sent] == 0)).sum()),
        closed_ns=closed_ns(stream, last_ns=last),
        syn_retries=max(int(((flags & SYN) != 0).sum()) - 1, 0),
        resets=int(((flags & RST) != 0).sum()),
        missing_bytes=missing,
        mss_known=one.counted.mss_known,
        stall=None
        if stall is None
        else Stall(
            start_ns=stall.start_ns,
            end_ns=stall.end_ns,
            duration_ns=stall.duration_ns,
            low_ns=stall.low_ns,
            high_ns=stall.high_ns,
        ),
        repeats=found if typed else tuple(_untyped(repeat) for repeat in found),
    )


def _of_type(found: Iterable[Repeat], name: str) -> int:
    return sum(repeat.segments for repeat in found if repeat.type == name)


def _untyped(repeat: Repeat) -> Repeat:
    """Without what only the answers and their times can tell, which are not there, or were cut off."""
    return Repeat(
        time_ns=repeat.time_ns,
        sequence=repeat.sequence,
        length=repeat.length,
        segments=repeat.segments,
        type="",
        spurious=False,
        kind=repeat.kind,
    )


def _repeats(one: _Seen) -> tuple[tuple[Repeat, ...], int]:
    """(what was sent again or came late, how many bytes were acknowledged but are not in the capture)."""
    packets, stream = one.point.packets, one.stream
    sorted_out = repeats(packets, stream)
    left = list(reversed(one.counted.rows))
    found = []
    for k in sorted(sorted_out.kinds):
        time, number = int(stream.time_ns[k]), int(packets.sequence[stream.row[k]])
        if not left or (left[-1].time_ns, left[-1].sequence) != (time, number):
            continue  # a keep-alive or a window probe
        row = left.pop()
        found.append(
            Repeat(
                time_ns=row.time_ns,
                sequence=row.sequence,
                length=row.length,
                segments=row.segments,
                type=row.type,
                spurious=row.spurious,
                kind=sorted_out.kinds[k],
            )
        )
    return tuple(found), sorted_out.missing_bytes


def _is_exact(one: _Seen, found: Sequence[Repeat], missing: int) -> bool:
    """Whether every frame of the sender went by, and each is cut into segments as its kernel did."""
    segments_known = one.counted.mss_known or all(repeat.segments == 1 for repeat in found)
    complete = one.point.is_complete and not one.stream.has_holes and not missing
    return one.vantage.place == "sender" and complete and segments_known


def _keep_alives(one: _Seen) -> int:
    """Frames that ask whether the other end is there, while its window is open (RFC 9293 section 3.8.4)."""
    packets, rows, stream = one.point.packets, one.rows, one.stream
    if not len(stream.una):
        return 0
    sent = rows.sent[((packets.flags[rows.sent] & (SYN | FIN | RST)) == 0) & (packets.payload[rows.sent] <= 1)]
    heard = np.searchsorted(stream.heard_row, sent) - 1
    sent, heard = sent[heard >= 0], heard[heard >= 0]
    # One below what is acknowledged, which is what the other end said it expects.
    expected = packets.acknowledgement[stream.heard_row[heard]]
    asks = (packets.sequence[sent] == expected - np.uint32(1)) & ~stream.closed[heard]
    return int(asks.sum())


# -- the rest --------------------------------------------------------------------------------------------------------


def _steady(points: Iterable[_CapturePoint]) -> Iterable[Steady]:
    for point in points:
        for flow in steady_flows(point.packets):
            outage = flow.outage
            yield Steady(
                kind="ping" if flow.kind == "ping" else "udp",
                source=flow.source,
                destination=flow.destination,
                point=point.name,
                frames=flow.frames,
                unanswered=flow.unanswered,
                period_ns=flow.period_ns,
                first_ns=flow.first_ns,
                last_ns=flow.last_ns,
                outage_ns=outage.outage_ns,
                low_ns=outage.low_ns,
                high_ns=outage.high_ns,
                start_ns=outage.start_ns,
            )


def _trace(connection: Connection, best: Sequence[_Seen]) -> Trace:
    worst = connection.worst
    one = next(one for one in best if one.rows.flow.local_name == worst.sender)
    late = [repeat.time_ns for repeat in worst.repeats]
    stream = one.stream
    return Trace(
        title=f"{worst.sender} > {worst.receiver}",
        sent_ns=stream.time_ns,
        start=stream.start,
        end=stream.end,
        again=stream.again & np.isin(stream.time_ns, late),
        heard_ns=stream.heard_ns,
        acknowledged=stream.una,
        stall=worst.stall,
    )
