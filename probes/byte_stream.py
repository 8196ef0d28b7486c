"""What one end of a TCP connection sent, as positions in its stream of bytes, and what came back about it.

Position 0 is the sequence number of the first frame of the flow in the capture; a SYN and a FIN take a position each.
Everything is in the order of capture, at the place of capture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unnoticed.probes.packets import ACK, FIN, I64, RST, SYN, Bool, Packets
from unnoticed.probes.tcp_flows import FlowRows, serial_difference, unwrap

_NOTHING = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, kw_only=True)
class ByteStream:
    """n frames with data, a SYN or a FIN; m acknowledgements from the other end."""

    row: I64  # (n,) in the table of packets
    time_ns: I64  # (n,)
    start: I64  # (n,)
    end: I64  # (n,)
    before: I64  # (n,) the highest end of all frames before
    heard_row: I64  # (m,)
    heard_ns: I64  # (m,)
    una: I64  # (m,) all below is acknowledged, by this or an earlier one
    sacked: I64  # (m,) the highest SACKed position so far; far below 0 if there is none
    is_dsack: Bool  # (m,) the acknowledgement reports bytes that arrived twice (RFC 2883)
    closed: Bool  # (m,) it closes the window
    plain: Bool  # (m,) without data, SYN or FIN

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def top(self) -> I64:
        """The highest end so far, each frame's own included."""
        return np.maximum(self.before, self.end)

    @cached_property
    def again(self) -> Bool:
        """Mask of the frames that start below what was sent before."""
        mask: Bool = self.start < self.before
        return mask

    @cached_property
    def advances(self) -> I64:
        """Which of the m acknowledge more than all before."""
        floor = self.start[0] if len(self) else 0
        known = np.concatenate([np.array([floor], np.int64), self.una[:-1]]) if len(self.una) else self.una
        return np.flatnonzero(self.una > known)

    @property
    def has_holes(self) -> bool:
        """Whether frames are missing where they were first sent: lost or overtaken before, or not captured."""
        return bool((self.start > self.before).any())

    def brought(self, position: I64) -> I64:
        """The first frame with which all below a position had been sent; n if there is none."""
        return np.searchsorted(self.top, position, side="left")

    @cached_property
    def answer_times(self) -> tuple[I64, I64]:
        """(when, how long it took) of the answers to frames of which nothing was sent again (Karn's rule)."""
        at = self.advances
        frame = self.brought(self.una[at])
        at, frame = at[frame < len(self)], frame[frame < len(self)]
        again = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.again)])
        sent_by_then = np.searchsorted(self.row, self.heard_row[at])
        good = (sent_by_then > frame) & (again[np.maximum(sent_by_then, frame)] == again[frame])
        when, took = self.heard_ns[at[good]], self.heard_ns[at[good]] - self.time_ns[frame[good]]
        return when[took >= 0], took[took >= 0]


def byte_stream(packets: Packets, rows: FlowRows) -> ByteStream:
    """One direction of a connection. RSTs are in neither: they take their numbers from elsewhere."""
    live = rows.sent[(packets.flags[rows.sent] & RST) == 0]
    back = rows.received[(packets.flags[rows.received] & (RST | ACK)) == ACK]
    flags = packets.flags[live]
    start = unwrap(packets.sequence[live])
    end = start + packets.payload[live] + ((flags & SYN) != 0) + ((flags & FIN) != 0)
    some = end > start
    first = start[some][:1]
    top = np.maximum.accumulate(np.concatenate([first, end[some]])) if len(first) else first
    una, sacked, is_dsack = _heard(packets, live, start, np.maximum.accumulate(end), back)
    return ByteStream(
        row=live[some],
        time_ns=packets.time_ns[live[some]],
        start=start[some],
        end=end[some],
        before=top[:-1],
        heard_row=back,
        heard_ns=packets.time_ns[back],
        una=una,
        sacked=sacked,
        is_dsack=is_dsack,
        closed=(packets.window[back] == 0) & ((packets.flags[back] & (SYN | FIN)) == 0),
        plain=(packets.payload[back] == 0) & ((packets.flags[back] & (SYN | FIN)) == 0),
    )


def _heard(packets: Packets, live: I64, start: I64, top: I64, back: I64) -> tuple[I64, I64, Bool]:
    """(una, sacked, is_dsack) of the acknowledgements: numbers near the highest sent by then become positions."""
    if len(live) == 0 or len(back) == 0:
        nothing = np.full(len(back), _NOTHING)
        return nothing, nothing, np.zeros(len(back), np.bool_)
    by_then = np.maximum(np.searchsorted(live, back) - 1, 0)
    near = np.maximum(top, start)[by_then]
    number = (int(packets.sequence[live[0]]) + near) & 0xFFFFFFFF
    said = near - serial_difference(number, packets.acknowledgement[back])
    count = packets.sack_count[back].astype(np.int64)
    if not count.any():
        return np.maximum.accumulate(said), np.full(len(back), _NOTHING), np.zeros(len(back), np.bool_)
    edges = near[:, None, None] - serial_difference(number[:, None, None], packets.sack[back])
    left, right = edges[:, :, 0], edges[:, :, 1]
    # RFC 2883: the first block is a DSACK if it is acknowledged already, or lies within the second.
    within = (count > 1) & (left[:, 0] >= left[:, 1]) & (right[:, 0] <= right[:, 1])
    is_dsack = (count > 0) & ((right[:, 0] <= said) | within)
    is_sack = (np.arange(4) < count[:, None]) & ~((np.arange(4) == 0) & is_dsack[:, None])
    highest = np.where(is_sack, right, _NOTHING).max(axis=1)
    return np.maximum.accumulate(said), np.maximum.accumulate(highest), is_dsack
