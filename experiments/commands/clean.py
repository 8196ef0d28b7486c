"""`unnoticed clean`: remove what crashed runs left."""

from __future__ import annotations

import dataclasses
import json
import os

import click

from unnoticed.errors import MachineError


@click.command(name="clean")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(*, as_json: bool) -> None:
    """Remove what crashed runs left: processes, network namespaces with all that is in them, temporary files.

    Only what carries the mark of a run whose runner is dead is touched. Runs that are alive, their results, and
    everything else on this machine are left alone. Needs root.
    """
    if os.geteuid() != 0:
        raise MachineError("Cleaning up needs root, since runs do; try: sudo unnoticed clean")
    from unnoticed.topology.runs import clean

    done = clean()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done), default=str))
    elif not (done.runs or done.processes or done.files):
        alive = f" {len(done.alive)} alive, left alone." if done.alive else ""
        click.echo(f"No crashed run has left anything.{alive}")
    else:
        click.echo(
            f"Removed what {_count(done.runs, 'crashed run')} left: {_count(done.processes, 'process', 'processes')}, "
            f"{_count(done.namespaces, 'network namespace')}, {_count(done.files, 'file')}."
        )
        if done.alive:
            click.echo(f"Left alone: {_count(done.alive, 'run')} alive ({', '.join(done.alive)}).")
    if done.stuck:
        pids = ", ".join(map(str, done.stuck))
        click.echo(f"Still there, in namespaces of a crashed run: processes {pids}.", err=True)
        raise SystemExit(1)


def _count(things: tuple[object, ...], one: str, many: str = "") -> str:
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'}"
