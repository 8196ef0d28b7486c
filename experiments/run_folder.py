"""Where a run's output goes: a new folder, or, to resume, the folder of the same plan's interrupted run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unnoticed.errors import PlanError, RecordError
from unnoticed.experiments.planning.document import Document
from unnoticed.experiments.planning.plan import Plan, trials
from unnoticed.experiments.planning.problems import dotted
from unnoticed.experiments.planning.toml_lines import Path as Keys

if TYPE_CHECKING:
    from unnoticed.results.run import Run
    from unnoticed.results.store import RunFolder

RUNS = Path("results/runs")
_ABSENT = "not given"
_BEGUN = ("plan.toml", "environment.json", "run.json")  # in a folder with no more than these no trial has begun


def new_folder(plan: Plan, *, out: Path | None, now: datetime | None = None, runs: Path = RUNS) -> Path:
    """Where a new run of the plan goes: `out`, or `<UTC>-<name>` among the runs. Nothing is made yet.

    Raises PlanError where `out` has something in it.
    """
    if out is None:
        start = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        folder, count = runs / f"{start}-{plan.name}", 1
        while folder.exists():
            count += 1
            folder = runs / f"{start}-{plan.name}-{count}"
        return folder
    if out.exists() and not out.is_dir():
        raise PlanError(f"--out {out}: this is a file; name a folder that is new or empty.")
    if (out / "run.json").exists():
        raise PlanError(
            f"--out {out}: a run is in there already; add --resume to go on with it, or name another folder."
        )
    if out.is_dir() and any(path.name.removesuffix(".partial") not in _BEGUN for path in out.iterdir()):
        raise PlanError(
            f"--out {out}: the folder is not empty, and no run made what is in it; name one that is new or empty."
        )
    return out


def folder_to_resume(plan: Plan, *, out: Path | None, runs: Path = RUNS) -> Path:
    """The folder whose run is to go on: `out`, or the newest of the plan's name.

    Raises PlanError where there is none, or where it was begun with another plan.
    """
    if out is None:
        found = sorted(path.parent for path in runs.glob(f"*Z-{plan.name}*/run.json"))
        if not found:
            raise PlanError(f"--resume: there is no run of {plan.name} in {runs}/; name its folder with --out.")
        out = found[-1]
    elif not (out / "run.json").exists():
        raise PlanError(f"--resume: {out} holds no run to go on with; leave --resume out to begin one.")
    try:
        before = tomllib.loads((out / "plan.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{out / 'plan.toml'} cannot be read ({error}); the run cannot go on.") from error
    differing = _differing(before, plan.document)
    if differing:
        raise PlanError(
            f"--resume: {out} was begun with another plan: {'; '.join(differing)}; "
            f"run {out / 'plan.toml'} with --resume --out {out}, or begin a new run."
        )
    return out


def describe(plan: Plan) -> Run:
    """What the results need to know of the plan."""
    from unnoticed.experiments.planning.demands import Demand
    from unnoticed.results.run import Bound, Clause, Run

    def clause(demand: Demand) -> Clause:
        name, value = demand.bound
        bounds: dict[str, Bound] = {"at_most": "at_most", "at_least": "at_least", "equals": "equals"}
        return Clause(
            text=demand.text,
            metric=demand.metric,
            statistic=demand.statistic,
            bound=bounds[name],
            value=value,
            where=demand.where,
            counter=getattr(demand, "counter", False),
        )

    return Run(
        name=plan.name,
        question=plan.question,
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=plan.seed,
        repeats=plan.repeats,
        cases=plan.cases or ("",),
        factors=plan.factors,
        planned=tuple(trial.id for trial in trials(plan)),
        clauses=tuple(clause(entry) for entry in plan.clauses),
        budgets=tuple(clause(entry) for entry in plan.budgets),
    )


def begin(folder: Path, plan: Plan, environment: Document) -> RunFolder:
    """Make the folder of a new run and what describes it. run.json comes last: with it, the folder is a run's.

    Raises PlanError where it cannot be written.
    """
    from unnoticed.results.store import RunFolder

    store = RunFolder(folder)
    try:
        store.write_plan(plan.text)
        store.write_environment(environment)
        store.write_run(describe(plan))
    except OSError as error:
        raise PlanError(
            f"{folder}: the run's folder cannot be written ({error.strerror}); name another one with --out."
        ) from error
    return store


def _differing(before: Document, now: Document) -> list[str]:
    """Each key in which two plans differ, with what it was and is."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{dotted(path)} was {old.get(path, _ABSENT)} and is {new.get(path, _ABSENT)} here"
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    ]


def _leaves(value: Any, path: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Every value of a plan, as text, by its path; a list of plain values is one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, number))
    else:
        values = value if isinstance(value, list) else [value]
        yield path, ", ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in values)
