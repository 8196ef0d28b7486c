"""The gain of coding, for the codec `auto`: what a byte costs the processor against the time it saves on the link.

Sent as it is, a byte takes as long as the link takes for it. Coded, it takes the link's time for what is left of it,
and the processor's to code it. The two go on side by side, but on a machine that also receives, or has a guest to run,
not for nothing: they are added up. So `auto` codes where that saves time even without any overlap. What it has coded it
remembers, and `xor` is a choice for pages it remembers all of; what goes as it is it does not copy for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from unnoticed.agents.codec import CODECS
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.ram import Words
from unnoticed.agents.wire import Encoding

_LEAST_GAIN = 0.05  # of the time: for less it is not worth the risk
_NEW = 0.3  # share of a new measurement in a running mean
_QUEUE_BYTES = 64 << 10  # with so much waiting, the link is what is waited for
_LEAST_NS = 2_000_000  # of a measurement
_SLOW_BYTES_PER_S = 400_000_000  # below, remembering what was sent (a copy of each page) costs no time that matters
_PROBE_EVERY = 16  # choices: so often one goes uncoded where the link may be faster than it was ever seen


class Gain:
    """What is known of the link and of the codecs. `timer_ns` is what a codec's time is measured with."""

    def __init__(self, timer_ns: Callable[[], int] = time.thread_time_ns) -> None:
        self._timer_ns = timer_ns
        self._link_bytes_per_s = 0.0
        self._noted: tuple[int, int] | None = None
        self._is_link_bound = False
        self._cost_ns: dict[Encoding, float] = {}  # of one byte of a page
        self._choices = 0

    @property
    def is_slow_link(self) -> bool:
        """Whether the link is known, and known to be slow beside a processor."""
        return 0 < self._link_bytes_per_s < _SLOW_BYTES_PER_S

    def begin(self) -> None:
        """Something else has gone on: what is noted next begins a new measurement."""
        self._noted = None

    def note(self, *, acknowledged_bytes: int, queued_bytes: int, time_ns: int) -> None:
        """The peer has so many bytes by now, and so many more wait to be sent."""
        if self._noted is not None:
            before_bytes, before_ns = self._noted
            if time_ns - before_ns < _LEAST_NS:
                return
            rate = (acknowledged_bytes - before_bytes) * 1e9 / (time_ns - before_ns)
            self._is_link_bound = queued_bytes >= _QUEUE_BYTES
            if not self._link_bytes_per_s or not self._is_link_bound:
                self._link_bytes_per_s = max(self._link_bytes_per_s, rate)
            else:
                self._link_bytes_per_s += _NEW * (rate - self._link_bytes_per_s)
        self._noted = (acknowledged_bytes, time_ns)

    def choose(self, pages: Words, before: Words | None) -> Encoding | None:
        """The encoding for pages like these; None: as they are. `before`: what the destination has, if known."""
        self._choices += 1
        if not self._link_bytes_per_s or (not self._is_link_bound and self._choices % _PROBE_EVERY == 0):
            return None
        best, least_ns = None, (1 - _LEAST_GAIN) * 1e9 / self._link_bytes_per_s
        for encoding in (Encoding.ZSTD, Encoding.XOR):
            if encoding is Encoding.XOR and before is None:
                continue
            expected_ns = self._expected_ns(encoding, pages, before)
            if expected_ns < least_ns:
                best, least_ns = encoding, expected_ns
        return best

    def _expected_ns(self, encoding: Encoding, pages: Words, before: Words | None) -> float:
        """The time of one byte of such pages, on the processor and then on the link."""
        size, start_ns = len(pages) * PAGE_BYTES, self._timer_ns()
        coded = CODECS[encoding].encode(pages, before)
        cost_ns = (self._timer_ns() - start_ns) / size
        known_ns = self._cost_ns.setdefault(encoding, cost_ns)
        self._cost_ns[encoding] = known_ns + _NEW * (cost_ns - known_ns)
        left = 1.0 if coded is None else len(coded) / size
        return left * 1e9 / self._link_bytes_per_s + self._cost_ns[encoding]
