"""The pace of a post-copy's push: just under what the path takes, so that no queue builds up before demanded pages.

Nobody has to say what the path takes. The push begins slowly and doubles its pace until the path carries no more; what
it carries then, once queues and bursts on the way are full, is its rate. So there is a queue for some milliseconds, and
again when the path is found to have changed: it is tried now and then whether it carries more, and a queue all the same
says that it carries less. Pure.
"""

from __future__ import annotations

_FIRST_BYTES_PER_S = 25_000_000
_LEAST_BYTES_PER_S = 1_000_000  # below that, TCP itself is no hindrance to anybody
_SHARE = 0.93  # of what the path takes
_WINDOW_NS = 6_000_000  # to find that a pace is not carried, or two round trips
_MEASURE_NS = 24_000_000  # to find what is carried instead: 64 KiB more or less, as they come at once, are 2 % of it
_CARRIED = 0.85  # a window in which less than so much of the pace got through: the path is full
_AGAIN_NS = 1_000_000_000  # how long a measurement holds at least
_ABOVE = 1.5  # what to try then
_QUEUE_US = 1_000  # a round trip longer than the shortest by so much, and twice as long: there is a queue
_QUEUED_WINDOWS = 8  # for so long


class Pace:
    """Decides how fast to push, from what the kernel says of the connection."""

    def __init__(self, *, limit_bytes_per_s: int = 0) -> None:
        """`limit_bytes_per_s`: no faster than this, in any case; 0: no such limit."""
        self._limit = limit_bytes_per_s
        self.bytes_per_s = self._limited(_FIRST_BYTES_PER_S)
        self._is_measuring = True
        self._is_full = False
        self._window: tuple[int, int] | None = None  # its start, and what had been acknowledged by then
        self._measured_ns = 0
        self._queued = 0
        self._held = 0  # the pace to return to, where more is only tried

    def look(self, now_ns: int, *, acked_bytes: int, rtt_us: int, min_rtt_us: int) -> bool:
        """Take a look at the connection; true if `bytes_per_s` has changed. To be called every few milliseconds.

        Bytes since the connection began; round trips as smoothed by the kernel, and the shortest (-1: not known).
        """
        before = self.bytes_per_s
        if self._window is None:
            self._window = now_ns, acked_bytes
            return False
        start_ns, before_bytes = self._window
        length_ns = _MEASURE_NS if self._is_full else _WINDOW_NS
        if now_ns - start_ns < max(length_ns, 2000 * min_rtt_us):
            return False
        self._window = now_ns, acked_bytes
        if self._is_measuring:
            self._measure(now_ns, (acked_bytes - before_bytes) * 1e9 / (now_ns - start_ns))
        else:
            is_queued = min_rtt_us >= 0 and rtt_us > max(min_rtt_us + _QUEUE_US, 2 * min_rtt_us)
            self._queued = self._queued + 1 if is_queued else 0
            if now_ns - self._measured_ns > _AGAIN_NS:
                self._held = 0 if self._queued >= _QUEUED_WINDOWS else self.bytes_per_s
                self._is_measuring, self._is_full, self._queued = True, False, 0
                self.bytes_per_s = self._limited(int(self.bytes_per_s * _ABOVE))
        return self.bytes_per_s != before

    def _measure(self, now_ns: int, rate: float) -> None:
        if rate < self.bytes_per_s * _CARRIED:
            if self._held:  # it carries no more than before
                self._is_measuring, self._measured_ns, self.bytes_per_s = False, now_ns, self._held
            elif self._is_full:  # the first such window filled the queues
                self._is_measuring, self._measured_ns = False, now_ns
                self.bytes_per_s = max(_LEAST_BYTES_PER_S, int(rate * _SHARE))
            self._is_full = True
        elif self.bytes_per_s == self._limit:
            self._is_measuring, self._measured_ns = False, now_ns
        else:
            self._is_full, self._held = False, 0
            self.bytes_per_s = self._limited(2 * self.bytes_per_s)

    def _limited(self, bytes_per_s: int) -> int:
        return min(bytes_per_s, self._limit) if self._limit else bytes_per_s
