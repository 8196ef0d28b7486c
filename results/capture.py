"""What captures of any origin say: connections, what was sent again, stalls, steady flows; and what cannot be said.

Data and words only: `unnoticed.experiments.analysis.capture` makes it of the files, `plots.capture` draws it. Times are
the captures' own (CLOCK_REALTIME of the machine that captured), in ns.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unnoticed.results import grid
from unnoticed.results.grid import Grid
from unnoticed.results.quantities import NOTHING, format_bytes, format_ns, format_number

I64 = npt.NDArray[np.int64]
Place = Literal["sender", "receiver", "between", "unknown"]

PLACES = {
    ("sender", "loopback"): "on the loopback",
    ("sender", "user"): "at the sender (you say)",
    ("sender", "file"): "at the sender",
    ("sender", "answers"): "near the sender",
    ("receiver", "user"): "at the receiver (you say)",
    ("receiver", "file"): "at the receiver",
    ("receiver", "answers"): "near the receiver",
    ("between", "file"): "on the way",
}
_AT_A_PLACE_NOT_KNOWN = "somewhere"


@dataclass(frozen=True, kw_only=True)
class Stall:
    """The longest time without progress; `low_ns` to `high_ns` bound the outage behind it."""

    start_ns: int
    end_ns: int | None  # None: it was not over
    duration_ns: int
    low_ns: int
    high_ns: int | None

    @property
    def text(self) -> str:
        return format_ns(self.duration_ns) if self.end_ns is not None else f"≥ {format_ns(self.duration_ns)}"

    @property
    def outage_text(self) -> str:
        low = format_ns(self.low_ns)
        return f"{low} to {format_ns(self.high_ns)}" if self.high_ns is not None else f"≥ {low}"


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One frame that was sent again, or came late."""

    time_ns: int
    sequence: int
    length: int  # bytes
    segments: int
    type: str  # rto, fast, tlp; empty: not known
    spurious: bool
    kind: Literal["again", "overtaken", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What one end of a connection sent. Retransmissions are counted in segments."""

    sender: str
    receiver: str
    point: str  # the capture point that this was read from
    place: Place
    place_by: str
    packets: int
    new_bytes: int  # of payload, sent at least once
    retransmits: int
    exact: bool  # else it is at least as many
    rto: int | None  # None: the types are not known
    fast: int | None
    tlp: int | None
    spurious: int | None
    unclear: int  # segments that filled a hole: sent again or overtaken
    overtaken: int
    keep_alives: int
    window_probes: int
    zero_windows: int  # announced by the sender: it is not taking in what it gets
    closed_ns: int  # the longest time in which the other end kept its window closed
    syn_retries: int
    resets: int
    missing_bytes: int  # acknowledged, but not in the capture
    mss_known: bool
    stall: Stall | None
    repeats: tuple[Repeat, ...] = ()

    @property
    def place_text(self) -> str:
        return PLACES.get((self.place, self.place_by), _AT_A_PLACE_NOT_KNOWN)

    @property
    def count_text(self) -> str:
        return format_number(self.retransmits) if self.exact else f"≥ {format_number(self.retransmits)}"

    @property
    def types_text(self) -> str:
        """`3 rto, 12 fast`."""
        if self.rto is None:
            return "not known" if self.retransmits else ""
        named = (("rto", self.rto), ("fast", self.fast), ("tlp", self.tlp))
        return ", ".join(f"{count} {name}" for name, count in named if count)

    @property
    def had_outage(self) -> bool:
        """Whether the stall is one that an outage may be behind: something was sent again in it, or it has a bound."""
        stall = self.stall
        if stall is None:
            return False
        end = stall.end_ns if stall.end_ns is not None else stall.start_ns + stall.duration_ns
        return stall.low_ns > 0 or any(stall.start_ns <= repeat.time_ns <= end for repeat in self.repeats)

    @property
    def besides(self) -> str:
        """What else happened, in words."""
        counted = (
            (self.spurious or 0, "spurious", "spurious"),
            (self.syn_retries, "SYN again", "SYNs again"),
            (self.resets, "reset", "resets"),
            (self.zero_windows, "zero window", "zero windows"),
            (self.keep_alives, "keep-alive", "keep-alives"),
            (self.window_probes, "window probe", "window probes"),
            (self.overtaken, "overtaken", "overtaken"),
            (self.unclear, "late: sent again or overtaken", "late: sent again or overtaken"),
        )
        words = [f"{format_number(count)} {one if count == 1 else many}" for count, one, many in counted if count]
        if self.closed_ns:
            words.append(f"window closed for {format_ns(self.closed_ns)}")
        if self.missing_bytes:
            words.append(f"{format_bytes(self.missing_bytes)} acknowledged but not captured")
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A TCP connection; `ends` has one direction or both, the client's first."""

    client: str
    server: str
    first_ns: int
    last_ns: int
    opened: bool  # its SYN is in the capture
    ended: Literal["closed", "reset", "open"]
    round_trip_ns: int | None
    ends: tuple[Direction, ...]

    @property
    def name(self) -> str:
        return f"{self.client} > {self.server}"

    @property
    def retransmits(self) -> int:
        return sum(end.retransmits for end in self.ends)

    @property
    def worst(self) -> Direction:
        """The direction that stood still for longest."""
        return max(self.ends, key=lambda end: end.stall.duration_ns if end.stall else -1)

    @property
    def stall_ns(self) -> int:
        stall = self.worst.stall
        return stall.duration_ns if stall else 0


@dataclass(frozen=True, kw_only=True)
class Steady:
    """A UDP flow or a ping that keeps a period."""

    kind: Literal["udp", "ping"]
    source: str
    destination: str
    point: str
    frames: int
    unanswered: int | None
    period_ns: int
    first_ns: int
    last_ns: int
    outage_ns: int
    low_ns: int
    high_ns: int | None
    start_ns: int | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A capture point: one file, or the pieces of one capture."""

    name: str
    files: tuple[str, ...]
    frames: int
    first_ns: int | None
    last_ns: int | None

    @property
    def text(self) -> str:
        """`a.pcap: 12 034 frames in 9.81 s`."""
        if self.first_ns is None or self.last_ns is None:
            return f"{self.name}: no frames"
        return f"{self.name}: {_counted(self.frames, 'frame')} in {format_ns(self.last_ns - self.first_ns)}"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One direction of a connection for its picture; times in ns, positions in bytes of the stream."""

    title: str
    sent_ns: I64
    start: I64
    end: I64
    again: npt.NDArray[np.bool_]
    heard_ns: I64
    acknowledged: I64
    stall: Stall | None


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Everything that was found, the connection that stood still for longest first; `notes`: what limits it."""

    points: tuple[Point, ...]
    connections: tuple[Connection, ...]
    steady: tuple[Steady, ...]
    notes: tuple[str, ...]
    traces: tuple[Trace, ...] = field(default=())  # of the first connections, for pictures

    @property
    def first_ns(self) -> int:
        return min((point.first_ns for point in self.points if point.first_ns is not None), default=0)

    @property
    def summary(self) -> str:
        """One or two sentences."""
        count = len(self.connections)
        if not count and not self.steady:
            return "There is no TCP connection in it, and no UDP flow or ping that keeps a period."
        again = sum(connection.retransmits for connection in self.connections)
        exact = all(end.exact for connection in self.connections for end in connection.ends)
        told = f"{_counted(count, 'TCP connection')}, {_counted(len(self.steady), 'steady flow')}."
        if not count:
            return told
        times = "" if exact else "at least "
        told += f" {times.capitalize()}{_counted(again, 'segment')} {'was' if again == 1 else 'were'} sent again."
        worst = self.connections[0]
        if worst.stall_ns:
            stall = worst.worst.stall
            assert stall is not None
            told += f" The longest stall: {stall.text}, of {worst.worst.sender} > {worst.worst.receiver}."
        return told

    def grid(self, *, limit: int = 20) -> Grid:
        """The connections, a row for each direction."""
        rows: list[tuple[str, ...]] = []
        for connection in self.connections[:limit]:
            for end in connection.ends:
                rows.append(self._row(connection, end))
        heads = (
            grid.text("from > to"),
            grid.number("packets"),
            grid.number("bytes", "of payload, each counted once"),
            grid.number("lasted", "from the first frame of the connection to the last"),
            grid.number("round trip", "the least one"),
            grid.number("sent again", "segments; ≥: not captured at the sender, or not all of it"),
            grid.text("by type", "rto: timeout; fast: recovery; tlp: tail-loss probe"),
            grid.number("longest stall", "nothing new was acknowledged, though something was outstanding"),
            grid.number("outage", "bounds of what was behind the stall, if it was one outage"),
            grid.text("captured", "where, as far as it shows"),
            grid.text("besides"),
        )
        left = len(self.connections) - limit
        note = f"And {format_number(left)} more, which stood still for less." if left > 0 else ""
        return Grid(caption="Connections", heads=heads, rows=tuple(rows), note=note)

    def _row(self, connection: Connection, end: Direction) -> tuple[str, ...]:
        is_first = end is connection.ends[0]
        trip = connection.round_trip_ns
        return (
            f"{end.sender} > {end.receiver}",
            format_number(end.packets),
            format_bytes(end.new_bytes),
            format_ns(connection.last_ns - connection.first_ns) if is_first else "",
            "" if not is_first else NOTHING if trip is None else format_ns(trip),
            end.count_text,
            end.types_text,
            NOTHING if end.stall is None else end.stall.text,
            NOTHING if end.stall is None or not end.had_outage else end.stall.outage_text,
            end.place_text,
            end.besides,
        )

    def steady_grid(self, *, limit: int = 20) -> Grid:
        """The steady flows."""
        ordered = sorted(self.steady, key=lambda flow: -flow.outage_ns)
        rows = tuple(
            (
                f"{flow.source} > {flow.destination}",
                flow.kind,
                format_number(flow.frames),
                format_ns(flow.period_ns),
                NOTHING if flow.unanswered is None else format_number(flow.unanswered),
                format_ns(flow.outage_ns),
                f"≥ {format_ns(flow.low_ns)}"
                if flow.high_ns is None
                else f"{format_ns(flow.low_ns)} to {format_ns(flow.high_ns)}",
                NOTHING if flow.start_ns is None else f"{(flow.start_ns - self.first_ns) / 1e9:.3f} s",
            )
            for flow in ordered[:limit]
        )
        heads = (
            grid.text("from > to"),
            grid.text("kind"),
            grid.number("frames"),
            grid.number("period"),
            grid.number("unanswered"),
            grid.number("longest gap", "less a period"),
            grid.number("bounds"),
            grid.number("at", "since the first frame"),
        )
        left = len(ordered) - limit
        note = f"And {format_number(left)} more, with shorter gaps." if left > 0 else ""
        return Grid(caption="Steady flows", heads=heads, rows=rows, note=note)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "points": [asdict(point) for point in self.points],
            "connections": [_connection_document(connection) for connection in self.connections],
            "steady": [asdict(flow) for flow in self.steady],
            "notes": list(self.notes),
        }


def _connection_document(connection: Connection) -> dict[str, Any]:
    document = asdict(connection)
    for end in document["ends"]:
        del end["repeats"]
    return document


def _counted(count: int, noun: str) -> str:
    return f"{format_number(count)} {noun}{'' if count == 1 else 's'}"
