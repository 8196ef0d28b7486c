"""Open-loop schedules: the instants at which something is meant to be sent, fixed before the first is sent.

A load that waits for an answer before it sends again stops asking while the server is away, and so misses most of
the outage ("coordinated omission", G. Tene). Here nothing that happens moves an intended time, and latency is
measured from it.
"""

from __future__ import annotations

from dataclasses import dataclass

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Slots 0, 1, 2, ... at a fixed distance from a start. All times in ns on one clock.

    The distance is a whole number of nanoseconds, so that a periodic kernel timer fires at exactly these instants;
    a rate that does not divide a second is off by at most rate_hz * 0.5e-9 of itself.
    """

    start_ns: int
    period_ns: int

    def __post_init__(self) -> None:
        if self.period_ns <= 0:
            raise ValueError(f"a schedule needs a period of at least 1 ns, not {self.period_ns}")

    @classmethod
    def at_rate(cls, *, start_ns: int, rate_hz: float, phase: float = 0.0) -> Schedule:
        """The schedule of `rate_hz` slots per second, the first one `phase` periods (0 to 1) after the start.

        Raises ValueError unless 0 < rate_hz <= 1e9.
        """
        if not 0 < rate_hz <= _NS_PER_S:
            raise ValueError(f"a schedule's rate must be above 0 and at most 1e9 per second, not {rate_hz}")
        period_ns = round(_NS_PER_S / rate_hz)
        return cls(start_ns=start_ns + round(phase * period_ns), period_ns=period_ns)

    def intended_ns(self, slot: int) -> int:
        """When `slot` is meant to happen."""
        return self.start_ns + slot * self.period_ns

    def due(self, now_ns: int) -> int:
        """How many slots have come by `now_ns` (a slot has come at its intended time): 0 before the start."""
        return max(0, (now_ns - self.start_ns) // self.period_ns + 1)
