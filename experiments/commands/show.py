"""`unnoticed show PLAN`: the plan's network as a drawing."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unnoticed.errors import RecordError
from unnoticed.experiments.planning.plan import load_plan, setting_of


@click.command(name="show")
@click.argument("plan_name", metavar="PLAN")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write the SVG there.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one value of the plan, like fabric.shape=ring; may be given several times.",
)
@click.option("--case", "case_name", metavar="NAME", help="The case of the plan to draw, instead of its first.")
@click.option("--json", "as_json", is_flag=True, help="Nodes and links as one JSON document, instead of a drawing.")
def command(
    plan_name: str, out: Path | None, overrides: tuple[str, ...], case_name: str | None, *, as_json: bool
) -> None:
    """The network of a plan as a drawing (SVG): who is attached where, in which role, and what each link is like.

    PLAN is the name of a stock experiment (see: unnoticed list) or a TOML file; its first setting is what is drawn. The
    drawing goes to standard output, unless --out names a file. Needs no root, and builds nothing.
    """
    plan = load_plan(plan_name, overrides=overrides)
    setting = setting_of(plan, case_name)
    from unnoticed.experiments.live import spec_for
    from unnoticed.topology.fabric import describe_design

    network = describe_design(spec_for(setting.settings))
    if as_json:
        click.echo(json.dumps(network, indent=1))
        return
    from unnoticed.results.plots.network import draw_alone

    drawing = draw_alone(network)
    if out is None:
        click.echo(drawing, nl=False)
        return
    try:
        out.write_text(drawing, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{out}: cannot be written ({error.strerror}).") from error
    click.echo(f"The network: {out}", err=True)
