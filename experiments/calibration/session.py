"""A calibration session: the bench is built, and one known outage after the other is caused on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from unnoticed.clock import realtime_offset_ns
from unnoticed.errors import RecordError
from unnoticed.events import EventLog
from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.experiments.calibration.injections import Injection
from unnoticed.experiments.cast import Cast
from unnoticed.experiments.interrupts import shielded
from unnoticed.experiments.live import fabric_for
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.topology.runs import Run

Done = Callable[[Injection], None]

BENCH = Path(__file__).parent / "bench.toml"
_READY_S = 30.0
_GRACE_S = 30.0  # beyond its length, until an injection must have been reported
_WARM_UP_S = 1.0


def perform(injections: Sequence[Injection], folder: Path, *, seed: int, begins: Done) -> RawRecords:
    """Build the bench, inject everything in order, take it down; returns the raw records, which are in `folder`.

    `begins` is told of each injection. Raises UnnoticedError; nothing is then left but records.
    """
    trial = trials(load_plan(BENCH))[0]
    run = Run(output=folder)
    run.begin()
    events = EventLog(folder / "events.jsonl", who="runner")
    try:
        fabric = fabric_for(trial.settings, run_id=run.id)
        try:
            fabric.start()
            (folder / "fabric.json").write_text(json.dumps(fabric.describe(), indent=1))
            with Cast(trial, folder, fabric) as cast:
                _play(injections, cast, events, seed=seed, begins=begins)
        finally:
            with shielded():
                fabric.stop()
    finally:
        events.close()
        run.end()
    return RawRecords(folder, trial.settings)


def _play(injections: Sequence[Injection], cast: Cast, events: EventLog, *, seed: int, begins: Done) -> None:
    def phase(name: str) -> None:
        cast.watch.phase = name
        events.write("phase", phase=name)

    injector = cast.start_child(
        "a",
        "injector",
        "experiments.calibration.injector",
        interface="guest",
        events=cast.events_path,
        seed=seed,
    )
    cast.watch.wait_reply(injector, "ready", _READY_S)
    events.write("clock", offset_ns=realtime_offset_ns(), at="start")
    cast.start_load()
    phase("warm-up")
    cast.watch.sleep(_WARM_UP_S)
    phase("injections")
    for injection in injections:
        begins(injection)
        injector.command("inject", injection=injection.document(), guest_pid=cast.guest_pid)
        cast.watch.wait_reply(injector, "injected", injection.duration_ns / 1e9 + _GRACE_S)
        cast.watch.sleep(injection.after_ns / 1e9)
    phase("quiesce")
    cast.stop_load()
    cast.verify()
    problems = cast.stop_observer()
    events.write("clock", offset_ns=realtime_offset_ns(), at="stop")
    phase("end")
    if problems:
        raise RecordError(" ".join(problems))
