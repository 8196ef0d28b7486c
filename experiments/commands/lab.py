"""`unnoticed lab PLAN`: the plan's network, guest and clients, and a console to work with them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unnoticed import own_root
from unnoticed.errors import MachineError, PlanError
from unnoticed.experiments.planning.plan import load_plan

if TYPE_CHECKING:
    from unnoticed.experiments.planning.grid import Trial


@click.command(name="lab")
@click.argument("plan_name", metavar="PLAN")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Keep the records there: new, or empty.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help='Change one value of the plan, like guest.memory="512 MiB"; may be given several times.',
)
@click.option("--case", "case_name", metavar="NAME", help="The case of the plan to set up, instead of its first.")
@click.option("--verify", is_flag=True, help="Measure every link instead: asked against measured.")
@click.option("--json", "as_json", is_flag=True, help="With --verify: one JSON document on stdout.")
def command(  # noqa: PLR0917  # click's
    plan_name: str,
    out: Path | None,
    overrides: tuple[str, ...],
    case_name: str | None,
    verify: bool,
    as_json: bool,
) -> None:
    """A lab to look around in: the network is up, the guest serves, its clients draw load.

    PLAN is the name of a stock experiment (see: unnoticed list) or a TOML file; its first setting is what is set up.
    The console is Mininet's, with commands of its own: migrate, status, watch, tables, probe, link, wireshark; help
    explains them. Commands may also come from a pipe: the exit code is then 1 if one of them failed.

    With --verify there is only the network: every direction of every link is measured (rate, delay, loss) and shown
    beside what was asked; the exit code is 1 if one is not what was asked.
    """
    if as_json and not verify:
        raise PlanError("--json goes with --verify: a lab has no answer but its console.")
    plan = load_plan(plan_name, overrides=overrides, repeats=1)
    if os.geteuid() != 0:
        raise MachineError(
            "A lab needs root: it makes network namespaces, bridges and shaped links; "
            f"try: sudo unnoticed lab {plan_name}"
        )
    own_root.enter()
    from unnoticed.experiments.live import check_fabrics

    check_fabrics(plan)
    from unnoticed.experiments.interrupts import Terminated
    from unnoticed.experiments.lab.console import Console
    from unnoticed.experiments.lab.lab import Lab, lab_trial
    from unnoticed.experiments.run_folder import new_folder

    trial = lab_trial(plan, case_name)
    if verify:
        raise SystemExit(_verify(trial, as_json=as_json))
    with contextlib.ExitStack() as at_end:
        if out is None:
            folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="unnoticed-lab-")))
        else:
            folder = new_folder(plan, out=out)
            folder.mkdir(parents=True, exist_ok=True)
        lab = Lab(trial, folder=folder, is_temporary=out is None)
        click.echo("Building the network ...", err=True)
        lab.start()
        at_end.callback(lab.close)
        is_typed = sys.stdin.isatty()
        try:
            console = Console(lab)
        except Terminated:
            raise KeyboardInterrupt from None
        click.echo("Ending the load, and checking every byte ...", err=True)
        problems = lab.finish()
    for problem in problems:
        click.echo(problem)
    click.echo("Nothing was lost, repeated or changed." if not problems else "The lab is closed.")
    if out is not None:
        click.echo(f"Records: {out}")
    raise SystemExit(1 if problems or (console.problem_count and not is_typed) else 0)


def _verify(trial: Trial, *, as_json: bool) -> int:
    """Measure the links of the trial's network, and say what they are; the exit code."""
    from unnoticed.experiments.links import table
    from unnoticed.experiments.links.measuring import verify
    from unnoticed.experiments.live import fabric_for
    from unnoticed.topology.runs import Run

    with (
        tempfile.TemporaryDirectory(prefix="unnoticed-lab-") as folder,
        Run(output=Path(folder), is_output_temporary=True) as run,
    ):
        click.echo("Building the network ...", err=True)
        with fabric_for(trial.settings, run_id=run.id) as fabric:
            found = verify(fabric.ways(), progress=lambda what: click.echo(f"Measuring {what} ...", err=True))
    each = [((one.way.name, one.way.asked, one.measured, one.way.means), one.before) for one in found]
    documents = [table.document(*one, before=before) for one, before in each]
    if as_json:
        click.echo(json.dumps({"links": documents}, indent=1))
    else:
        click.echo("\n".join(table.lines([table.row(*one, before=before) for one, before in each])))
    return 1 if any(one["differences"] for one in documents) else 0
