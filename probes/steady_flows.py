"""UDP and ICMP echo flows that keep a rate, and the gaps in them.

A flow that sends every so often shows an outage as frames that are missing. Of a ping both ways are in the capture, and
the estimators of `outages` see what it saw. Of one direction alone, the gap between two frames bounds the outage: above
by all of it, below by all of it less two periods and less what the frames usually stray from their period. Whether the
network or the sender paused cannot be told from one direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unnoticed.probes.columns import I64
from unnoticed.probes.outages import Outage, time_stamp
from unnoticed.probes.packets import (
    ECHO_ANSWER,
    ECHO_REQUEST,
    LATER_FRAGMENT,
    PROTOCOL_UDP,
    Packets,
    address_name,
    endpoint_name,
)
from unnoticed.probes.samples import NEVER, Samples, samples

LEAST_FRAMES = 10
_NEAR_PERIOD = 0.5  # of a period, either way
_REGULAR = 0.8  # of the times between frames that must be near the period


@dataclass(frozen=True, kw_only=True)
class SteadyFlow:
    """One direction of a UDP flow, or the requests and answers of a ping."""

    kind: str  # "udp" or "ping"
    source: str
    destination: str
    frames: int  # of a ping: requests
    unanswered: int | None  # of a ping
    period_ns: int
    first_ns: int
    last_ns: int
    outage: Outage


def steady_flows(packets: Packets) -> list[SteadyFlow]:
    """Those of a table, in the order in which they began."""
    found = [*_udp(packets), *_pings(packets)]
    return sorted(found, key=lambda flow: (flow.first_ns, flow.source, flow.destination))


def period_of(times: I64) -> int | None:
    """The period of frames, in ns; None if they keep none."""
    if len(times) < LEAST_FRAMES:
        return None
    steps = np.diff(times)
    period = int(np.median(steps))
    if period <= 0 or np.mean(np.abs(steps - period) <= _NEAR_PERIOD * period) < _REGULAR:
        return None
    return period


def longest_gap(times: I64, *, period_ns: int) -> Outage:
    """The longest time between two frames of a direction that keeps a period, as an outage with bounds."""
    steps = np.diff(times)
    k = int(steps.argmax())
    stray = int(np.quantile(np.abs(steps - period_ns), 0.95))
    gap = int(steps[k])
    return Outage(
        estimator="frame_gap",
        outage_ns=max(gap - period_ns, 0),
        low_ns=max(gap - 2 * (period_ns + stray), 0),
        high_ns=gap,
        start_ns=int(times[k]),
        end_ns=int(times[k + 1]),
    )


def _udp(packets: Packets) -> list[SteadyFlow]:
    chosen = (packets.protocol == PROTOCOL_UDP) & packets.whole & (packets.fragment != LATER_FRAGMENT)
    names = ("source", "source_high", "destination", "destination_high", "source_port", "destination_port")
    found = []
    for rows in _groups(packets, np.flatnonzero(chosen), names):
        times = np.maximum.accumulate(packets.time_ns[rows])
        period = period_of(times)
        if period is None:
            continue
        first = int(rows[0])
        found.append(
            SteadyFlow(
                kind="udp",
                source=endpoint_name(_end(packets, "source", first), int(packets.source_port[first])),
                destination=endpoint_name(_end(packets, "destination", first), int(packets.destination_port[first])),
                frames=len(rows),
                unanswered=None,
                period_ns=period,
                first_ns=int(times[0]),
                last_ns=int(times[-1]),
                outage=longest_gap(times, period_ns=period),
            )
        )
    return found


def _pings(packets: Packets) -> list[SteadyFlow]:
    answers: dict[tuple[int, ...], list[int]] = {}
    ends = ("source", "source_high", "destination", "destination_high", "echo_identifier")
    for row in np.flatnonzero(packets.echo == ECHO_ANSWER).tolist():
        source, source_high, destination, destination_high, number = (int(getattr(packets, name)[row]) for name in ends)
        answers.setdefault((destination, destination_high, source, source_high, number), []).append(row)
    found = []
    for rows in _groups(packets, np.flatnonzero(packets.echo == ECHO_REQUEST), ends):
        first = int(rows[0])
        key = tuple(int(getattr(packets, name)[first]) for name in ends)
        times = np.maximum.accumulate(packets.time_ns[rows])
        period = period_of(times)
        if period is None:
            continue
        asked = _paired(packets, rows, times, np.array(answers.get(key, []), np.int64), period_ns=period)
        whole = int(times[0]), int(times[-1]) + 1
        found.append(
            SteadyFlow(
                kind="ping",
                source=address_name(_end(packets, "source", first)),
                destination=address_name(_end(packets, "destination", first)),
                frames=len(rows),
                unanswered=int((asked.answered_ns == NEVER).sum()),
                period_ns=period,
                first_ns=int(times[0]),
                last_ns=int(times[-1]),
                outage=time_stamp(asked, from_ns=whole[0], to_ns=whole[1]),
            )
        )
    return found


def _paired(packets: Packets, rows: I64, times: I64, answers: I64, *, period_ns: int) -> Samples:
    """Requests with the first answer that has their number; the number of 16 bits is used again after a while."""
    waiting: dict[int, int] = {}
    answered = np.full(len(rows), NEVER, np.int64)
    events = sorted([(int(row), k) for k, row in enumerate(rows)] + [(int(row), -1) for row in answers])
    for row, k in events:
        number = int(packets.echo_sequence[row])
        if k >= 0:
            waiting[number] = k
        elif (asked := waiting.pop(number, None)) is not None:
            answered[asked] = max(int(packets.time_ns[row]), int(times[asked]))
    return samples(intended_ns=times, sent_ns=times, answered_ns=answered, period_ns=period_ns)


def _groups(packets: Packets, rows: I64, names: tuple[str, ...]) -> list[I64]:
    """The rows of each flow, by the columns that name it; flows in the order they begin."""
    if not len(rows):
        return []
    columns: list[npt.NDArray[np.uint64]] = [getattr(packets, name)[rows].astype(np.uint64) for name in names]
    order = np.lexsort(columns)
    changes = np.zeros(len(rows) - 1, np.bool_)
    for column in columns:
        changes |= np.diff(column[order]) != 0
    parts = np.split(rows[order], np.flatnonzero(changes) + 1)
    return sorted((np.sort(part) for part in parts), key=lambda part: int(part[0]))


def _end(packets: Packets, name: str, row: int) -> int:
    return int(getattr(packets, name)[row]) | int(getattr(packets, f"{name}_high")[row]) << 64
