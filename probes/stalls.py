"""Stalls: of a flow's delivered bytes, and of the machine itself.

A TCP flow's stall is not the outage: TCP rounds an outage up to its retransmission schedule. The machine's stalls are
found by probes to a server that does not migrate: whatever delays those is not the migration's doing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from unnoticed.probes.packets import ACK, FIN, I64, RST, SYN, Packets
from unnoticed.probes.samples import NEVER, Samples
from unnoticed.probes.tcp_flows import Flow, split_flows, unwrap

STALL_NS = 5_000_000


@dataclass(frozen=True, kw_only=True, order=True)
class Interval:
    """A piece of time."""

    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """When new bytes of one flow arrived at its receiver: n arrivals in order."""

    flow: Flow  # of the sender
    time_ns: I64
    new_bytes: I64
    finished: bool  # the sender's FIN or a RST was seen: nothing more was due


def deliveries(packets: Packets, *, receivers: Collection[int]) -> list[Delivery]:
    """The arrivals of new data in a capture taken at the hosts with the addresses `receivers`, one per flow to them."""
    found = []
    for rows in split_flows(packets):
        if rows.flow.remote not in receivers or rows.flow.local in receivers:
            continue
        live = rows.sent[(packets.flags[rows.sent] & RST) == 0]
        flags = packets.flags[live]
        start = unwrap(packets.sequence[live]) + ((flags & SYN) != 0)  # where the payload starts
        end = start + packets.payload[live]
        data = np.flatnonzero(packets.payload[live] > 0)
        # In-order delivery is what counts: bytes behind a hole arrive, for the application, when the hole is filled.
        delivered = _delivered(start[data], end[data])
        news = np.diff(np.concatenate([start[data[:1]], delivered]))
        new = news > 0
        found.append(
            Delivery(
                flow=rows.flow,
                time_ns=packets.time_ns[live[data[new]]],
                new_bytes=news[new],
                finished=bool(((packets.flags[rows.sent] & (FIN | RST)) != 0).any()),
            )
        )
    return found


def acknowledgements(packets: Packets, *, senders: Collection[int]) -> list[Delivery]:
    """When the senders' bytes were acknowledged, in a capture taken at the hosts with the addresses `senders`.

    The same as `deliveries`, seen from the other end: one entry per flow of theirs, `new_bytes` those that each
    acknowledgement added.
    """
    found = []
    for rows in split_flows(packets, senders=senders):
        if rows.flow.local not in senders:
            continue
        live = rows.received[(packets.flags[rows.received] & (ACK | RST)) == ACK]
        if not len(live):
            continue
        edge = np.maximum.accumulate(unwrap(packets.acknowledgement[live]))
        news = np.diff(edge, prepend=edge[:1])
        found.append(
            Delivery(
                flow=rows.flow,
                time_ns=packets.time_ns[live[news > 0]],
                new_bytes=news[news > 0],
                finished=bool(((packets.flags[rows.sent] & (FIN | RST)) != 0).any()),
            )
        )
    return found


def _delivered(start: I64, end: I64) -> I64:
    """After each arrival [start, end), up to where the bytes are there without a hole."""
    out = np.empty(len(start), np.int64)
    if len(start) == 0:
        return out
    top = np.maximum.accumulate(np.concatenate([start[:1], end]))[:-1]
    if (start <= top).all():  # nothing out of order
        return np.maximum.accumulate(end)
    edge = int(start[0])
    waiting: dict[int, int] = {}  # behind holes: start to end
    for k, (first, last) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
        if first > edge:
            waiting[first] = max(last, waiting.get(first, last))
        elif last > edge:
            edge = last
            for begin in sorted(waiting):
                if begin > edge:
                    break
                edge = max(edge, waiting.pop(begin))
        out[k] = edge
    return out


def longest_stall(delivery: Delivery, *, from_ns: int, to_ns: int) -> Interval | None:
    """The longest time within which nothing new was delivered, of those that meet [from_ns, to_ns).

    For flows that always have data due (bulk): before the first arrival nothing is due; after the last, until to_ns,
    unless the flow finished. None if nothing ever arrived.
    """
    times = delivery.time_ns
    if len(times) == 0:
        return None
    if not delivery.finished and to_ns > times[-1]:
        times = np.append(times, to_ns)
    gaps = np.where((times[:-1] < to_ns) & (times[1:] > from_ns), np.diff(times), -1)
    if len(gaps) == 0 or gaps.max() < 0:
        return None
    k = int(gaps.argmax())
    return Interval(start_ns=int(times[k]), end_ns=int(times[k + 1]))


def machine_stalls(control: Samples, *, late_ns: int = STALL_NS) -> list[Interval]:
    """When the machine itself stood still, by the probes to the control server, merged and in order.

    A probe that was sent `late_ns` or more after it was meant: the prober stood from then till then. One that was
    answered that late: from its sending to its answer. One without an answer: from its sending to the next answer.
    """
    lost = control.answered_ns == NEVER
    marks = [
        Interval(start_ns=int(intended), end_ns=int(sent))
        for intended, sent in zip(control.intended_ns.tolist(), control.sent_ns.tolist(), strict=True)
        if sent - intended >= late_ns
    ]
    slow = ~lost & (control.answered_ns - control.sent_ns >= late_ns)
    marks += [
        Interval(start_ns=int(control.sent_ns[k]), end_ns=int(control.answered_ns[k])) for k in np.flatnonzero(slow)
    ]
    answers = np.sort(control.answered_ns[~lost])
    for sent in control.sent_ns[lost].tolist():
        at = int(np.searchsorted(answers, sent, side="right"))
        end = int(answers[at]) if at < len(answers) else int(control.sent_ns[-1])
        if end - sent >= late_ns:
            marks.append(Interval(start_ns=sent, end_ns=end))
    return merged(marks)


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The union of intervals, as disjoint ones in order."""
    out: list[Interval] = []
    for interval in sorted(intervals):
        if out and interval.start_ns <= out[-1].end_ns:
            out[-1] = Interval(start_ns=out[-1].start_ns, end_ns=max(out[-1].end_ns, interval.end_ns))
        else:
            out.append(interval)
    return out


def overlap_ns(intervals: Iterable[Interval], *, from_ns: int, to_ns: int) -> int:
    """How much of [from_ns, to_ns) disjoint intervals cover."""
    return sum(max(0, min(one.end_ns, to_ns) - max(one.start_ns, from_ns)) for one in intervals)


def prober_stalls(sent: Samples, *, late_ns: int = STALL_NS) -> list[Interval]:
    """When the prober itself stood still: nothing was sent for a period and `late_ns` more, or much later than meant.

    Such a time says nothing about the path; whatever it is, it is this machine.
    """
    gaps = np.flatnonzero(np.diff(sent.sent_ns) >= sent.period_ns + late_ns)
    marks = [Interval(start_ns=int(sent.sent_ns[k]) + sent.period_ns, end_ns=int(sent.sent_ns[k + 1])) for k in gaps]
    late = np.flatnonzero(sent.sent_ns - sent.intended_ns >= late_ns)
    marks += [Interval(start_ns=int(sent.intended_ns[k]), end_ns=int(sent.sent_ns[k])) for k in late]
    return merged(marks)
