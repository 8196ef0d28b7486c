"""Which benches there are, by name; the live one is imported only where it is used."""

from __future__ import annotations

from pathlib import Path

from unnoticed.experiments.bench import Bench


def bench_for(name: str, *, folder: Path, seed: int) -> Bench:
    """The bench "live" or "fake" for the run in `folder`. Raises MachineError as a live one does."""
    if name == "fake":
        from unnoticed.experiments.fake.bench import FakeBench

        return FakeBench(seed=seed)
    from unnoticed.experiments.live import LiveBench

    return LiveBench(output=folder)
