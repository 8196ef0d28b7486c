"""From where a connection was captured: at the sender of a direction, at its receiver, or not known.

What a count of retransmissions is worth depends on it. At the sender every frame passes the capture, and the count is
exact. Elsewhere what was lost before is not there: a frame sent again may be the first that comes by, so the count is
a lower bound. What can tell the place, in this order:

- the addresses: on the loopback of one host nothing lies between.
- the user: `at` holds the addresses of the hosts that captured.
- the file: Linux cooked captures and pcapng's packet flags mark frames that went out and came in.
- the answers: how soon each end is seen to acknowledge what the other sent. Next to an end, its answers come at once,
  and the other's take the round trip.

A switch between the capture and an end that is near by the answers may still have dropped frames.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unnoticed.probes.byte_stream import ByteStream
from unnoticed.probes.capture_file import INBOUND, OUTBOUND
from unnoticed.probes.packets import Packets
from unnoticed.probes.tcp_flows import FlowRows

Place = Literal["sender", "receiver", "between", "unknown"]
Source = Literal["loopback", "user", "file", "answers", ""]

_TIMES_SOONER = 8
_LEAST_DIFFERENCE_NS = 200_000  # below it, scheduling decides which of two answers comes sooner


@dataclass(frozen=True, kw_only=True)
class Vantage:
    """Where one direction was captured, and how that is known."""

    place: Place
    by: Source = ""


UNKNOWN = Vantage(place="unknown")


def vantage(
    packets: Packets, rows: FlowRows, stream: ByteStream, back: ByteStream, *, at: Collection[int] = ()
) -> Vantage:
    """Where the direction `rows` was captured; `back` is the stream of the other direction."""
    flow = rows.flow
    if flow.local == flow.remote or (_is_loopback(flow.local) and _is_loopback(flow.remote)):
        return Vantage(place="sender", by="loopback")
    here, there = flow.local in at, flow.remote in at
    if here or there:
        return Vantage(place="sender" if here else "receiver", by="user")
    sent, received = packets.direction[rows.sent], packets.direction[rows.received]
    marks = {OUTBOUND: (sent == OUTBOUND).all(), INBOUND: (sent == INBOUND).all()}
    if marks[OUTBOUND] and not (received == OUTBOUND).any():
        return Vantage(place="sender", by="file")
    if marks[INBOUND] and len(received) and (received == OUTBOUND).all():
        return Vantage(place="receiver", by="file")
    if marks[INBOUND] and len(received) and (received == INBOUND).all():
        return Vantage(place="between", by="file")
    return _by_answers(stream, back)


def _is_loopback(value: int) -> bool:
    return value == 1 or value >> 24 == 127


def _by_answers(stream: ByteStream, back: ByteStream) -> Vantage:
    far, near = soonest_answer_ns(stream), soonest_answer_ns(back)
    if far is None or near is None or abs(far - near) < _LEAST_DIFFERENCE_NS:
        return UNKNOWN
    if far >= _TIMES_SOONER * near:
        return Vantage(place="sender", by="answers")
    if near >= _TIMES_SOONER * far:
        return Vantage(place="receiver", by="answers")
    return UNKNOWN


def soonest_answer_ns(stream: ByteStream) -> int | None:
    """The least time from a frame of this direction to the acknowledgement of its bytes; None if there is none."""
    _, took = stream.answer_times
    return int(took.min()) if len(took) else None


def round_trip_ns(stream: ByteStream, back: ByteStream) -> int | None:
    """The least round trip between the two ends: that on this side of the capture, and that on the other side."""
    parts = [part for part in (soonest_answer_ns(stream), soonest_answer_ns(back)) if part is not None]
    return int(np.sum(parts)) if parts else None
