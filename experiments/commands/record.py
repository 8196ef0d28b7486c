"""`unnoticed record -- COMMAND`: which pages a real program writes in each interval, for a guest to replay."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
from pathlib import Path
from time import sleep
from typing import Any

import click

from unnoticed.clock import now_ns
from unnoticed.errors import PlanError, RecordError
from unnoticed.experiments import interrupts
from unnoticed.experiments.planning.quantities import DURATION, QuantityError, parse, written

_AFTER_NS = 600_000_000_000
_NOTABLE_LATE = 0.1
_LOOK_S = 0.05


@click.command(name="record", context_settings={"ignore_unknown_options": True})
@click.argument("argv", metavar="-- COMMAND [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--interval", metavar="LENGTH", default="100 ms", show_default=True, help="Of one interval.")
@click.option("--after", metavar="LENGTH", default="0 s", show_default=True, help="Let it run so long first.")
@click.option("--seconds", metavar="N", type=click.FloatRange(min=0, min_open=True), help="How long to record.")
@click.option("--tracking", type=click.Choice(["auto", "userfaultfd-wp", "comparison"]), default="auto")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The trace; unless said, the program's name with .trace, here.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(
    *,
    argv: tuple[str, ...],
    interval: str,
    after: str,
    seconds: float | None,
    tracking: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Start a program, and record which of its memory pages it writes in each interval.

    Recording ends with the program, after --seconds, or when it is interrupted (Ctrl-C); the program is ended then.
    Give it its load from elsewhere, meanwhile. A plan replays the trace with guest.trace = "FILE".

    Recorded is the process itself, without its children: name the program, not a shell that starts it.
    """
    from unnoticed.agents.program import Program
    from unnoticed.agents.recorder import record
    from unnoticed.agents.trace import LONGEST_NS, MOST_INTERVALS, SHORTEST_NS, condensed, packed

    interval_ns = _duration("--interval", interval, least_ns=SHORTEST_NS, most_ns=LONGEST_NS)
    after_ns = _duration("--after", after, least_ns=0, most_ns=_AFTER_NS)
    most = MOST_INTERVALS if seconds is None else max(1, round(seconds * 1e9 / interval_ns))
    if most > MOST_INTERVALS:
        raise PlanError(f"--seconds {seconds:g}: a trace holds {MOST_INTERVALS} intervals; record for a shorter time.")
    name = Path(argv[0]).name
    path = out if out is not None else Path(f"{name}.trace")
    _check_place(path)
    program = Program(argv, tracking=tracking)

    def goes_on(intervals: int) -> bool:
        return intervals < most and program.is_alive and not interrupts.has_come()

    try:
        click.echo(f"{name} runs (process {program.pid}); pages are tracked by {program.watch.name}.", err=True)
        with contextlib.suppress(KeyboardInterrupt), interrupts.shielded():  # what is recorded until then is kept
            begin_ns = now_ns() + after_ns
            while now_ns() < begin_ns and goes_on(0):
                sleep(_LOOK_S)
            recording = record(program.watch, interval_ns=interval_ns, goes_on=goes_on)
    finally:
        program.end()
    if program.became is not None:
        raise RecordError(
            f"There is no trace of {name}: it has become another program, {program.became}, whose pages are not "
            "watched. Name that one, with its full command line."
        )
    tracker = program.watch.name
    about = {"command": list(argv), "kernel": platform.release(), "late": recording.late}
    try:
        trace = condensed(recording.intervals, interval_ns=interval_ns, tracker=tracker, about=about)
    except ValueError as error:
        raise RecordError(f"There is no trace of {name}: {error}.") from error
    data = packed(trace)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written ({error.strerror}).") from error
    counts = trace.counts().tolist()
    found: dict[str, Any] = {
        "file": str(path),
        "bytes": len(data),
        "tracker": tracker,
        "interval_ns": interval_ns,
        "intervals": trace.intervals,
        "pages": trace.pages,
        "dirty_pages_median": statistics.median(counts),
        "dirty_pages_most": max(counts),
        "late": recording.late,
    }
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo(
            f"{path}: {trace.intervals} intervals of {written(interval_ns, DURATION)}, {trace.pages} pages, of which "
            f"{found['dirty_pages_median']:.0f} were written in an interval at the median and {max(counts)} at most; "
            f"{len(data) / 1024:.1f} KiB."
        )
    if recording.late > _NOTABLE_LATE * trace.intervals:
        click.echo(
            f"In {recording.late} of these intervals the look came more than a tenth of an interval late: this machine "
            "was busy. Record for longer intervals, or on a quieter one.",
            err=True,
        )


def _check_place(path: Path) -> None:
    """See beforehand that the trace can be written. Raises PlanError."""
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PlanError(f"--out {path}: nothing can be written in {folder}.")


def _duration(option: str, text: str, *, least_ns: int, most_ns: int) -> int:
    try:
        value = parse(text, DURATION)
    except QuantityError as error:
        raise PlanError(f"{option}: {error}") from error
    if not least_ns <= value <= most_ns:
        raise PlanError(
            f'{option}: "{text}" is not from {written(least_ns, DURATION)} to {written(most_ns, DURATION)}.'
        )
    return value
