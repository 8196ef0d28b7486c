"""`unnoticed compare DIR DIR`: two runs side by side."""

from __future__ import annotations

import json

import click

from unnoticed.experiments.cli import folder_argument


@click.command(name="compare")
@click.argument("first", metavar="DIR")
@click.argument("second", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(first: str, second: str, *, as_json: bool) -> None:
    """Two runs side by side: each metric in both, the difference, and its confidence interval.

    Says where the two machines, or the plans, were not the same. Settings that only one of the runs has are named;
    the exit code is 2 where they have none in common.
    """
    folders = folder_argument(first), folder_argument(second)
    from unnoticed.results.comparison import compare

    comparison = compare(*folders)
    click.echo(json.dumps(comparison.to_json(), indent=1) if as_json else comparison.to_text().rstrip("\n"))
