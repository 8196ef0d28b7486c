"""Brownout: what the guest and its clients lose while pages are tracked and sent, against the time before.

Two figures, each of one or several spans of time: how long clients waited for answers, and how many pages the guest's
dirtier wrote per second. The guest runs in all of these spans; when it does not, that is the blackout, whose figures
are others' (`outages`). So a request counts that was due and answered within one span: what a cutover kept waiting is
the cutover's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unnoticed.probes.columns import I64, Bool

LEAST_FOR_MEDIAN, LEAST_FOR_P99 = 10, 100  # answers: fewer cannot tell a percentile from their largest

Span = tuple[int, int]  # from and to, CLOCK_MONOTONIC ns


@dataclass(frozen=True, kw_only=True)
class Latency:
    """From when a request was due until it was answered; None where there are too few."""

    count: int
    median_ns: int | None
    p99_ns: int | None


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Pages that the dirtier wrote, and that it left out since it could not keep up, per second."""

    pages_per_s: float
    skipped_per_s: float


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The dirtier's counters over time, ascending; both count from the boot."""

    time_ns: I64
    written: I64
    skipped: I64


def tally(samples: Sequence[tuple[int, int, int]]) -> Tally:
    """Samples (time, written, skipped) from all places, in any order.

    A place that the guest has left still has the counters of its last moment there; the guest's own are further.
    """
    table = np.array(sorted(samples), dtype=np.int64).reshape(-1, 3)
    counters = np.maximum.accumulate(table[:, 1:], axis=0)
    return Tally(time_ns=table[:, 0], written=counters[:, 0], skipped=counters[:, 1])


def latency(due_ns: I64, answered_ns: I64, spans: Sequence[Span]) -> Latency:
    """Of the requests that were due and answered within one of the spans. `answered_ns`: 0 for never."""
    chosen: Bool = np.zeros(len(due_ns), dtype=np.bool_)
    for start, end in spans:
        chosen |= (due_ns >= start) & (answered_ns <= end) & (answered_ns > 0)
    waits = answered_ns[chosen] - due_ns[chosen]
    return Latency(
        count=len(waits),
        median_ns=round(float(np.median(waits))) if len(waits) >= LEAST_FOR_MEDIAN else None,
        p99_ns=round(float(np.percentile(waits, 99))) if len(waits) >= LEAST_FOR_P99 else None,
    )


def pace(counters: Tally, spans: Sequence[Span]) -> Pace | None:
    """Over all of the spans together, each from its first sample to its last; None where none has two."""
    length_ns = written = skipped = 0
    for start, end in spans:
        inside = np.flatnonzero((counters.time_ns >= start) & (counters.time_ns <= end))
        if len(inside) < 2:
            continue
        first, last = inside[0], inside[-1]
        length_ns += int(counters.time_ns[last] - counters.time_ns[first])
        written += int(counters.written[last] - counters.written[first])
        skipped += int(counters.skipped[last] - counters.skipped[first])
    if not length_ns:
        return None
    return Pace(pages_per_s=written * 1e9 / length_ns, skipped_per_s=skipped * 1e9 / length_ns)
