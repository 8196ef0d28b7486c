"""When a TCP connection stood still though bytes were on their way, and what outage of the path that bounds.

A stall: the longest time in which nothing new was acknowledged while something was outstanding. That is what the flow
felt, round trip included; TCP rounds an outage up to its retransmission schedule, so the two are never one figure.

The outage is bounded by the longest silence within the stall: no acknowledgement that shows anything to have arrived.
Taken to be one outage, it began after the newest frame that is known to have arrived was sent, and was over when the
silence ended: `high_ns`. It lasted at least from the first frame without an answer to the last one that cannot be
what ended the silence, since it was itself sent again, less what an answer takes at most, since the first may have
arrived and its answer have been lost: `low_ns`. Frames that were lost one by one, without an outage, have a `low_ns`
of the time between those lost.

A closed window is the receiver's will, and no stall; see `closed_ns`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unnoticed.probes.byte_stream import ByteStream
from unnoticed.probes.columns import I64
from unnoticed.probes.stalls import Interval

_AROUND = 50  # answers before a silence that tell what one takes


@dataclass(frozen=True, kw_only=True)
class Stall:
    """One direction's longest time without progress.

    `end_ns` is None if it was not over; `high_ns` then too, and where the outage may have begun before the first frame.
    """

    start_ns: int
    end_ns: int | None
    duration_ns: int  # or as much of it as the capture has
    low_ns: int
    high_ns: int | None


def longest_stall(stream: ByteStream, *, last_ns: int, reset: bool = False) -> Stall | None:
    """The longest stall of a direction; None if nothing was ever outstanding, or nothing came back to tell.

    `last_ns`: when the connection was last seen. `reset`: it ended by a RST, after which nothing was due.
    """
    if not len(stream):
        return None
    starts, ends, edges = _waits(stream)
    outstanding = int(stream.top[-1]) > (int(stream.una[-1]) if len(stream.una) else int(stream.start[0]))
    is_open = outstanding and not reset and len(stream.una) > 0
    if is_open:
        floor = max(int(stream.una[-1]), int(stream.start[0]))
        since = max(_sent_above_ns(stream, floor), int(ends[-1]) if len(ends) else 0)
        starts, ends = np.append(starts, since), np.append(ends, max(last_ns, since))
        edges = np.append(edges, len(stream.una))
    if not len(starts):
        return None
    durations = np.where(_closed_at(stream, edges), -1, ends - starts)
    k = int(durations.argmax())
    if durations[k] < 0:
        return None
    over = not (is_open and k == len(starts) - 1)
    low, high = _outage(stream, start_ns=int(starts[k]), end=int(edges[k]), last_ns=None if over else last_ns)
    return Stall(
        start_ns=int(starts[k]),
        end_ns=int(ends[k]) if over else None,
        duration_ns=int(durations[k]),
        low_ns=low,
        high_ns=high if over else None,
    )


def closed_ns(stream: ByteStream, *, last_ns: int) -> int:
    """The longest time in which the receiver kept its window closed."""
    return max((one.duration_ns for one in closed_windows(stream, last_ns=last_ns)), default=0)


def closed_windows(stream: ByteStream, *, last_ns: int) -> list[Interval]:
    """When the receiver kept its window closed."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], stream.closed, [False]]).astype(np.int8)))
    times = np.append(stream.heard_ns, last_ns)
    return [
        Interval(start_ns=int(times[first]), end_ns=int(times[behind]))
        for first, behind in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


def _waits(stream: ByteStream) -> tuple[I64, I64, I64]:
    """(start, end, which acknowledgement ended it) of every time with something outstanding that ended."""
    at = stream.advances
    known = np.concatenate([stream.start[:1], stream.una[at][:-1]]) if len(at) else at
    frame = np.searchsorted(stream.top, known, side="right")  # the first that was sent above what is known
    seen = frame < len(stream)
    at, frame = at[seen], frame[seen]
    ended = stream.heard_ns[stream.advances]
    before = np.concatenate([stream.time_ns[:1], ended[:-1]])[seen] if len(ended) else ended
    start = np.maximum(before, stream.time_ns[frame])
    good = start <= stream.heard_ns[at]
    return start[good], stream.heard_ns[at][good], at[good]


def _sent_above_ns(stream: ByteStream, position: int) -> int:
    return int(stream.time_ns[int(np.searchsorted(stream.top, position, side="right"))])


def _closed_at(stream: ByteStream, edges: I64) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether the window was closed when the wait that each edge ended began, or at any time in it."""
    if not stream.closed.any():
        return np.zeros(len(edges), np.bool_)
    closed = np.concatenate([np.zeros(1, np.int64), np.cumsum(stream.closed)])
    previous = np.concatenate([np.zeros(1, np.int64), stream.advances])
    begin = previous[np.searchsorted(stream.advances, edges)]  # the acknowledgement with which it began
    mask: np.ndarray[tuple[int], np.dtype[np.bool_]] = closed[np.minimum(edges, len(stream.una))] > closed[begin]
    return mask


def _outage(stream: ByteStream, *, start_ns: int, end: int, last_ns: int | None) -> tuple[int, int | None]:
    """(low, high) of the outage behind a stall that the acknowledgement number `end` ended, or the capture did."""
    previous = int(np.searchsorted(stream.advances, end))
    begin = int(stream.advances[previous - 1]) if previous else -1
    # Acknowledgements without progress or data show that something arrived; between which was it silent for longest?
    inside = np.arange(begin + 1, end)
    inside = inside[stream.plain[inside] & (stream.heard_ns[inside] >= start_ns)]
    over_ns = int(stream.heard_ns[end]) if last_ns is None else last_ns
    moments = np.concatenate([[start_ns], stream.heard_ns[inside], [over_ns]])
    k = int(np.diff(moments).argmax())
    silent_ns, spoke_ns = int(moments[k]), int(moments[k + 1])
    shows = begin if k == 0 else int(inside[k - 1])
    newest = _newest_arrived(stream, shows)
    unanswered = _unanswered(stream, shows=shows, newest=newest, until_ns=spoke_ns)
    oldest = int(stream.una[shows]) if shows >= 0 else int(stream.start[0])
    head = unanswered[(stream.start[unanswered] <= oldest) & (stream.end[unanswered] > oldest)]
    if newest < 0 and len(head) > 1:
        high = None  # what was sent first was sent again: the path may have been away before
    else:
        high = max(spoke_ns - min(int(stream.time_ns[max(newest, 0)]), silent_ns), 0)
    near = _answer_before(stream, silent_ns)
    if near is None:
        return 0, high
    early = stream.time_ns[unanswered] + near <= spoke_ns
    if last_ns is None:
        # What of the oldest bytes was sent last is what was answered in the end.
        early &= unanswered < (int(head[-1]) if len(head) else 0)
    failed = stream.time_ns[unanswered[early]]
    low = int(failed[-1] - failed[0]) - near if len(failed) else 0
    return max(low if high is None else min(low, high), 0), high


def _unanswered(stream: ByteStream, *, shows: int, newest: int, until_ns: int) -> I64:
    """The frames of which the acknowledgement `shows` does not show that they arrived, sent before `until_ns`."""
    frames = np.arange(newest + 1, len(stream))
    frames = frames[stream.time_ns[frames] < until_ns]
    if shows < 0:
        return frames
    # A frame that was sent again between bytes that have arrived may have arrived as well.
    inside = stream.end[frames] <= max(int(stream.sacked[shows]), int(stream.una[shows]))
    answered = (stream.end[frames] <= stream.una[shows]) | (inside & (stream.time_ns[frames] < stream.heard_ns[shows]))
    left: I64 = frames[~answered]
    return left


def _newest_arrived(stream: ByteStream, shows: int) -> int:
    """The newest frame of which an acknowledgement (and those before it) show that it arrived; -1: none."""
    if shows < 0:
        return -1
    position = max(int(stream.una[shows]), int(stream.sacked[shows]))
    frame = int(stream.brought(np.array([position], np.int64))[0])
    return min(frame, len(stream) - 1) if position > stream.start[0] else -1


def _answer_before(stream: ByteStream, time_ns: int) -> int | None:
    """The most that an answer took shortly before; None if there were none."""
    when, took = stream.answer_times
    near = took[: int(np.searchsorted(when, time_ns, side="right"))][-_AROUND:]
    if not len(near):
        near = took[:_AROUND]
    return int(near.max()) if len(near) else None
