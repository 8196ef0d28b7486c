"""Retransmitted segments in a capture taken at their sender, counted as Linux counts them, and typed.

Counting. Linux adds to tcpi_total_retrans, for every frame it retransmits, the segments it was cut into: ceil(payload
/ MSS), and 1 for a SYN or a FIN without data (net/ipv4/tcp_output.c, __tcp_retransmit_skb). All that a sender sends for
the first time starts where the highest byte sent so far ends; so in the order of sending, a frame that starts below
that is a retransmission. If it also carries new bytes (Linux never does this; other stacks do), only the old ones
count. The MSS of a frame is what both SYNs allow, less the frame's own TCP options. Keep-alives and window probes are
counted on their own.

This holds at the sender only, for a capture behind whatever may drop there: a frame that the sender's own queueing
discipline drops was counted by TCP and is not seen here. When a connection moves to another host, give both hosts'
captures merged: what the second sends again was sent by the first.

Types, by what the sender did and could have known (the kernel does not say it on the wire): `sender_kernels` follows
the congestion state of Linux's sender.
- `rto`: a SYN; what the retransmission timer sends (the first unacknowledged byte, after a silence); all that goes
  again after a timeout, until what was in flight is acknowledged or the timeout proves to have been spurious.
- `tlp`: a tail-loss probe (RFC 8985 section 7), the first timer in a quiet connection with SACK: the last bytes sent.
- `fast`: all else. Bytes above were SACKed, or three ACKs repeated another without SACK, or it was reported delayed.
`timeout` marks those for which the timer itself ran out: tcpi_total_rto counts these, and also those for which nothing
could be sent, because the frame was still in a queue of this host (`timeouts_held`).
`spurious` marks, on top of the type, those that the receiver reported as duplicate (DSACK, RFC 2883).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from unnoticed.probes.columns import I64, U8
from unnoticed.probes.packets import FIN, SYN, Packets
from unnoticed.probes.tcp_flows import Flow, FlowSegments, split_segments, unwrap

Type = Literal["rto", "fast", "tlp"]
LEAST_RTO_NS = 200_000_000  # TCP_RTO_MIN, include/net/tcp.h
TIMESTAMP_OPTION_BYTES = 12
_UNKNOWN_MSS = 1460
_TYPES: tuple[Type, ...] = ("rto", "fast", "tlp")  # by the numbers of sender_kernels


@dataclass(frozen=True, kw_only=True)
class Retransmission:
    """One frame that was sent again."""

    time_ns: int
    first_ns: int  # when its first byte was sent for the first time
    sequence: int  # as on the wire
    length: int  # bytes of payload sent before
    segments: int
    type: Type
    timeout: bool  # the retransmission timer ran out for it
    spurious: bool  # the receiver had it already, and said so


@dataclass(frozen=True, kw_only=True)
class FlowRetransmits:
    """A flow's retransmissions. All counts are of segments, except `probes` (frames)."""

    flow: Flow
    mss: int  # before TCP options
    mss_known: bool  # from a SYN or from the kernel, not assumed
    segments: int  # with data, SYN or FIN: first transmissions and repeated ones
    new_bytes: int  # of payload, sent at least once
    probes: int  # keep-alives and window probes
    first_ns: int
    last_ns: int
    rows: tuple[Retransmission, ...]

    @property
    def retransmits(self) -> int:
        """What tcpi_total_retrans of the sender says (of its sockets together, if the connection moved)."""
        return sum(row.segments for row in self.rows)

    def until(self, time_ns: int) -> FlowRetransmits:
        """The same up to an instant: a counter read before the connection's end knows no later ones."""
        return replace(self, rows=tuple(row for row in self.rows if row.time_ns <= time_ns))

    def timeouts_until(self, time_ns: int) -> int:
        """How often the retransmission timer had run out at an instant, and a frame was sent for it."""
        return sum(row.timeout for row in self.rows if row.time_ns <= time_ns)

    def timeouts_held(self, total_rto: int, *, time_ns: int) -> int:
        """How often the timer ran out and nothing was sent, given tcpi_total_rto at an instant (Linux 6.7 or newer)."""
        return total_rto - self.timeouts_until(time_ns)

    def of_type(self, kind: Type) -> int:
        return sum(row.segments for row in self.rows if row.type == kind)

    @property
    def spurious(self) -> int:
        return sum(row.segments for row in self.rows if row.spurious)


def count_retransmits(
    packets: Packets,
    *,
    senders: Collection[int] | None = None,
    snd_mss: Mapping[str, int] | None = None,
    least_rto_ns: int = LEAST_RTO_NS,
) -> list[FlowRetransmits]:
    """One result per flow that the hosts with the addresses `senders` sent (None: every source in the table).

    `packets` must be in order of capture and taken at those hosts. `snd_mss` gives TCP_INFO's snd_mss by flow name,
    for flows whose SYNs are not in the table or whose MSS was lowered later.
    """
    known = snd_mss or {}
    flows = split_segments(packets, senders=senders)
    room = _Room(frames=max((len(each.sent) for each in flows), default=0))
    return [_count(packets, each, room, snd_mss=known.get(each.flow.name), least_rto_ns=least_rto_ns) for each in flows]


class _Room:
    """What `follow` works in, for one flow after the other."""

    def __init__(self, *, frames: int) -> None:
        """For flows of at most so many frames."""
        self.flight = _flight(1 << 10)
        self.repeats = tuple(np.empty(frames, np.int64) for _ in range(3))
        integers = tuple(np.empty(frames, np.int64) for _ in range(3))
        self.again = integers + tuple(np.empty(frames, np.uint8) for _ in range(3))

    def enlarge(self) -> None:
        """For a flow that has more in flight at once."""
        self.flight = _flight(4 * len(self.flight[0]))


def _flight(segments: int) -> tuple[I64 | U8, ...]:
    return (*(np.empty(segments, np.int64) for _ in range(3)), np.empty(segments, np.uint8))


def _count(
    packets: Packets, each: FlowSegments, room: _Room, *, snd_mss: int | None, least_rto_ns: int
) -> FlowRetransmits:
    from unnoticed.probes.flow_kernels import TIME_NS
    from unnoticed.probes.sender_kernels import follow, survey

    offered, sack, stamps = survey(each.sent, each.received, packets.mss, packets.sack_permitted)
    known = True
    if snd_mss is not None and snd_mss > 0:
        mss = snd_mss + TIMESTAMP_OPTION_BYTES * stamps
    else:
        mss, known = (offered, True) if offered else (_UNKNOWN_MSS, False)
    count = -1
    while count < 0:
        count, total, new_bytes, probes = follow(
            *(each.sent, each.received, packets.sack, mss, sack, least_rto_ns * 9 // 10),
            *(*room.flight, *room.repeats, *room.again),
        )
        if count < 0:
            room.enlarge()
    row, *others = (column[:count] for column in room.again)
    return FlowRetransmits(
        flow=each.flow,
        mss=mss,
        mss_known=known,
        segments=total,
        new_bytes=new_bytes,
        probes=probes,
        first_ns=int(each.sent[0, TIME_NS]),
        last_ns=int(each.sent[-1, TIME_NS]),
        rows=tuple(
            Retransmission(
                time_ns=at,
                first_ns=first,
                sequence=number,
                length=old,
                segments=cut,
                type=_TYPES[code],
                timeout=by_timer != 0,
                spurious=in_vain != 0,
            )
            for at, first, number, old, cut, code, by_timer, in_vain in zip(
                packets.time_ns[row].tolist(),
                _first_sent_ns(each.sent, row).tolist(),
                packets.sequence[row].tolist(),
                *(column.tolist() for column in others),
                strict=True,
            )
        ),
    )


def _first_sent_ns(sent: I64, again: I64) -> I64:
    """When what some frames of a flow begin with was sent for the first time, as far as it is known.

    `sent`: all of the flow's (`flow_kernels`); `again`: the rows of those frames in the table of packets, ascending.
    """
    from unnoticed.probes.flow_kernels import INDEX, MARKS, PAYLOAD, SEQUENCES, TIME_NS

    if not len(again):
        return again
    starts = unwrap((sent[:, SEQUENCES] & 0xFFFFFFFF).astype(np.uint32))
    flags = sent[:, MARKS]
    ends = starts + sent[:, PAYLOAD] + (flags & SYN != 0) + (flags & FIN != 0)
    highest = np.concatenate((starts[:1], np.maximum.accumulate(ends)[:-1]))
    new = np.flatnonzero(ends > highest)
    at = np.searchsorted(sent[:, INDEX], again)
    first: I64 = sent[at, TIME_NS]
    number = np.searchsorted(starts[new], starts[at], side="right") - 1
    is_known = number >= 0
    first[is_known] = sent[new[number[is_known]], TIME_NS]
    return first
