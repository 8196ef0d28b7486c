"""One of the processes that perform trials of a run at the same time; its other end is `crew`.

Settings (JSON): {"folder", "plan", "overrides", "repeats", "bench", "runner"}: the run's folder, what its plan was
loaded from, "live" or "fake", and the pid of the runner. `perform` (trial: its id) performs, analyses and stores one,
and replies {"reply": "performed", "row": {...}}, the row of the trials table without what is not there; or {"reply":
"stopped", "family": the error's class, "problems": [...]}, if no other trial would fare better.
A SIGTERM takes down the trial at hand and ends it; it comes by itself when the runner dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from unnoticed.agents.kernel import libc
from unnoticed.control import Control, ParentGoneError
from unnoticed.errors import PlanError, UnnoticedError
from unnoticed.experiments.interrupts import one_interrupt, shielded
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.results.store import RunFolder


def main() -> None:
    """Entry of the process."""
    settings = json.loads(sys.argv[1])
    with contextlib.suppress(KeyboardInterrupt, ParentGoneError), one_interrupt(lambda _sentence: None):
        libc.die_with_parent(signal.SIGTERM)
        if os.getppid() == settings["runner"]:
            _work(settings, Control())


def _work(settings: dict[str, Any], control: Control) -> None:
    from unnoticed.experiments.analysis.trial import analyse
    from unnoticed.experiments.benches import bench_for
    from unnoticed.experiments.runner import perform

    plan = load_plan(settings["plan"], overrides=tuple(settings["overrides"]), repeats=settings["repeats"])
    by_id = {trial.id: trial for trial in trials(plan)}
    store = RunFolder(Path(settings["folder"]))
    with contextlib.ExitStack() as at_end:
        with shielded():
            bench = bench_for(settings["bench"], folder=store.path, seed=plan.seed)
            at_end.callback(_close, bench)
        while True:
            for command in control.receive():
                try:
                    row = perform(by_id[command["trial"]], store, bench=bench, analyse=analyse)
                except UnnoticedError as error:
                    problems = error.problems if isinstance(error, PlanError) else (str(error),)
                    control.reply("stopped", family=type(error).__name__, problems=problems)
                    return
                control.reply("performed", row=_plain(row))


def _close(bench: Any) -> None:
    with shielded():
        bench.close()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON can hold it."""
    there = {name: value for name, value in row.items() if not pd.isna(value)}
    return {name: value.item() if hasattr(value, "item") else value for name, value in there.items()}


if __name__ == "__main__":
    main()
