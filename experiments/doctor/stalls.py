"""How noisy this machine is: how late a timer of a kilohertz wakes, and what a hypervisor takes from the processors.

A result cannot be finer than this: a stall of the machine looks like an outage of the guest to whoever measures it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unnoticed.experiments.doctor.throwaway import in_child

_PERIOD_NS = 1_000_000
_PRIORITY = 50


@dataclass(frozen=True, kw_only=True)
class Stalls:
    """Lateness of a 1 kHz timer in nanoseconds. `steal`: share of processor time a hypervisor took; None: unknown."""

    realtime: bool
    samples: int
    p50_ns: int
    p99_ns: int
    max_ns: int
    steal: float | None

    def document(self) -> dict[str, Any]:
        return asdict(self)


def measure_stalls(*, duration_s: float = 2.0) -> Stalls:
    """Let a timer run under SCHED_FIFO (at normal priority where that is not allowed), in a process of its own."""
    before = _processor_ticks()
    answer = in_child(lambda: _run_timer(duration_s), timeout_s=duration_s + 10, network=False)
    after = _processor_ticks()
    steal = None
    if before is not None and after is not None and after[1] > before[1]:
        steal = (after[0] - before[0]) / (after[1] - before[1])
    late = sorted(answer["late_ns"])
    return Stalls(
        realtime=answer["realtime"],
        samples=len(late),
        p50_ns=quantile(late, 0.5),
        p99_ns=quantile(late, 0.99),
        max_ns=late[-1],
        steal=steal,
    )


def quantile(ordered: Sequence[int], share: float) -> int:
    """The nearest-rank quantile of ordered values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _run_timer(duration_s: float) -> dict[str, Any]:
    realtime = True
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except OSError:
        realtime = False
    late = []
    due = time.monotonic_ns() + _PERIOD_NS
    for _ in range(max(1, round(duration_s * 1000))):
        wait = due - time.monotonic_ns()
        if wait > 0:
            time.sleep(wait / 1e9)
        late.append(max(0, time.monotonic_ns() - due))
        due += _PERIOD_NS
    return {"realtime": realtime, "late_ns": late}


def _processor_ticks() -> tuple[int, int] | None:
    """Stolen and total ticks of all processors (proc_stat(5)): the eighth field, and the first eight together."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return (fields[7], sum(fields)) if len(fields) == 8 else None
