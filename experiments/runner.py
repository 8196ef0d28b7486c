"""A run: its trials one after another, each performed, analysed and stored before the next; then verdicts and a report.

Whatever ends a run early, the trials that were stored stay, and `resume` goes on after them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from unnoticed.errors import MachineError, PlanError, RecordError, UnnoticedError
from unnoticed.experiments.bench import Bench, Progress
from unnoticed.experiments.crew import Crew
from unnoticed.experiments.interrupts import one_interrupt, shielded
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.planning.plan import Plan, trials
from unnoticed.experiments.progress import RunProgress
from unnoticed.results import schema
from unnoticed.results.cells import disturbed
from unnoticed.results.store import RunFolder
from unnoticed.results.verdicts import Finding, Verdict, judge_all

# From the raw records in a trial's folder to its tables, by name. The trials table's single row may leave out what the
# plan says of the trial, and any column that has no value.
Analyse = Callable[[Trial, Path], Mapping[str, pd.DataFrame]]
Report = Callable[[Path], Path]

_LEAST_ROOM_BYTES = 1 << 20  # on the disk: with less, what went wrong went wrong for want of it


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What became of a run. `unexpected`: trials that failed or did not end as planned, by id, with the reason."""

    folder: Path
    planned: int
    recorded: int
    unexpected: Mapping[str, str] = field(default_factory=dict)
    interrupted: bool = False
    clauses: tuple[Verdict, ...] = ()
    budgets: tuple[Verdict, ...] = ()
    at_once: int = 1
    disturbed: int = 0  # trials in whose cutover the control probe saw the machine stall
    report: Path | None = None

    @property
    def missed(self) -> tuple[Verdict, ...]:
        """The budgets that were not shown to be kept."""
        return tuple(verdict for verdict in self.budgets if verdict.finding is not Finding.HOLDS)

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        return 1 if self.unexpected or self.missed else 0


def run(
    plan: Plan, store: RunFolder, *, bench: Bench | Crew, analyse: Analyse, report: Report, progress: RunProgress
) -> RunResult:
    """Perform the trials that are not recorded yet, in the plan's order, and report on all of them.

    With a crew several are performed at the same time. A trial that fails is recorded as failed, and the next one
    begins. SIGINT, SIGTERM and SIGHUP end the run after what is at hand was taken down; what is done is kept and
    reported. Closes the bench. Raises MachineError and PlanError
    as the bench does, once what is done is reported, and RecordError where the run's folder is gone or takes nothing
    more: no other trial would fare better.
    """
    todo = trials(plan)
    recorded = store.recorded()
    left = [trial for trial in todo if trial.id not in recorded]
    at_once = bench.count if isinstance(bench, Crew) else 1
    progress.run_begins(total=len(todo), done=len(todo) - len(left), at_once=at_once)
    interrupted = False
    with one_interrupt(progress.note):
        try:
            with contextlib.ExitStack() as at_end:
                at_end.callback(_close, bench)
                if isinstance(bench, Crew):
                    bench.perform(left, progress=progress, failed=_recorder(store, progress))
                else:
                    for trial in left:
                        progress.trial_begins(trial)
                        row = perform(trial, store, bench=bench, analyse=analyse, phase=progress.phase)
                        progress.trial_ends(trial, row)
        except KeyboardInterrupt:
            interrupted = True
        except (MachineError, PlanError):
            conclude(plan, store, report=report)  # what is done is done
            raise
        try:
            return conclude(plan, store, report=report, interrupted=interrupted)
        except KeyboardInterrupt:
            done = len(store.recorded())
            return RunResult(folder=store.path, planned=len(todo), recorded=done, interrupted=True)


def _close(bench: Bench | Crew) -> None:
    with shielded():
        bench.close()


def conclude(plan: Plan, store: RunFolder, *, report: Report, interrupted: bool = False) -> RunResult:
    """Gather the tables of the recorded trials, judge them, and write the report."""
    described = store.run()
    recorded = store.recorded()
    result = RunResult(folder=store.path, planned=len(trials(plan)), recorded=len(recorded), interrupted=interrupted)
    if not recorded:
        return result
    with _writing(store):
        table = store.gather().trials
        report_path = report(store.path)
    return RunResult(
        folder=store.path,
        planned=result.planned,
        recorded=result.recorded,
        unexpected={str(row["trial_id"]): reason for _, row in table.iterrows() if (reason := _unexpected(row))},
        interrupted=interrupted,
        clauses=tuple(judge_all(described.clauses, table)),
        budgets=tuple(judge_all(described.budgets, table)),
        at_once=int(store.environment().get("trials_at_once") or 1),
        disturbed=int(disturbed(table).sum()),
        report=report_path,
    )


def perform(
    trial: Trial, store: RunFolder, *, bench: Bench, analyse: Analyse, phase: Progress = lambda _name: None
) -> dict[str, Any]:
    """Perform one trial, analyse and store it; its row of the trials table. One that fails is stored as failed.

    Raises MachineError and PlanError as the bench does, and RecordError where the run's folder takes nothing.
    """
    folder = store.trial_path(trial.id)
    with _writing(store):
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run may have left of it
        folder.mkdir(parents=True)
    try:
        bench.perform(trial, folder, phase)
        phase("analysis")
        tables = dict(analyse(trial, folder))
        tables["trials"] = _trial_row(trial, tables.get("trials"))
        store.write_trial(trial.id, tables)
    except (MachineError, PlanError):
        raise
    except Exception as error:
        with _writing(store):  # if that is why it failed, it did not fail, and is to be performed again
            folder.mkdir(exist_ok=True)
            (folder / "failure.txt").write_text(traceback.format_exc(), encoding="utf-8")
            tables = {"trials": _failed_row(trial, _reason(error))}
            store.write_trial(trial.id, tables)
    return _row(tables["trials"])


def _recorder(store: RunFolder, progress: RunProgress) -> Callable[[Trial, str], None]:
    """What records a trial whose performer died."""

    def record(trial: Trial, reason: str) -> None:
        row = _failed_row(trial, reason)
        with _writing(store):
            store.trial_path(trial.id).mkdir(parents=True, exist_ok=True)
            store.write_trial(trial.id, {"trials": row})
        progress.trial_ends(trial, _row(row))

    return record


def _row(table: pd.DataFrame) -> dict[str, Any]:
    return {str(name): value for name, value in table.iloc[0].items()}


@contextlib.contextmanager
def _writing(store: RunFolder) -> Iterator[None]:
    """Where the run's folder is written to. Raises RecordError where it is gone, or takes nothing more."""
    path = store.path
    if not (path / "run.json").exists():
        raise RecordError(f"{path}: the run's folder was removed or changed while the run went on; it has ended.")
    space = os.statvfs(path)
    if space.f_bavail * space.f_frsize < _LEAST_ROOM_BYTES:
        raise RecordError(_no_room(path))
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecordError(_no_room(path)) from error
        raise RecordError(f"{path}: the run's folder cannot be written to ({error}); the run has ended.") from error


def _no_room(path: Path) -> str:
    return f"{path}: the disk is full; make room, then go on with --resume --out {path}."


def _reason(error: Exception) -> str:
    if isinstance(error, UnnoticedError):
        return str(error)
    return f"{type(error).__name__}: {error} (a fault of the product; see failure.txt in the trial's folder)"


def _trial_row(trial: Trial, measured: pd.DataFrame | None) -> pd.DataFrame:
    """The measured row with what the plan says of the trial, and NA where nothing was measured."""
    if measured is None or len(measured) != 1:
        raise ValueError(f"the analysis gave {0 if measured is None else len(measured)} rows for the trials table")
    row = {str(name): measured[name].iloc[0] for name in measured.columns}
    return _frame(trial, row)


def _failed_row(trial: Trial, reason: str) -> pd.DataFrame:
    return _frame(trial, {"outcome": "failed", "reason": reason})


def _frame(trial: Trial, measured: Mapping[str, Any]) -> pd.DataFrame:
    planned = {"trial_id": trial.id, "repeat": trial.repeat, "case": trial.case, "expected": trial.expected}
    row = {**measured, **planned, **trial.factors}
    columns = [column.name for column in schema.TRIALS.columns]
    values = {name: [row.get(name, pd.NA)] for name in dict.fromkeys([*columns, *row])}
    return pd.DataFrame({name: pd.Series(value, dtype="object") for name, value in values.items()})


def _unexpected(row: pd.Series[Any]) -> str:
    """Why a trial counts as gone wrong; empty if it does not."""
    if row["outcome"] == "failed":
        return f"failed: {row['reason']}"
    if row["outcome"] != row["expected"]:
        return f"{row['outcome']}, where the plan expects {row['expected']}"
    return ""
