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

Types, by what the sender could have known (issue: the kernel does not say it on the wire). In this order:
- SYN: `rto`.
- until all is acknowledged that was in flight at a timeout: `rto`.
- the first unacknowledged byte, nothing heard and nothing of it sent for nearly the least RTO: `rto`; except that with
  SACK the first timer in a quiet connection is a tail-loss probe (RFC 8985 section 7): if the frame is all that is
  in flight, `tlp`.
- bytes above it were SACKed, or three duplicate ACKs without SACK, or such a recovery is not yet over: `fast`.
- the last bytes sent, no probe outstanding: `tlp`.
- else a timeout (an RTO below the assumed least): `rto`.
`spurious` marks, on top of the type, those that the receiver reported as duplicate (DSACK, RFC 2883).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unnoticed.probes.packets import ACK, FIN, I64, RST, SYN, Bool, Packets
from unnoticed.probes.tcp_flows import Flow, FlowRows, serial_difference, split_flows, unwrap

Type = Literal["rto", "fast", "tlp"]
LEAST_RTO_NS = 200_000_000  # TCP_RTO_MIN, include/net/tcp.h
TIMESTAMP_OPTION_BYTES = 12
_UNKNOWN_MSS = 1460


@dataclass(frozen=True, kw_only=True)
class Retransmission:
    """One frame that was sent again."""

    time_ns: int
    sequence: int  # as on the wire
    length: int  # bytes of payload sent before
    segments: int
    type: Type
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

    def retransmits_until(self, time_ns: int) -> int:
        """The same at an instant: a counter read before the connection's end knows no later ones."""
        return sum(row.segments for row in self.rows if row.time_ns <= time_ns)

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
    return [
        _count(packets, rows, snd_mss=known.get(rows.flow.name), least_rto_ns=least_rto_ns)
        for rows in split_flows(packets, senders=senders)
    ]


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """What the sender sent, n frames; positions are bytes from the first frame's sequence number."""

    time_ns: I64
    start: I64
    end: I64
    payload: I64
    high: I64  # the highest end of all frames before
    is_syn: Bool
    heard: I64  # index of the last received frame before it, -1 if none

    @property
    def again(self) -> Bool:
        mask: Bool = (self.end > self.start) & (self.start < self.high)
        return mask


@dataclass(frozen=True, kw_only=True)
class _Heard:
    """What came back, m frames."""

    time_ns: I64
    una: I64  # all below is acknowledged
    sacked: I64  # the highest SACKed position so far
    repeats: I64  # how often in a row the same acknowledgement came again, without data
    closed: Bool  # a window of zero
    duplicates: list[tuple[int, int, int]]  # (index, left, right) of every DSACK


def _count(packets: Packets, rows: FlowRows, *, snd_mss: int | None, least_rto_ns: int) -> FlowRetransmits:
    live = rows.sent[(packets.flags[rows.sent] & RST) == 0]  # a RST takes its number from elsewhere
    back = rows.received[(packets.flags[rows.received] & (RST | ACK)) == ACK]
    sent = _read_sent(packets, live, back)
    heard = _read_heard(packets, live, sent, back)
    mss, known = _mss(packets, rows, snd_mss)
    mss_of_each = np.maximum(mss - packets.options[live].astype(np.int64), 1)
    probes = _probes(sent, heard)
    again = sent.again & ~probes
    old = np.minimum(sent.payload, sent.high - sent.start)
    counted = np.where(again, old, sent.payload)
    segments = np.maximum(-(-counted // mss_of_each), 1)
    typed = _Typing(sent, heard, sack=_sack_in_use(packets, rows), least_rto_ns=least_rto_ns)
    chosen = np.flatnonzero(again)
    types = [typed.next(int(k)) for k in chosen]
    spurious = _spurious(sent, heard, chosen)
    meant = (sent.end > sent.start) & ~probes
    new = int(sent.payload[meant].sum() - np.maximum(old, 0)[again].sum())
    return FlowRetransmits(
        flow=rows.flow,
        mss=mss,
        mss_known=known,
        segments=int(segments[meant].sum()),
        new_bytes=new,
        probes=int(probes.sum()),
        first_ns=int(packets.time_ns[rows.sent[0]]),
        last_ns=int(packets.time_ns[rows.sent[-1]]),
        rows=tuple(
            Retransmission(
                time_ns=int(sent.time_ns[k]),
                sequence=int(packets.sequence[live[k]]),
                length=int(max(old[k], 0)),
                segments=int(segments[k]),
                type=kind,
                spurious=int(k) in spurious,
            )
            for k, kind in zip(chosen, types, strict=True)
        ),
    )


def _read_sent(packets: Packets, live: I64, back: I64) -> _Sent:
    flags = packets.flags[live]
    payload = packets.payload[live]
    start = unwrap(packets.sequence[live])
    end = start + payload + ((flags & SYN) != 0) + ((flags & FIN) != 0)
    # Before the first frame nothing is known to have been sent.
    high = np.maximum.accumulate(np.concatenate([start[:1], np.where(end > start, end, start[0] if len(start) else 0)]))
    return _Sent(
        time_ns=packets.time_ns[live],
        start=start,
        end=end,
        payload=payload,
        high=high[:-1] if len(start) else high,
        is_syn=(flags & SYN) != 0,
        heard=np.searchsorted(back, live) - 1,
    )


def _read_heard(packets: Packets, live: I64, sent: _Sent, back: I64) -> _Heard:
    if len(live) == 0 or len(back) == 0:
        none = np.zeros(0, np.int64)
        return _Heard(time_ns=none, una=none, sacked=none, repeats=none, closed=none.astype(np.bool_), duplicates=[])
    before = np.maximum(np.searchsorted(live, back) - 1, 0)
    top = np.maximum.accumulate(np.maximum(sent.high, sent.end))[before]  # the highest position sent by then
    top_number = (int(packets.sequence[live[0]]) + top) & 0xFFFFFFFF
    said = top - serial_difference(top_number, packets.acknowledgement[back])
    una = np.maximum.accumulate(said)
    edges = top[:, None, None] - serial_difference(top_number[:, None, None], packets.sack[back])
    count = packets.sack_count[back].astype(np.int64)
    left, right = edges[:, :, 0], edges[:, :, 1]
    # RFC 2883: the first block is a DSACK if it is acknowledged already, or lies within the second.
    within = (count > 1) & (left[:, 0] >= left[:, 1]) & (right[:, 0] <= right[:, 1])
    duplicate = (count > 0) & ((right[:, 0] <= said) | within)
    is_sack = (np.arange(4) < count[:, None]) & ~((np.arange(4) == 0) & duplicate[:, None])
    sacked = np.maximum.accumulate(np.where(is_sack, right, np.iinfo(np.int64).min).max(axis=1))
    same = np.concatenate([[False], (np.diff(una) == 0) & (packets.payload[back][1:] == 0)])
    run_start = np.maximum.accumulate(np.where(same, 0, np.arange(len(back))))
    return _Heard(
        time_ns=packets.time_ns[back],
        una=una,
        sacked=sacked,
        repeats=np.arange(len(back)) - run_start,
        closed=(packets.window[back] == 0),
        duplicates=[(int(i), int(left[i, 0]), int(right[i, 0])) for i in np.flatnonzero(duplicate)],
    )


def _mss(packets: Packets, rows: FlowRows, snd_mss: int | None) -> tuple[int, bool]:
    """The most a segment can carry, TCP options included; and whether that is known."""
    if snd_mss is not None and snd_mss > 0:
        return snd_mss + TIMESTAMP_OPTION_BYTES * bool(packets.timestamps[rows.sent].any()), True
    both = np.concatenate([rows.sent, rows.received])
    offered = packets.mss[both][packets.mss[both] > 0]
    return (int(offered.min()), True) if len(offered) else (_UNKNOWN_MSS, False)


def _sack_in_use(packets: Packets, rows: FlowRows) -> bool:
    """Whether both ends allowed SACK; assumed where no SYN was seen."""
    both = np.concatenate([rows.sent, rows.received])
    syns = both[(packets.flags[both] & SYN) != 0]
    return bool(packets.sack_permitted[syns].all())


def _probes(sent: _Sent, heard: _Heard) -> Bool:
    """Mask of keep-alives and window probes (RFC 9293 sections 3.8.4 and 3.8.6.1).

    Either one byte, or none, just below what is acknowledged; or the one byte behind a closed window, again.
    """
    count = len(sent.start)
    if len(heard.una) == 0 or count == 0:
        return np.zeros(count, np.bool_)
    some = sent.heard >= 0
    una = np.where(some, heard.una[sent.heard], np.iinfo(np.int64).min)
    closed = some & heard.closed[sent.heard]
    plain = (sent.payload <= 1) & (sent.end - sent.start == sent.payload)
    keep_alive = plain & (sent.start == una - 1)
    pushed = plain & closed & (sent.payload == 1) & (sent.start == una)
    first = dict[int, int]()
    for k in np.flatnonzero(pushed):
        first.setdefault(int(sent.start[k]), int(k))
    # Its first transmission is new data, and was sent against a closed window as well: only then is it a probe.
    originals = {k for k in first.values() if sent.start[k] >= sent.high[k]}
    window = np.zeros(count, np.bool_)
    for k in np.flatnonzero(pushed):
        original = first[int(sent.start[k])]
        window[k] = original in originals and k != original
    mask: Bool = keep_alive | window
    return mask


def _spurious(sent: _Sent, heard: _Heard, chosen: I64) -> set[int]:
    """The retransmissions that DSACKs report: each names the last ones of its bytes, sent before it.

    One DSACK can name several frames: the receiver's kernel joins those that arrive together.
    """
    found: set[int] = set()
    for index, left, right in heard.duplicates:
        unnamed = right - left
        for k in chosen[: int(np.searchsorted(sent.heard[chosen], index))][::-1].tolist():
            common = min(int(sent.end[k]), right) - max(int(sent.start[k]), left)
            if common > 0 and k not in found:
                found.add(k)
                unnamed -= common
            if unnamed <= 0:
                break
    return found


class _Typing:
    """Follows one sender's retransmissions in their order, and says what may have caused each."""

    def __init__(self, sent: _Sent, heard: _Heard, *, sack: bool, least_rto_ns: int) -> None:
        self._sent, self._heard, self._sack = sent, heard, sack
        self._quiet_ns = least_rto_ns * 9 // 10
        self._new = np.flatnonzero((sent.end > sent.start) & ~sent.again)
        self._new_start = sent.start[self._new]
        self._last_sent: dict[int, int] = {}
        nothing = np.iinfo(np.int64).min
        self._rto_until = self._fast_until = self._probe_until = int(nothing)

    def next(self, k: int) -> Type:
        """The type of the sent frame `k`, a retransmission later than all asked for before."""
        sent, heard = self._sent, self._heard
        start, end, high, now = int(sent.start[k]), int(sent.end[k]), int(sent.high[k]), int(sent.time_ns[k])
        j = int(sent.heard[k])
        una = int(heard.una[j]) if j >= 0 else int(sent.start[0])
        original = int(np.searchsorted(self._new_start, start, side="right")) - 1
        touched = int(sent.time_ns[self._new[original]]) if original >= 0 else now
        touched = max(touched, self._last_sent.get(start, touched), int(heard.time_ns[j]) if j >= 0 else touched)
        self._last_sent[start] = now
        quiet = now - touched >= self._quiet_ns
        lost = j >= 0 and (int(heard.sacked[j]) > max(start, una) or (not self._sack and int(heard.repeats[j]) >= 3))
        head, tail = start <= una, end >= high
        may_probe = self._sack and not lost and tail and una >= self._probe_until and una >= self._fast_until
        if sent.is_syn[k] or una < self._rto_until:
            return "rto"
        if head and quiet:
            return self._probe(high) if may_probe else self._timeout(high)
        if lost or una < self._fast_until:
            self._fast_until = max(self._fast_until, high)
            return "fast"
        return self._probe(high) if may_probe else self._timeout(high)

    def _probe(self, high: int) -> Type:
        self._probe_until = high
        return "tlp"

    def _timeout(self, high: int) -> Type:
        self._rto_until = high
        return "rto"
