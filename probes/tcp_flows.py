"""TCP connections in a packet table: which rows belong to which, and sequence numbers without wrap-around.

Sequence numbers are compared by serial arithmetic (RFC 1982, RFC 9293 section 3.4): only the signed 32-bit
difference of two of them has a meaning. Comparing them as integers invents retransmissions at every wrap.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from unnoticed.probes.packets import ACK, I64, PROTOCOL_TCP, SYN, Packets


@dataclass(frozen=True, kw_only=True, order=True)
class Flow:
    """One sending direction of one TCP connection. `incarnation` counts connections that reuse the four-tuple."""

    local: int  # the sender's IPv4 address
    local_port: int
    remote: int
    remote_port: int
    incarnation: int = 0

    @property
    def local_name(self) -> str:
        return f"{ipaddress.IPv4Address(self.local)}:{self.local_port}"

    @property
    def remote_name(self) -> str:
        return f"{ipaddress.IPv4Address(self.remote)}:{self.remote_port}"

    @property
    def name(self) -> str:
        """E.g. "10.77.1.1:40000>10.77.0.100:7000"."""
        return f"{self.local_name}>{self.remote_name}"


@dataclass(frozen=True, kw_only=True)
class FlowRows:
    """A flow's rows in the table: what its sender sent, and what came back to it. Both ascending."""

    flow: Flow
    sent: I64
    received: I64


def address(text: str) -> int:
    """An IPv4 address as the integer that the table holds."""
    return int(ipaddress.IPv4Address(text))


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
    """The TCP flows of a table whose sender is among `senders` (addresses as integers; None: all of them)."""
    tcp = np.flatnonzero((packets.protocol == PROTOCOL_TCP) & packets.whole)
    if senders is None:
        out = back = tcp
    else:
        local = np.array(sorted(senders), np.uint32)
        out = tcp[np.isin(packets.source[tcp], local)]
        back = tcp[np.isin(packets.destination[tcp], local)]
    u64 = np.uint64

    def keys(near: Any, near_port: Any, far: Any, far_port: Any) -> tuple[Any, Any]:
        return near.astype(u64) << u64(32) | far, near_port.astype(u64) << u64(16) | far_port

    ports = packets.source_port, packets.destination_port
    out_key = keys(packets.source[out], ports[0][out], packets.destination[out], ports[1][out])
    back_key = keys(packets.destination[back], ports[1][back], packets.source[back], ports[0][back])
    rows = np.concatenate([out, back])
    is_out = np.arange(len(rows)) < len(out)
    addresses, which = np.unique(np.concatenate([out_key[0], back_key[0]]), return_inverse=True)
    tuples, group = np.unique(
        which.astype(u64) << u64(32) | np.concatenate([out_key[1], back_key[1]]), return_inverse=True
    )
    order = np.lexsort((rows, group))
    bounds = np.searchsorted(group[order], np.arange(len(tuples) + 1))
    found = []
    for number, value in enumerate(tuples.tolist()):
        mine = order[bounds[number] : bounds[number + 1]]
        pair = int(addresses[value >> 32])
        flow = Flow(
            local=pair >> 32, remote=pair & 0xFFFFFFFF, local_port=(value >> 16) & 0xFFFF, remote_port=value & 0xFFFF
        )
        found += _split_incarnations(packets, flow, rows[mine[is_out[mine]]], rows[mine[~is_out[mine]]])
    return found


def _split_incarnations(packets: Packets, flow: Flow, sent: I64, received: I64) -> list[FlowRows]:
    """A SYN with another initial sequence number starts another connection; a repeated one does not."""
    if len(sent) == 0:
        return []
    both = np.sort(np.concatenate([sent, received]))
    syns = both[(packets.flags[both] & SYN) != 0]
    starts: list[int] = []
    known: dict[bool, int] = {}  # initial sequence number, by whether it is the answer
    for row in syns.tolist():
        answer, number = bool(packets.flags[row] & ACK), int(packets.sequence[row])
        if answer in known and known[answer] != number:
            starts.append(row)
            if not answer:
                known.clear()
        elif not answer and not known and row != both[0]:
            starts.append(row)  # the capture began within an earlier connection
        known[answer] = number
    edges = [0, *starts, int(both[-1]) + 1]
    parts = []
    for incarnation, (first, last) in enumerate(pairwise(edges)):
        mine = sent[(sent >= first) & (sent < last)]
        if len(mine):
            part = Flow(
                local=flow.local,
                local_port=flow.local_port,
                remote=flow.remote,
                remote_port=flow.remote_port,
                incarnation=incarnation,
            )
            parts.append(FlowRows(flow=part, sent=mine, received=received[(received >= first) & (received < last)]))
    return parts
