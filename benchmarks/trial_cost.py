#!/usr/bin/env python3
"""What a trial costs beyond its warm-up, its migration and its cool-down: fabric, processes, analysis, storing.

.venv/bin/python benchmarks/trial_cost.py [--trials 5] [--plan benchmarks/blackout.toml]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from unnoticed import own_root
from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.experiments.analysis.trial import analyse
from unnoticed.experiments.live import LiveBench
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.experiments.progress import progress_for
from unnoticed.experiments.run_folder import begin
from unnoticed.experiments.runner import run
from unnoticed.results.environment import gather


def main() -> None:
    """Run the trials as `unnoticed run` does, and print what is left of their time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--plan", default=str(Path(__file__).with_name("blackout.toml")))
    arguments = parser.parse_args()
    own_root.enter()
    phases = []
    with tempfile.TemporaryDirectory() as folder:
        plan = load_plan(arguments.plan, repeats=arguments.trials)
        store = begin(Path(folder), plan, gather(machine_noise=None))
        start = time.monotonic()
        bench = LiveBench(output=Path(folder))
        with progress_for() as progress:
            run(plan, store, bench=bench, analyse=analyse, report=lambda path: path, progress=progress)
        total = time.monotonic() - start
        for trial in trials(plan):
            raw = RawRecords(store.trial_path(trial.id), trial.settings)
            phases.append((raw.phase_ns("quiesce") - raw.phase_ns("warm-up")) / 1e9)
    rest = (total - sum(phases)) / len(phases)
    print(
        f"{len(phases)} trials in {total:.1f} s; of each, warm-up, migration and cool-down took "
        f"{statistics.median(phases):.2f} s (median)"
    )
    print(f"beyond them: {rest:.2f} s per trial (mean; it includes gathering the tables at the end)")


if __name__ == "__main__":
    main()
