"""`unnoticed report DIR`: make the report of a run again."""

from __future__ import annotations

import json

import click

from unnoticed.experiments.cli import folder_argument


@click.command(name="report")
@click.argument("folder", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(folder: str, *, as_json: bool) -> None:
    """Make the report of the run in DIR again, from the tables of its recorded trials.

    Works on the folder of an interrupted run too; the report then says how many trials there are.
    """
    path = folder_argument(folder)
    from unnoticed.results.report import write_report
    from unnoticed.results.store import RunFolder

    RunFolder(path).gather()
    report = write_report(path)
    click.echo(json.dumps({"folder": str(path), "report": str(report)}) if as_json else str(report))
