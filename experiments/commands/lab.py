"""`unnoticed lab PLAN`: the plan's network, guest and clients, and a console to work with them."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import click

from unnoticed import own_root
from unnoticed.errors import MachineError
from unnoticed.experiments.planning.plan import load_plan


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
def command(plan_name: str, out: Path | None, overrides: tuple[str, ...], case_name: str | None) -> None:
    """A lab to look around in: the network is up, the guest serves, its clients draw load.

    PLAN is the name of a stock experiment (see: unnoticed list) or a TOML file; its first setting is what is set up.
    The console is Mininet's, with commands of its own: migrate, status, watch, tables, probe, link, wireshark; help
    explains them. Commands may also come from a pipe: the exit code is then 1 if one of them failed.
    """
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
    with contextlib.ExitStack() as at_end:
        if out is None:
            folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="unnoticed-lab-")))
        else:
            folder = new_folder(plan, out=out)
            folder.mkdir(parents=True, exist_ok=True)
        lab = Lab(trial, folder=folder)
        click.echo("Building the network ...", err=True)
        lab.start()
        at_end.callback(lab.close)
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
    raise SystemExit(1 if problems or (console.problem_count and not sys.stdin.isatty()) else 0)
