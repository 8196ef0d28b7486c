"""Which frames that come late in their stream were sent again, and which were only overtaken on the way.

At a sender, what starts below the highest byte so far was sent before. Elsewhere a frame may be missing because it
was lost before the capture, or overtaken; when its bytes come by after all, they fill a hole. A hole that is filled
tells a retransmission from an overtaken frame only by the IP-ID: a sender counts it up, so what is sent again has a
later one than all that came by before (Bellardo and Savage, IMW 2002).
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from unnoticed.probes.byte_stream import ByteStream
from unnoticed.probes.columns import Bool
from unnoticed.probes.packets import ETHERTYPE_IPV4, Packets

Kind = Literal["again", "overtaken", "unclear"]
_COUNTED = 0.9  # of the steps between two IP-IDs that are small, where they tell something
_SMALL_STEP = 2048


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """`kinds`: for each frame that starts below the highest byte so far, by its number in the stream."""

    kinds: dict[int, Kind]
    missing_bytes: int  # that were acknowledged, and never came by

    def count(self, kind: Kind) -> int:
        return sum(1 for found in self.kinds.values() if found == kind)


def repeats(packets: Packets, stream: ByteStream) -> Repeats:
    """Sort the late frames of a stream; without holes in it all were sent again."""
    late = np.flatnonzero(stream.again)
    if not stream.has_holes:
        return Repeats(kinds=dict.fromkeys(late.tolist(), "again"), missing_bytes=_beyond(stream))
    numbers = packets.ip_id[stream.row]
    counted = bool((packets.ethertype[stream.row] == ETHERTYPE_IPV4).all()) and _count_up(numbers)
    kinds: dict[int, Kind] = {}
    holes = _Holes()
    latest = -1
    rows = zip(stream.start.tolist(), stream.end.tolist(), stream.before.tolist(), numbers.tolist(), strict=True)
    for k, (start, end, before, number) in enumerate(rows):
        if start > before:
            holes.add(before, start)
        elif start < before:
            filled = holes.fill(start, end)
            if not filled:
                kinds[k] = "again"
            elif counted and number and latest >= 0:
                kinds[k] = "again" if _after(number, latest) else "overtaken"
            else:
                kinds[k] = "unclear"
        if number and (latest < 0 or _after(number, latest)):
            latest = number
    acknowledged = int(stream.una[-1]) if len(stream.una) else int(stream.start[0])
    return Repeats(kinds=kinds, missing_bytes=holes.below(acknowledged) + _beyond(stream))


def _beyond(stream: ByteStream) -> int:
    """Bytes acknowledged above all that came by."""
    if not len(stream) or not len(stream.una):
        return 0
    return max(int(stream.una[-1]) - int(stream.top[-1]), 0)


def _after(number: int, other: int) -> bool:
    """Serial arithmetic of 16 bits (RFC 1982)."""
    return 0 < (number - other) & 0xFFFF < 0x8000


def _count_up(numbers: npt.NDArray[np.uint16]) -> bool:
    """Whether they are those of a counter, whose steps are small, if not always forward where frames are overtaken."""
    told = numbers[numbers != 0].astype(np.int64)
    if len(told) < 3:
        return False
    steps = np.abs((np.diff(told) + 0x8000 & 0xFFFF) - 0x8000)
    small: Bool = (steps > 0) & (steps < _SMALL_STEP)
    return bool(small.mean() >= _COUNTED)


class _Holes:
    """Stretches of the stream that have not come by: disjoint, ascending."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

    def add(self, first: int, last: int) -> None:
        """A hole above all others."""
        self._first.append(first)
        self._last.append(last)

    def fill(self, start: int, end: int) -> bool:
        """Take [start, end) off the holes; whether there was anything to fill."""
        at = bisect.bisect_right(self._last, start)
        behind = bisect.bisect_left(self._first, end)
        if at >= behind:
            return False
        rest = [(self._first[at], start), (end, self._last[behind - 1])]
        rest = [(first, last) for first, last in rest if first < last]
        self._first[at:behind] = [first for first, _ in rest]
        self._last[at:behind] = [last for _, last in rest]
        return True

    def below(self, position: int) -> int:
        """How many bytes of the holes are below a position."""
        return sum(max(min(last, position) - first, 0) for first, last in zip(self._first, self._last, strict=True))
