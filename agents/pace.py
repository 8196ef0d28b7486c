"""The pace of a post-copy's push: just under what the path takes, so that no queue builds up before demanded pages.

Nobody has to say what the path takes. It is filled slowly, then twice as fast, and so on until it carries no more; what
the kernel sees delivered then, once queues and bursts on the way are full, is its rate. A queue is there for as long as
that takes, some milliseconds, and is let run dry before the push goes on: best before anybody waits for pages. What is
demanded comes first, and the push makes room for it. It is tried now and then whether the path carries more by now; and
a queue all the same says that it carries less. Pure.
"""

from __future__ import annotations

from enum import Enum, auto
from statistics import median

_FIRST_BYTES_PER_S = 50_000_000
_LEAST_BYTES_PER_S = 10_000  # whatever was measured
_SHARE = 0.94  # of what the path takes, for the push
_SHARE_IN_ALL = 0.97  # with what is demanded
_LEAST_SHARE = 0.1  # for the push, whatever is demanded
_MEMORY_NS = 20_000_000  # for how long what is demanded counts
_FIRST_DEMAND = 0.3  # of what the path takes: assumed until it shows, since a guest wants most when it has least
_WINDOW_NS = 6_000_000  # to find that a pace is not carried, or two round trips
_CARRIED = 0.85  # a window in which less than so much of the pace got through: the path is full
_SAMPLES = 3  # of the delivery rate, on a full path: one may be off by a moment in which the machine stood still
_LOOKS = 8  # among so many looks
_LUMP_BYTES = 68_000  # that are acknowledged at once
_DRAINING = 0.5  # of what the path takes, while a queue runs dry
_DRAINING_MOST_NS = 200_000_000
# Until more is tried, which delays who waits; twice as long after it was in vain.
_AGAIN_NS, _AGAIN_MOST_NS = 4_000_000_000, 8_000_000_000
_PATIENCE_NS = 1_000_000_000  # a measurement holds so long, even where there is a queue
_ABOVE = 1.5  # what to try then
_LIKE = 0.05  # two measurements that differ by less are alike
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
        self._stage = _Stage.GROWING
        self._window: tuple[int, int] | None = None  # its start, and what had been acknowledged by then
        self._samples: list[int] = []
        self._full = 0  # what the path takes in all; 0: not known, or more than the limit
        self._tried = self._limited(_FIRST_BYTES_PER_S)  # what is tried while that is found out
        self._drained_ns = 0
        self._settled_ns, self._again_ns, self._again_after_ns = 0, 0, _AGAIN_NS
        self._queued = 0
        self._demand: tuple[int, int] | None = None  # when it was last looked at, and what had been demanded by then
        self._demanded_per_s, self._remembered_ns = 0.0, 0
        self.bytes_per_s = self._tried

    @property
    def is_found(self) -> bool:
        """Whether it is known what the path takes, and no queue is left of finding out."""
        return self._stage is _Stage.HELD

    def begin(self, now_ns: int) -> None:
        """From now on somebody may wait: what was found out holds, as if just now."""
        self._demand, self._demanded_per_s, self._remembered_ns = None, _FIRST_DEMAND * self._full, _MEMORY_NS
        self._window, self._again_ns = None, now_ns + self._again_after_ns
        if self._stage is _Stage.MEASURING:  # some time ago
            self._start_again()
        self.bytes_per_s = self._decided()

    def look(
        self,
        now_ns: int,
        *,
        acked_bytes: int,
        demanded_bytes: int,
        delivery_bytes_per_s: int,
        rtt_us: int,
        min_rtt_us: int,
        is_starting: bool,
    ) -> bool:
        """Take a look at the connection; true if `bytes_per_s` has changed. To be called every few milliseconds.

        Bytes since the connection began, and since then on demand; the kernel's latest sample of the delivery rate (0:
        none yet); round trips as smoothed by the kernel, and the shortest (-1: not known).
        `is_starting`: what holds the connection back is its own slow start (RFC 5681).
        """
        before = self.bytes_per_s
        queue_us = rtt_us - min_rtt_us if min_rtt_us >= 0 else 0
        is_queued = queue_us > max(_QUEUE_US, min_rtt_us)
        is_starting = is_starting and not is_queued
        self._weigh(now_ns, demanded_bytes)
        if is_starting and self._stage in {_Stage.GROWING, _Stage.MEASURING}:
            self._start_again()
        elif self._stage is _Stage.MEASURING:
            self._measure(now_ns, acked_bytes, delivery_bytes_per_s, queue_us)
        elif self._stage is _Stage.DRAINING:
            if now_ns >= self._drained_ns:
                self._stage, self._window = _Stage.HELD, (now_ns, acked_bytes)
        elif self._stage is _Stage.GROWING and is_queued:
            self._window = now_ns, acked_bytes
            self._grow(now_ns, False)
        elif self._window is None:
            self._window = now_ns, acked_bytes
        elif now_ns - self._window[0] >= max(_WINDOW_NS, 2000 * min_rtt_us):
            start_ns, before_bytes = self._window
            self._window = now_ns, acked_bytes
            if self._stage is _Stage.HELD:
                self._hold(now_ns, is_queued)
            else:
                rate = (acked_bytes - before_bytes) * 1e9 / (now_ns - start_ns)
                self._grow(now_ns, rate >= self._tried * _CARRIED)
        self.bytes_per_s = self._decided()
        return self.bytes_per_s != before

    def _weigh(self, now_ns: int, demanded_bytes: int) -> None:
        """Keep up with what is demanded."""
        if self._demand is not None and now_ns > self._demand[0]:
            elapsed_ns = now_ns - self._demand[0]
            self._remembered_ns = min(self._remembered_ns + elapsed_ns, max(elapsed_ns, _MEMORY_NS))
            rate = (demanded_bytes - self._demand[1]) * 1e9 / elapsed_ns
            self._demanded_per_s += (rate - self._demanded_per_s) * elapsed_ns / self._remembered_ns
        self._demand = now_ns, demanded_bytes

    def _decided(self) -> int:
        if self._stage in {_Stage.GROWING, _Stage.MEASURING}:
            return self._tried
        if not self._full:
            return self._limit
        if self._stage is _Stage.DRAINING:
            return self._limited(max(_LEAST_BYTES_PER_S, int(self._full * _DRAINING)))
        room = max(_SHARE_IN_ALL * self._full - self._demanded_per_s, _LEAST_SHARE * self._full)
        return self._limited(max(_LEAST_BYTES_PER_S, int(min(_SHARE * self._full, room))))

    def _grow(self, now_ns: int, is_carried: bool) -> None:
        if is_carried:
            if self._tried == self._limit:
                self._settle(now_ns, 0, 0)
            else:
                self._tried, self._window = self._limited(2 * self._tried), None  # until that shows
        else:
            self._stage = _Stage.MEASURING

    def _measure(self, now_ns: int, acked_bytes: int, delivery_bytes_per_s: int, queue_us: int) -> None:
        assert self._window is not None, "it was found full in one"
        start_ns, before_bytes = self._window
        self._samples.append(delivery_bytes_per_s)
        # What is delivered as fast as it is sent, or in one burst, met no queue at that moment.
        rates = [rate for rate in self._samples if 0 < rate < self._tried * _CARRIED]
        if len(rates) >= _SAMPLES:
            self._samples.clear()
            # Where no link but a processor is what is full, samples are of bursts and of pauses.
            least = (acked_bytes - before_bytes - _LUMP_BYTES) * 1e9 / (now_ns - start_ns)
            full = int(max(median(rates), least) + self._demanded_per_s)
            is_as_before = abs(full - self._full) < _LIKE * self._full
            self._again_after_ns = min(2 * self._again_after_ns, _AGAIN_MOST_NS) if is_as_before else _AGAIN_NS
            self._settle(now_ns, full, queue_us)
        elif len(self._samples) >= _LOOKS:  # the path is not full: the machine stood still
            self._start_again()

    def _start_again(self) -> None:
        """To find out whether what is tried is carried."""
        self._samples.clear()
        self._stage, self._window = _Stage.GROWING, None

    def _settle(self, now_ns: int, full: int, queue_us: int) -> None:
        """Hold what the path takes, once the queue has gone that there is."""
        self._full, self._queued = full, 0
        draining_ns = min(int(1000 * queue_us / (1 - _DRAINING)), _DRAINING_MOST_NS)
        self._settled_ns, self._again_ns = now_ns, now_ns + self._again_after_ns
        self._stage, self._drained_ns = _Stage.DRAINING if draining_ns > 0 else _Stage.HELD, now_ns + draining_ns

    def _hold(self, now_ns: int, is_queued: bool) -> None:
        self._queued = self._queued + 1 if is_queued else 0
        is_slower = self._queued >= _QUEUED_WINDOWS
        if now_ns > self._again_ns or (is_slower and now_ns > self._settled_ns + _PATIENCE_NS):
            self._stage, self._queued = _Stage.GROWING, 0
            self._tried = self._limited(int(self._full * _ABOVE)) or self._limit

    def _limited(self, bytes_per_s: int) -> int:
        return min(bytes_per_s, self._limit) if self._limit else bytes_per_s
