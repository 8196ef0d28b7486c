"""`unnoticed audit DIR`: what other methods would have reported on the trials of a run."""

from __future__ import annotations

import json
import shutil
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unnoticed.errors import PlanError, RecordError
from unnoticed.experiments.cli import folder_argument
from unnoticed.experiments.planning.plan import load_plan, trials

if TYPE_CHECKING:
    from unnoticed.experiments.planning.grid import Trial
    from unnoticed.results.audit import Audit

_WIDTH = 150  # columns where stdout is no terminal


@click.command(name="audit")
@click.argument("folder", metavar="DIR")
@click.option("--trial", "trial_id", metavar="ID", help="Audit this trial, instead of a typical one of the first case.")
@click.option("--client", metavar="NAME", help="Of this client, instead of the one that was longest without answers.")
@click.option("--all", "every", is_flag=True, help="Audit every trial.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def command(folder: str, trial_id: str | None, client: str | None, *, every: bool, as_json: bool) -> None:
    """What other methods would have reported on the very same trial, each with its error.

    Ping at 1 s, tempest, xenrt, yardstick, mig_mon, fping, iperf3, the hypervisor's own figure, a user's request: the
    probes of each are laid over the record of the run's own, a thousand a second, at a hundred phases. Leaves the
    picture and the table in DIR/audit.html.
    """
    path = folder_argument(folder)
    if every and trial_id is not None:
        raise PlanError("--all and --trial: one of them leaves nothing for the other to choose; give only one.")
    from unnoticed.results.audit import write_page
    from unnoticed.results.store import RunFolder

    audits = [_audit(path, trial, client) for trial in _chosen(path, trial_id, every=every)]
    run = RunFolder(path).run()
    page: Path | None = None
    trouble: RecordError | None = None
    try:
        page = write_page(path, name=run.name, question=run.question, audits=audits)
    except RecordError as error:  # the table needs no folder
        trouble = error
    if as_json:
        found = [audit.document() for audit in audits]
        click.echo(json.dumps({"folder": str(path), "page": page and str(page), "audits": found}, indent=1))
    else:
        for audit in audits:
            click.echo(text(audit, width=_width()))
        if page is not None:
            click.echo(f"Picture: {page}")
    if trouble is not None:
        raise trouble


def _chosen(path: Path, trial_id: str | None, *, every: bool) -> list[Trial]:
    """The trials to audit. Raises PlanError where there is none."""
    from unnoticed.results.cells import cells
    from unnoticed.results.report import typical_trial
    from unnoticed.results.store import RunFolder

    store = RunFolder(path)
    planned = {trial.id: trial for trial in trials(load_plan(str(path / "plan.toml")))}
    table = store.load().trials
    measured = [str(row) for row in table.loc[table["outcome"] != "failed", "trial_id"] if str(row) in planned]
    if trial_id is not None:
        if trial_id not in measured:
            known = ", ".join(measured) or "none"
            raise PlanError(f"--trial {trial_id}: no such trial was measured in {path}; there are: {known}.")
        return [planned[trial_id]]
    if every and measured:
        return [planned[name] for name in measured]
    for cell in cells(table, store.run().cases):
        typical = typical_trial(cell.trials)
        if typical in measured:
            return [planned[typical]]
    raise PlanError(f"{path}: the guest was moved in none of its trials, so there is nothing to audit; try --all.")


def _audit(path: Path, trial: Trial, client: str | None) -> Audit:
    from unnoticed.experiments.analysis.audit import audit_trial
    from unnoticed.experiments.analysis.raw import RawRecords
    from unnoticed.results.store import RunFolder

    raw = RawRecords(RunFolder(path).trial_path(trial.id), trial.settings)
    if client is not None and client not in raw.clients:
        raise PlanError(f"--client {client}: trial {trial.id} has no such client; there are: {', '.join(raw.clients)}.")
    return audit_trial(trial, raw, client=client)


def _width() -> int:
    return max(shutil.get_terminal_size().columns, 80) if sys.stdout.isatty() else _WIDTH


def text(audit: Audit, *, width: int) -> str:
    """The answer for people."""
    from rich.console import Console
    from rich.table import Table

    from unnoticed.results.audit import GROUPS, figures
    from unnoticed.results.quantities import unbroken

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=False)
    for title, is_number in (("method", False), ("reports", True), ("error", True), ("worst error", True)):
        table.add_column(title, justify="right" if is_number else "left", no_wrap=True)
    table.add_column("by its phase", max_width=34)
    table.add_column("why")
    for group, title in GROUPS.items():
        entries = [entry for entry in audit.entries if entry.group == group]
        if entries:
            table.add_row(f"[italic]{title}[/italic]")
        for entry in entries:
            table.add_row(f"  {entry.name}", *figures(entry, audit.truth), unbroken(entry.spread), entry.why)
    buffer = StringIO()
    console = Console(file=buffer, width=width, no_color=True, highlight=False, emoji=False)
    console.print(f"Trial {audit.trial_id}: {audit.summary}\n", markup=False)
    console.print(table)
    for sentence in audit.absent:
        console.print(sentence, markup=False)
    if audit.guess:
        console.print(audit.guess, markup=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
