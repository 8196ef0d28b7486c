"""`unnoticed run PLAN`: perform an experiment and report on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unnoticed import own_root
from unnoticed.errors import MachineError
from unnoticed.experiments.cli import forget_stdout
from unnoticed.experiments.planning.plan import Plan, load_plan, trials
from unnoticed.probes.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from unnoticed.experiments.bench import Bench
    from unnoticed.experiments.crew import Crew
    from unnoticed.experiments.runner import RunResult
    from unnoticed.results.store import RunFolder
    from unnoticed.results.verdicts import Verdict

_NOISE_S = 1.0


@click.command(name="run")
@click.argument("plan_name", metavar="PLAN")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="The run's folder: new, or empty.")
@click.option("--repeats", metavar="N", type=int, help="Repeat each setting N times, instead of what the plan says.")
@click.option(
    "--parallel",
    metavar="N",
    type=click.IntRange(1, 64),
    default=1,
    help="Perform N trials at once, each on a network of its own.",
)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help='Change one value of the plan, like guest.memory="512 MiB"; may be given several times.',
)
@click.option(
    "--resume", is_flag=True, help="Go on with an interrupted run: the newest of this plan, or that in --out."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option("--bench", "bench_name", type=click.Choice(["live", "fake"]), default="live", hidden=True)
def command(
    plan_name: str,
    out: Path | None,
    repeats: int | None,
    parallel: int,
    overrides: tuple[str, ...],
    *,
    resume: bool,
    as_json: bool,
    bench_name: str,
) -> None:
    """Run an experiment, trial by trial, and report on it.

    PLAN is the name of a stock experiment (see: unnoticed list) or a TOML file. What the run leaves, the report
    among it, is in results/runs/<UTC>-<name>, or DIR. Ctrl-C ends a run after the trial at hand was taken down;
    what is done is kept and reported, and --resume goes on after it.

    The exit code is 1 if a trial failed, or a budget was missed or cannot be judged.
    """
    plan = load_plan(plan_name, overrides=overrides, repeats=repeats)
    if bench_name == "live" and os.geteuid() != 0:
        raise MachineError(
            "Running an experiment needs root: it makes network namespaces, bridges and shaped links, and moves live "
            f"TCP connections; try: sudo unnoticed run {plan_name}"
        )
    if bench_name == "live":
        check_tools(plan)
        check_tracking(plan)
        own_root.enter()
        from unnoticed.experiments.live import check_fabrics

        check_fabrics(plan)
    from unnoticed.experiments.benches import bench_for
    from unnoticed.experiments.crew import Crew
    from unnoticed.experiments.run_folder import begin, folder_to_resume, new_folder
    from unnoticed.results.environment import gather
    from unnoticed.topology.runs import clean

    if resume:
        from unnoticed.results.store import RunFolder

        store = RunFolder(folder_to_resume(plan, out=out))
        _say_what_differs(store.environment(), gather(dirty_tracking=_trackers(bench_name), trials_at_once=parallel))
    else:
        folder = new_folder(plan, out=out)
        noise = _noise() if bench_name == "live" else None
        from unnoticed.results.calibration import newest

        environment = gather(machine_noise=noise, dirty_tracking=_trackers(bench_name), trials_at_once=parallel)
        store = begin(folder, plan, environment | {"calibration": newest(environment)})

    def bench() -> Bench | Crew:
        if parallel == 1:
            return bench_for(bench_name, folder=store.path, seed=plan.seed)
        return Crew(
            parallel, folder=store.path, plan_name=plan_name, overrides=overrides, repeats=repeats, bench=bench_name,
            clean_up=clean if bench_name == "live" else lambda: None,
        )  # fmt: skip

    result = _run(plan, store, bench)
    try:
        click.echo(json.dumps(document(result, plan), indent=1) if as_json else text(result))
    except OSError:  # nobody reads it; what the run came to does not depend on that
        forget_stdout()
    raise SystemExit(result.exit_code)


def check_tools(plan: Plan) -> None:
    """See that the tools which the plan asks for are installed. Raises MachineError with the packages to install."""
    asked = dict.fromkeys(name for setting in plan.settings for name in setting.settings.clients.tool_names)
    missing = [TOOLS[name] for name in asked if shutil.which(name) is None]
    if missing:
        raise MachineError(
            f"clients.tools: {', '.join(tool.name for tool in missing)} {'is' if len(missing) == 1 else 'are'} not "
            "installed; apt-get install --no-install-recommends "
            f"{' '.join(tool.package for tool in missing)}, or leave out what is missing."
        )


def check_tracking(plan: Plan) -> None:
    """See that the dirty trackers which the plan names work here. Raises MachineError with those that do."""
    from unnoticed.agents.tracking import AUTO, available

    asked = dict.fromkeys(setting.settings.migration.tracking for setting in plan.settings)
    able = available() if any(name != AUTO for name in asked) else []
    lacking = [name for name in asked if name not in (AUTO, *able)]
    if lacking:
        raise MachineError(
            f"migration.tracking: this kernel cannot find dirty pages by {' or '.join(lacking)}; it can by "
            f'{" and ".join(able)}: name one of these, or leave the choice to "auto".'
        )


def _trackers(bench_name: str) -> list[str] | None:
    """The dirty trackers that work here; nothing is tracked on the fake bench."""
    if bench_name == "fake":
        return None
    from unnoticed.agents.tracking import available

    return available()


def _run(plan: Plan, store: RunFolder, make_bench: Callable[[], Bench | Crew]) -> RunResult:
    from unnoticed.experiments.analysis.trial import analyse
    from unnoticed.experiments.interrupts import one_interrupt, shielded
    from unnoticed.experiments.progress import progress_for
    from unnoticed.experiments.runner import run
    from unnoticed.results.report import write_report

    with contextlib.ExitStack() as at_end:
        progress = at_end.enter_context(progress_for())
        at_end.enter_context(one_interrupt(progress.note))
        with shielded():  # a bench that exists is closed
            bench = at_end.enter_context(contextlib.closing(make_bench()))
        return run(plan, store, bench=bench, analyse=analyse, report=write_report, progress=progress)


def _noise() -> dict[str, Any]:
    from unnoticed.experiments.doctor.stalls import measure_stalls

    return measure_stalls(duration_s=_NOISE_S).document()


def _say_what_differs(before: dict[str, Any], now: dict[str, Any]) -> None:
    from unnoticed.results.environment import differences

    for difference in differences(before, now):
        click.echo(
            f"Note: {difference.name} was {difference.first} when this run began and is {difference.second} now.",
            err=True,
        )


def text(result: RunResult) -> str:
    """The answer for people: how the trials ended, the verdicts, and where the report is."""
    lines = []
    if result.interrupted:
        lines.append(
            f"Interrupted: {result.recorded} of {result.planned} trials are done; --resume goes on after them."
        )
    else:
        good = result.recorded - len(result.unexpected)
        lines.append(f"{good} of {result.planned} trials ended as the plan expects.")
    lines += [f"  {trial_id} {reason}" for trial_id, reason in result.unexpected.items()]
    if result.at_once == 1 and result.disturbed:
        lines.append(
            f"In {result.disturbed} of {result.recorded} this machine stood still during the cutover: no verdict and "
            "no median counts them."
        )
    if result.at_once > 1 and result.disturbed:
        lines.append(
            f"{result.at_once} trials at a time shared this machine, and in {result.disturbed} of {result.recorded} "
            "the control probe saw it stall: they may have disturbed one another; perform fewer at once."
        )
    for title, verdicts in (("Clauses", result.clauses), ("Budgets", result.budgets)):
        if verdicts:
            lines += ["", f"{title}:"]
            lines += [f"  [{verdict.finding.value}] {_verdict_text(verdict)}" for verdict in verdicts]
    lines += [
        "",
        f"Report: {result.report}" if result.report else f"No report yet; the run is in {result.folder}",
    ]
    return "\n".join(lines)


def _verdict_text(verdict: Verdict) -> str:
    mark = "(counter-case) " if verdict.clause.counter else ""
    stated = f"{verdict.clause.text}\n      " if verdict.clause.text else ""
    return f"{mark}{stated}{verdict.sentence}"


def document(result: RunResult, plan: Plan) -> dict[str, Any]:
    """The answer for programs."""
    return {
        "plan": plan.name,
        "question": plan.question,
        "folder": str(result.folder),
        "report": str(result.report) if result.report else None,
        "planned": len(trials(plan)),
        "recorded": result.recorded,
        "interrupted": result.interrupted,
        "at_once": result.at_once,
        "disturbed": result.disturbed,
        "unexpected": dict(result.unexpected),
        "clauses": [_verdict_document(verdict) for verdict in result.clauses],
        "budgets": [_verdict_document(verdict) for verdict in result.budgets],
        "exit_code": result.exit_code,
    }


def _verdict_document(verdict: Verdict) -> dict[str, Any]:
    clause, estimate = verdict.clause, verdict.estimate
    return {
        "text": clause.text,
        "metric": clause.metric,
        "statistic": clause.statistic,
        clause.bound: clause.value,
        "where": dict(clause.where),
        "counter": clause.counter,
        "finding": verdict.finding.value,
        "value": estimate.value if estimate else None,
        "low": estimate.low if estimate else None,
        "high": estimate.high if estimate else None,
        "trials": verdict.n,
        "sentence": verdict.sentence,
    }
