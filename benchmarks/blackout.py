#!/usr/bin/env python3
"""The blackout: one guest, migrated back and forth under load; median, spread, and the share of each step.

    .venv/bin/python benchmarks/blackout.py [--migrations 30] [--plan benchmarks/blackout.toml]

The processes are those of a trial (captures and probes run as well), started once; the guest is never restarted. Times
are the agents' own, from the moment the guest stood still to the moment it ran again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from unnoticed import own_root
from unnoticed.events import Event, read_events
from unnoticed.experiments.cast import Cast
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.runs import Run

PAUSE_BETWEEN_S = 0.5


def migrate_back_and_forth(plan_file: Path, migrations: int, folder: Path) -> list[Event]:
    """Do it, and return the event log."""
    trial = trials(load_plan(plan_file))[0]
    fabric_settings = trial.settings.fabric
    spec = FabricSpec(
        shape=fabric_settings.shape,
        clients=trial.settings.clients.count,
        **fabric_settings.link.model_dump(),
        links=fabric_settings.changes,
    )
    with Run(output=folder) as run, Fabric(spec, run_id=run.id) as fabric, Cast(trial, folder, fabric) as cast:
        cast.start_load()
        time.sleep(trial.settings.phases.warm_up_ns / 1e9)
        for number in range(migrations):
            cast.migrate(number=number)
            cast.watch.sleep(PAUSE_BETWEEN_S)
        cast.stop_load()
        cast.verify()
    return list(read_events(folder / "events.jsonl"))


def spread(values_ms: list[float]) -> str:
    """Median and spread, in milliseconds."""
    ordered = sorted(values_ms)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{statistics.median(ordered):7.2f}  {ordered[0]:7.2f} {p95:7.2f} {ordered[-1]:7.2f}"


def main() -> None:
    """Print the blackout, then the steps in their order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--migrations", type=int, default=30)
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_suffix(".toml"))
    arguments = parser.parse_args()
    own_root.enter()
    with tempfile.TemporaryDirectory() as folder:
        events = migrate_back_and_forth(arguments.plan, arguments.migrations, Path(folder))
    done = [event for event in events if event["event"] == "migration"]
    completed = [event for event in done if event["outcome"] == "completed"]
    blackouts = [(event["resumed_ns"] - event["paused_ns"]) / 1e6 for event in completed]
    resets = sum(1 for event in events if event["event"] == "reset")
    wrong = sum(int(event["wrong_pages"]) for event in events if event["event"] == "ram")
    print(f"{len(completed)} of {len(done)} migrations completed; {resets} connections reset; {wrong} pages wrong")
    print(f"{'ms':<24} {'median':>7}  {'least':>7} {'p95':>7} {'most':>7}")
    print(f"{'blackout':<24} {spread(blackouts)}")
    print(f"{'whole migration':<24} {spread([(event['end_ns'] - event['start_ns']) / 1e6 for event in completed])}")
    steps: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in sorted((event for event in events if event["event"] == "step"), key=lambda event: event["start_ns"]):
        end = "source" if event["step"] in SOURCE_STEPS else "destination"
        steps[end, event["step"]].append((event["end_ns"] - event["start_ns"]) / 1e6)
    total = statistics.median(blackouts)
    for (end, step), values in steps.items():
        share = statistics.median(values) / total
        print(f"  {step:<16} {end[:6]:<6} {spread(values)}  {share:6.1%} of the blackout")


SOURCE_STEPS = ("hush", "pause", "hold", "settle", "close-gate", "dump", "scan", "send", "await-ready", "relinquish")

if __name__ == "__main__":
    main()
