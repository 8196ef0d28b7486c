"""The one clock: CLOCK_MONOTONIC in integer nanoseconds, and its distance to the clock that stamps captures."""

from __future__ import annotations

import time

now_ns = time.monotonic_ns


def realtime_offset_ns(*, samples: int = 9) -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds.

    The kernel stamps captured frames in CLOCK_REALTIME; subtracting this offset puts them on the one clock. Each
    sample brackets a realtime reading by two monotonic ones; the tightest bracket wins (typically within 100 ns).
    """
    best_width, best_offset = 1 << 62, 0
    for _ in range(samples):
        before = time.monotonic_ns()
        realtime = time.time_ns()
        after = time.monotonic_ns()
        if after - before < best_width:
            best_width, best_offset = after - before, realtime - (before + after) // 2
    return best_offset
