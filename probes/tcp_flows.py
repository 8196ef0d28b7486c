"""TCP connections in a packet table: which rows belong to which, and sequence numbers without wrap-around.

Sequence numbers are compared by serial arithmetic (RFC 1982, RFC 9293 section 3.4): only the signed 32-bit
difference of two of them has a meaning. Comparing them as integers invents retransmissions at every wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unnoticed.probes.columns import I64, Bool
from unnoticed.probes.packets import PROTOCOL_TCP, Packets, endpoint_name
from unnoticed.probes.packets import address as address


@dataclass(frozen=True, kw_only=True, order=True)
class Flow:
    """One sending direction of one TCP connection. `incarnation` counts connections that reuse the four-tuple."""

    local: int  # the sender's address, as packets.address gives it
    local_port: int
    remote: int
    remote_port: int
    incarnation: int = 0

    @property
    def local_name(self) -> str:
        return endpoint_name(self.local, self.local_port)

    @property
    def remote_name(self) -> str:
        return endpoint_name(self.remote, self.remote_port)

    @property
    def name(self) -> str:
        """E.g. "10.77.1.1:40000>10.77.0.100:7000", or "[fd00::1]:40000>[fd00::2]:7000"."""
        return f"{self.local_name}>{self.remote_name}"


@dataclass(frozen=True, kw_only=True)
class FlowRows:
    """A flow's rows in the table: what its sender sent, and what came back to it. Both ascending."""

    flow: Flow
    sent: I64
    received: I64


@dataclass(frozen=True, kw_only=True)
class FlowSegments:
    """The same with all that is needed to follow the sender: arrays of shape (n, 6), see flow_kernels.sort_segments."""

    flow: Flow
    sent: I64
    received: I64


def serial_difference(a: npt.NDArray[Any], b: npt.NDArray[Any] | int) -> I64:
    """Return a - b of sequence numbers: positive if a is after b, within 2**31."""
    difference: I64 = (np.asarray(a, np.int64) - np.asarray(b, np.int64)).astype(np.int32).astype(np.int64)
    return difference


def unwrap(sequence: npt.NDArray[np.uint32]) -> I64:
    """Positions without wrap-around of sequence numbers in the order they were sent; the first one is 0.

    Right as long as consecutive ones are less than 2**31 apart.
    """
    if len(sequence) == 0:
        return np.zeros(0, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(serial_difference(sequence[1:], sequence[:-1]))])


def split_flows(packets: Packets, *, senders: Collection[int] | None = None) -> list[FlowRows]:
    """The TCP flows of a table whose sender is among `senders` (addresses as integers; None: all of them).

    Segments whose options were cut off belong to their flow as well; later fragments belong to none.
    """
    from unnoticed.probes.flow_kernels import sort_rows

    def take(flow: I64, place: I64, count: int) -> I64:
        rows = np.empty(count, np.int64)
        sort_rows(flow, place, rows)
        return rows

    return [
        FlowRows(flow=flow, sent=sent, received=received) for flow, sent, received in _split(packets, senders, take)
    ]


def split_segments(packets: Packets, *, senders: Collection[int] | None = None) -> list[FlowSegments]:
    """The same flows with their segments' fields, which are together in memory: a loop over a flow reads no others."""
    from unnoticed.probes.flow_kernels import FIELDS, sort_segments

    p = packets

    def take(flow: I64, place: I64, count: int) -> I64:
        segments = np.empty((count, FIELDS), np.int64)
        sort_segments(
            *(flow, place, segments, p.time_ns, p.payload, p.sequence, p.acknowledgement, p.flags, p.window),
            *(p.options, p.sack_count, p.timestamps, p.timestamp, p.timestamp_echo),
        )
        return segments

    return [
        FlowSegments(flow=flow, sent=sent, received=received) for flow, sent, received in _split(packets, senders, take)
    ]


def _split(
    packets: Packets, senders: Collection[int] | None, take: Callable[[I64, I64, int], I64]
) -> list[tuple[Flow, I64, I64]]:
    """The flows with what they sent and received, out of what `take` puts into the order of flows.

    It is given the number of each row's flow (-1: of none), where each flow's begin, and how many there are in all.
    """
    from unnoticed.probes.flow_kernels import AGAINST, ALONG, INCARNATION, ROW

    chosen = (packets.protocol == PROTOCOL_TCP) & (packets.whole | packets.options_cut)
    if senders is not None and len(packets):
        near = np.zeros(len(packets), np.bool_)
        for sender in senders:
            near |= packets.sent_by(sender) | packets.sent_to(sender)
        chosen &= near
    flow = np.empty(len(packets), np.int64)
    connections = _assign(packets, chosen, flow)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(connections[:, ALONG : AGAINST + 1].ravel())])
    rows = take(flow, ends[:-1].copy(), int(ends[-1]))
    first, incarnation = connections[:, ROW], connections[:, INCARNATION]
    near_of, far_of = _addresses(packets, first, "source"), _addresses(packets, first, "destination")
    near_port, far_port = packets.source_port[first].tolist(), packets.destination_port[first].tolist()
    wanted = None if senders is None else set(senders)
    found = []
    bounds, times = ends.tolist(), incarnation.tolist()
    for number, (near_end, far_end) in enumerate(
        zip(zip(near_of, near_port, strict=True), zip(far_of, far_port, strict=True), strict=True)
    ):
        begin, middle, end = bounds[2 * number : 2 * number + 3]
        one, other = rows[begin:middle], rows[middle:end]
        for local, remote, sent, received in ((near_end, far_end, one, other), (far_end, near_end, other, one)):
            if len(sent) and (wanted is None or local[0] in wanted):
                flow_of = Flow(
                    local=local[0],
                    local_port=local[1],
                    remote=remote[0],
                    remote_port=remote[1],
                    incarnation=times[number],
                )
                found.append((flow_of, sent, received))
    found.sort(key=lambda one: _order(one[0]))
    return found


def _addresses(packets: Packets, rows: I64, end: str) -> list[int]:
    low, high = getattr(packets, end)[rows].tolist(), getattr(packets, f"{end}_high")[rows].tolist()
    return [lower | upper << 64 for lower, upper in zip(low, high, strict=True)]


def _order(flow: Flow) -> tuple[int, ...]:
    return flow.local, flow.remote, flow.local_port, flow.remote_port, flow.incarnation


def _assign(packets: Packets, chosen: Bool, flow: I64) -> I64:
    """Fill `flow` as the kernel of this name does, with as much room as it takes; what it knows by connection."""
    from unnoticed.probes.flow_kernels import EMPTY, assign, fill_slots

    room = 1 << 12
    keys, by_tuple = np.empty((room, 5), np.uint64), np.empty((room, 5), np.int64)
    by_connection = np.empty((room, 4), np.int64)
    ends = packets.source, packets.source_high, packets.destination, packets.destination_high
    columns = [
        chosen,
        *(end.astype(np.uint64, copy=False) for end in ends),
        *(packets.source_port, packets.destination_port, packets.flags, packets.sequence),
        flow,
    ]
    row, tuples, connections = 0, 0, 0
    while True:
        slots = np.full(4 * room, EMPTY, np.int64)
        fill_slots(slots, keys, tuples)
        row, tuples, connections = assign(row, tuples, connections, slots, keys, by_tuple, by_connection, *columns)
        if row == len(packets):
            return by_connection[:connections]
        room *= 4
        keys, by_tuple, by_connection = _taller(keys), _taller(by_tuple), _taller(by_connection)


def _taller(kept: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([kept, np.empty((3 * len(kept), kept.shape[1]), kept.dtype)])
