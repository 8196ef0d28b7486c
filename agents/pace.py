"""The pace of a post-copy's push: just under what the path takes, so that no queue builds up before demanded pages.

Nobody has to say what the path takes. The push begins slowly and doubles its pace until the path carries no more; what
the kernel sees delivered then, once queues and bursts on the way are full, is its rate. A queue is there for as long as
that takes, some milliseconds, and is let run dry before the push goes on. It is tried now and then whether the path
carries more by now; and a queue all the same says that it carries less. Pure.
"""

from __future__ import annotations

from enum import Enum, auto
from statistics import median

_FIRST_BYTES_PER_S = 50_000_000
_LEAST_BYTES_PER_S = 1_000_000  # below that, TCP itself is no hindrance to anybody
_SHARE = 0.94  # of what the path takes
_WINDOW_NS = 6_000_000  # to find that a pace is not carried, or two round trips
_CARRIED = 0.85  # a window in which less than so much of the pace got through: the path is full
_SAMPLES = 3  # of the delivery rate, on a full path: one may be off by a moment in which the machine stood still
_LOOKS = 8  # among so many looks
_DRAINING = 0.5  # of what the path takes, while a queue runs dry
_DRAINING_MOST_NS = 200_000_000
_AGAIN_NS, _AGAIN_MOST_NS = 2_000_000_000, 8_000_000_000  # until more is tried; twice as long after each time in vain
_PATIENCE_NS = 1_000_000_000  # a measurement holds so long, even where there is a queue
_ABOVE = 1.5  # what to try then
_QUEUE_US = 1_000  # a round trip longer than the shortest by so much, and twice as long: there is a queue
_QUEUED_WINDOWS = 8  # for so long


class _Stage(Enum):
    GROWING = auto()  # is so much carried?
    MEASURING = auto()  # the path is full
    DRAINING = auto()
    HELD = auto()


class Pace:
    """Decides how fast to push, from what the kernel says of the connection."""

    def __init__(self, *, limit_bytes_per_s: int = 0) -> None:
        """`limit_bytes_per_s`: no faster than this, in any case; 0: no such limit."""
        self._limit = limit_bytes_per_s
        self.bytes_per_s = self._limited(_FIRST_BYTES_PER_S)
        self._stage = _Stage.GROWING
        self._window: tuple[int, int] | None = None  # its start, and what had been acknowledged by then
        self._samples: list[int] = []
        self._target = 0  # the pace to hold; while more is only tried: to return to
        self._drained_ns = 0
        self._settled_ns, self._again_ns, self._again_after_ns = 0, 0, _AGAIN_NS
        self._queued = 0

    def look(self, now_ns: int, *, acked_bytes: int, delivery_bytes_per_s: int, rtt_us: int, min_rtt_us: int) -> bool:
        """Take a look at the connection; true if `bytes_per_s` has changed. To be called every few milliseconds.

        Bytes since the connection began; the kernel's latest sample of the delivery rate (0: none yet); round trips as
        smoothed by the kernel, and the shortest (-1: not known).
        """
        before = self.bytes_per_s
        queue_us = rtt_us - min_rtt_us if min_rtt_us >= 0 else 0
        if self._stage is _Stage.MEASURING:
            self._measure(now_ns, delivery_bytes_per_s, queue_us)
        elif self._stage is _Stage.DRAINING:
            if now_ns >= self._drained_ns:
                self._stage, self.bytes_per_s = _Stage.HELD, self._target
                self._window = now_ns, acked_bytes
        elif self._window is None:
            self._window = now_ns, acked_bytes
        elif now_ns - self._window[0] >= max(_WINDOW_NS, 2000 * min_rtt_us):
            start_ns, before_bytes = self._window
            self._window = now_ns, acked_bytes
            if self._stage is _Stage.GROWING:
                rate = (acked_bytes - before_bytes) * 1e9 / (now_ns - start_ns)
                self._grow(now_ns, rate, delivery_bytes_per_s, queue_us)
            else:
                self._hold(now_ns, queue_us > max(_QUEUE_US, min_rtt_us))
        return self.bytes_per_s != before

    def _grow(self, now_ns: int, rate: float, delivery_bytes_per_s: int, queue_us: int) -> None:
        if rate >= self.bytes_per_s * _CARRIED:
            self._target = 0
            if self.bytes_per_s == self._limit:
                self._settle(now_ns, self._limit, 0)
            else:
                self.bytes_per_s = self._limited(2 * self.bytes_per_s)
        elif self._target:  # it carries no more than before
            self._again_after_ns = min(2 * self._again_after_ns, _AGAIN_MOST_NS)
            self._settle(now_ns, self._target, queue_us)
        else:
            self._stage = _Stage.MEASURING
            self._measure(now_ns, delivery_bytes_per_s, queue_us)

    def _measure(self, now_ns: int, delivery_bytes_per_s: int, queue_us: int) -> None:
        self._samples.append(delivery_bytes_per_s)
        # What is delivered faster than it is sent went through in one burst: there is no queue at that moment.
        rates = [rate for rate in self._samples if 0 < rate < self.bytes_per_s]
        if len(rates) >= _SAMPLES:
            pace = max(_LEAST_BYTES_PER_S, int(median(rates) * _SHARE))
            self._samples.clear()
            self._again_after_ns = _AGAIN_NS
            self._settle(now_ns, self._limited(pace), queue_us)
        elif len(self._samples) >= _LOOKS:  # the path is not full: the machine stood still
            self._samples.clear()
            self._stage, self._window = _Stage.GROWING, None

    def _settle(self, now_ns: int, pace: int, queue_us: int) -> None:
        """Hold a pace, once the queue has gone that there is."""
        self._target, self._queued = pace, 0
        draining_ns = min(int(1000 * queue_us / (1 - _DRAINING)), _DRAINING_MOST_NS)
        self._settled_ns, self._again_ns = now_ns, now_ns + self._again_after_ns
        if draining_ns > 0:
            self._stage, self._drained_ns = _Stage.DRAINING, now_ns + draining_ns
            self.bytes_per_s = max(_LEAST_BYTES_PER_S, int(pace * _DRAINING))
        else:
            self._stage, self.bytes_per_s = _Stage.HELD, pace

    def _hold(self, now_ns: int, is_queued: bool) -> None:
        self._queued = self._queued + 1 if is_queued else 0
        is_slower = self._queued >= _QUEUED_WINDOWS
        if now_ns > self._again_ns or (is_slower and now_ns > self._settled_ns + _PATIENCE_NS):
            self._target = 0 if is_slower else self.bytes_per_s
            self._stage, self._queued = _Stage.GROWING, 0
            self.bytes_per_s = self._limited(int(self.bytes_per_s * _ABOVE))

    def _limited(self, bytes_per_s: int) -> int:
        return min(bytes_per_s, self._limit) if self._limit else bytes_per_s
