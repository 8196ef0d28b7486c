#!/usr/bin/env python3
"""The replay of a trace: the dirty pages of each interval, as a dirty tracker finds them, against those recorded.

    .venv/bin/python benchmarks/replay.py [--trace experiments/stock/redis.trace] [--cycles 1]

A guest on loopback, without clients, replays the trace. Its pages are tracked as in a migration and harvested at the
end of each interval, by the guest's own clock; the replay's own count has no part in it. An interval is judged where
the looks at its start and end came in time, within a twentieth of its length: a busy machine delays some. Exits with 1
unless nine in ten of these, and the sum of all, are within a tenth of what was recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from unnoticed.agents import replay
from unnoticed.agents.guest_process import GuestProcess, GuestSettings
from unnoticed.agents.host import discard
from unnoticed.agents.ram import Ram, Super
from unnoticed.agents.recorder import AreaWatch, Recording, record
from unnoticed.agents.trace import Trace, read_trace
from unnoticed.agents.tracking import track

STOCK = Path(__file__).resolve().parents[1] / "experiments/stock/redis.trace"
MEMORY_BYTES = 256 << 20
ALLOWED = 0.10
IN_TIME = 0.05  # of an interval
ADDRESS = "127.79.1.1"


class Here:
    """In the place of a network namespace: this process's own."""

    def entered(self) -> Any:
        return contextlib.nullcontext()


def replayed(trace: Trace, *, cycles: int, folder: Path) -> tuple[str, Recording, int]:
    """Replay it; which tracker was used, what it found in each interval, and how many pages of the RAM were wrong."""
    settings = GuestSettings(
        addresses=(ADDRESS,), interface="lo", congestion="cubic", events=str(folder / "events.jsonl"), who="guest"
    )
    guest = GuestProcess(settings, ram=Ram.create(memory_bytes=MEMORY_BYTES), namespace=Here())  # type: ignore[arg-type]
    try:
        guest.wait_ready()
        guest.boot(working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
        replay.load(guest.ram, trace)
        guest.resume(moved=False)
        watch = AreaWatch(track(guest))
        found = record(
            watch,
            interval_ns=trace.interval_ns,
            goes_on=lambda have: have < cycles * trace.intervals,
            now=lambda: guest.ram.quads[Super.DIRTIED_NS],
        )
        guest.pause()
        watch.close()
        replaying = replay.loaded(guest.ram)
        assert replaying is not None
        wrong = replaying.wrong_pages(guest.ram.words, written=guest.ram.quads[Super.PAGES_WRITTEN])
        del replaying
        return watch.name, found, wrong
    finally:
        discard(guest)


def main() -> None:
    """Print how far the intervals are from their record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, default=STOCK)
    parser.add_argument("--cycles", type=int, default=1)
    arguments = parser.parse_args()
    trace = read_trace(arguments.trace)
    with tempfile.TemporaryDirectory() as folder:
        tracker, found, wrong = replayed(trace, cycles=arguments.cycles, folder=Path(folder))
    counts = trace.counts()
    numbers = (found.first + np.arange(len(found.intervals))) % trace.intervals
    recorded, seen = counts[numbers], np.array([len(pages) for pages in found.intervals])
    late = np.array(found.lateness_ns) > IN_TIME * trace.interval_ns
    judged = ~(late[:-1] | late[1:])
    off = (np.abs(seen - recorded) / np.maximum(recorded, 1))[judged]
    if not len(off):
        sys.exit("No interval was looked at in time: this machine is too busy.")
    within = float((off <= ALLOWED).mean())
    in_all = float(seen.sum() / recorded.sum())
    print(f"{arguments.trace.name}: recorded by {trace.tracker}, {trace.intervals} intervals, {trace.pages} pages")
    print(f"replayed for {len(seen)} intervals, found by {tracker}; {wrong} pages wrong")
    print(f"dirty pages per interval: recorded {np.median(recorded):.0f} at the median, found {np.median(seen):.0f}")
    print(f"off by {np.median(off):.1%} at the median, {np.percentile(off, 95):.1%} at p95, {off.max():.1%} at most")
    print(f"within {ALLOWED:.0%}: {within:.1%} of {len(off)} intervals looked at in time; all together: {in_all:.1%}")
    sys.exit(0 if within >= 0.9 and abs(in_all - 1) <= ALLOWED and not wrong else 1)


if __name__ == "__main__":
    main()
