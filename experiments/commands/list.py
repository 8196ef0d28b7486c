"""`unnoticed list`: the stock experiments, with their question and size."""

from __future__ import annotations

import json
from typing import Any

import click

from unnoticed.experiments.planning.plan import load_plan, stock_plans, trials


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def command(*, as_json: bool) -> None:
    """The stock experiments: their names, what they ask, and how many trials they have.

    Each is a TOML file, a good start for a plan of your own; the list says where they are.
    """
    plans = [load_plan(path) for path in stock_plans().values()]
    rows: list[dict[str, Any]] = [
        {
            "name": plan.name,
            "question": plan.question,
            "trials": len(trials(plan)),
            "cases": list(plan.cases),
            "repeats": plan.repeats,
            "file": str(plan.source),
        }
        for plan in plans
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(f"{row['name']}: {row['question']}")
        click.echo(f"    {row['trials']} trials ({row['repeats']} repeats of: {', '.join(row['cases'])})")
        click.echo(f"    {row['file']}")
