#!/usr/bin/env python3
"""The blackout: one guest, migrated back and forth under load; median, spread, and the share of each step.

    .venv/bin/python benchmarks/blackout.py [--migrations 100] [--connections 1000] [--plan benchmarks/blackout.toml]

The processes are those of a trial (captures and probes run as well), started once; the guest is never restarted. Times
are the agents' own, from the moment the guest stood still to the moment it ran again. Steps run side by side:
`share` is the part of the blackout that a step explains, as the report's waterfall divides it,
so that the shares sum to 100 %.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from unnoticed import own_root
from unnoticed.events import Event, read_events
from unnoticed.experiments.analysis.waterfall import Moments, TimedStep, waterfall
from unnoticed.experiments.cast import Cast
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.runs import Run

PAUSE_BETWEEN_S = 0.5


def migrate_back_and_forth(trial: Trial, migrations: int, folder: Path) -> list[Event]:
    """Do it, and return the event log."""
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


def shares(completed: list[Event], steps: dict[int, list[Event]]) -> Counter[str]:
    """What part of all blackouts each step explains."""
    explained: Counter[str] = Counter()
    for event in completed:
        timed = [
            TimedStep(name=step["step"], start_ns=step["start_ns"], end_ns=step["end_ns"])
            for step in steps[event["number"]]
        ]
        paused_ns, resumed_ns = event["paused_ns"], event["resumed_ns"]
        moments = Moments(steps=timed, paused_ns=paused_ns, resumed_ns=resumed_ns)
        for part in waterfall(moments, start_ns=paused_ns, end_ns=resumed_ns):
            explained[part.name] += part.end_ns - part.start_ns
    return explained


def spread(values_ms: list[float]) -> str:
    """Median and spread, in milliseconds."""
    ordered = sorted(values_ms)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{statistics.median(ordered):8.2f} {ordered[0]:8.2f} {p95:8.2f} {ordered[-1]:8.2f}"


def main() -> None:
    """Print the blackout, then the steps in their order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--migrations", type=int, default=100)
    parser.add_argument("--connections", type=int, help="the client's request/response connections, instead of 10")
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_suffix(".toml"))
    arguments = parser.parse_args()
    overrides = []
    if arguments.connections is not None:
        overrides.append(f"clients.request_response.connections={arguments.connections}")
    own_root.enter()
    trial = trials(load_plan(arguments.plan, overrides=overrides))[0]
    with tempfile.TemporaryDirectory() as folder:
        events = migrate_back_and_forth(trial, arguments.migrations, Path(folder))
    done = [event for event in events if event["event"] == "migration"]
    completed = [event for event in done if event["outcome"] == "completed"]
    steps: dict[int, list[Event]] = defaultdict(list)
    for event in sorted((event for event in events if event["event"] == "step"), key=lambda event: event["start_ns"]):
        steps[event["migration"]].append(event)
    report(events, completed, steps, migrations=len(done))


def report(events: list[Event], completed: list[Event], steps: dict[int, list[Event]], *, migrations: int) -> None:
    """Print what was found."""
    blackouts = [(event["resumed_ns"] - event["paused_ns"]) / 1e6 for event in completed]
    resets = sum(1 for event in events if event["event"] == "reset")
    wrong = sum(int(event["wrong_pages"]) for event in events if event["event"] == "ram")
    connections = statistics.median(event["connections"] for event in completed)
    print(
        f"{len(completed)} of {migrations} migrations completed, with {connections:.0f} connections (median); "
        f"{resets} connections reset; {wrong} pages wrong"
    )
    print(f"{'ms':<29} {'median':>8} {'least':>8} {'p95':>8} {'most':>8}    share")
    print(f"{'blackout':<29} {spread(blackouts)}    100.0%")
    print(f"{'whole migration':<29} {spread([(event['end_ns'] - event['start_ns']) / 1e6 for event in completed])}")
    explained = shares(completed, steps)
    durations: dict[str, list[float]] = defaultdict(list)
    ends: dict[str, str] = {}
    for event in completed:
        for step in steps[event["number"]]:
            durations[step["step"]].append((step["end_ns"] - step["start_ns"]) / 1e6)
            ends[step["step"]] = "source" if step["place"] == event["source"] else "destination"
    whole = sum(explained.values())
    for name, values in durations.items():
        print(f"  {name:<15} {ends[name]:<11} {spread(values)}  {explained.pop(name, 0) / whole:8.1%}")
    for name, rest_ns in explained.items():
        print(f"  {name:<63}  {rest_ns / whole:8.1%}")


if __name__ == "__main__":
    main()
