"""`unnoticed calibrate`: outages of known length on this machine, and what each estimator makes of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unnoticed import own_root
from unnoticed.errors import MachineError, PlanError
from unnoticed.experiments.calibration.injections import expected_s, schedule
from unnoticed.experiments.planning.quantities import DURATION, QuantityError, parse

if TYPE_CHECKING:
    from unnoticed.results.calibration import Calibration

_LONGEST_NS = 60_000_000_000
_NOISE_S = 1.0


@click.command(name="calibrate")
@click.option(
    "--cuts",
    metavar="LENGTHS",
    default="1 ms, 2 ms, 5 ms, 10 ms, 20 ms, 50 ms, 100 ms, 200 ms, 500 ms, 1 s, 3 s",
    show_default=True,
    help='Lengths of cuts of the path, like "5 ms, 20 ms"; "none" for none.',
)
@click.option(
    "--freezes",
    metavar="LENGTHS",
    default="1 ms, 2 ms, 5 ms, 10 ms, 20 ms, 50 ms, 100 ms, 200 ms, 500 ms, 1 s, 3 s",
    show_default=True,
    help="Lengths of freezes of the guest's process, while the network lives.",
)
@click.option(
    "--one-way",
    metavar="LENGTHS",
    default="20 ms, 200 ms",
    show_default=True,
    help="Lengths of cuts of one direction, each once to the guest and once from it.",
)
@click.option(
    "--losses",
    metavar="SHARES",
    default="0.2 %, 1 %, 3 %",
    show_default=True,
    help="Shares of frames dropped at random, for 5 s each.",
)
@click.option(
    "--reorderings",
    metavar="SHARES",
    default="2 %",
    show_default=True,
    help="Shares of frames to the guest that are 3 ms late, so that others overtake them, for 1 s each.",
)
@click.option(
    "--zero-windows",
    metavar="LENGTHS",
    default="100 ms, 500 ms",
    show_default=True,
    help="For how long every TCP segment of the guest's says that it has no room.",
)
@click.option(
    "--nothing", metavar="LENGTH", default="30 s", show_default=True, help="How long to look where nothing happens."
)
@click.option("--repeats", metavar="N", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--seed", metavar="N", type=int, default=1, show_default=True, help="Of the order and the phases.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Its folder: new, or empty.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(
    *,
    cuts: str,
    freezes: str,
    one_way: str,
    losses: str,
    reorderings: str,
    zero_windows: str,
    nothing: str,
    repeats: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """How well this machine can measure an outage: causes outages of known length, and compares.

    A gate in the guest's path is shut, or its process stopped, at instants that are stamped to a few microseconds. The
    table and the picture stay in results/calibrations/<UTC>, or DIR; reports of later runs on this machine quote them.

    The exit code is 1 if the machine does not clear the bars that are named at the end.
    """
    injections = schedule(
        cuts_ns=_durations("--cuts", cuts),
        freezes_ns=_durations("--freezes", freezes),
        one_way_ns=_durations("--one-way", one_way),
        losses=_shares("--losses", losses),
        loss_ns=5_000_000_000,
        reorderings=_shares("--reorderings", reorderings),
        zero_windows_ns=_durations("--zero-windows", zero_windows),
        quiet_ns=_duration("--nothing", nothing, longest_ns=24 * 3600 * 10**9),
        repeats=repeats,
        seed=seed,
    )
    if not injections:
        raise PlanError(
            "Nothing is left to do: give one of --cuts, --freezes, --one-way, --losses, --reorderings, --zero-windows "
            "and --nothing something."
        )
    if os.geteuid() != 0:
        raise MachineError(
            "A calibration needs root: it makes network namespaces, and puts a gate into the guest's path; "
            "try: sudo unnoticed calibrate"
        )
    folder = _new_folder(out)
    own_root.enter()
    from unnoticed.experiments.calibration.judgement import judge
    from unnoticed.experiments.calibration.session import perform
    from unnoticed.experiments.doctor.stalls import measure_stalls
    from unnoticed.experiments.interrupts import one_interrupt
    from unnoticed.experiments.progress import Steps
    from unnoticed.results.calibration import Calibration, write
    from unnoticed.results.calibration_page import write_page
    from unnoticed.results.environment import gather

    environment = gather(machine_noise=measure_stalls(duration_s=_NOISE_S).document())
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as at_end:
        steps = at_end.enter_context(Steps(total=len(injections), total_s=expected_s(injections)))
        at_end.enter_context(one_interrupt(steps.note))
        raw = perform(
            injections,
            folder,
            seed=seed,
            begins=lambda each: steps.begins(each.words, lasts_s=(each.duration_ns + each.after_ns) / 1e9),
        )
        steps.note("Comparing what was measured with what was done ...")
        calibration = Calibration(judge(raw))
    write(folder, calibration, environment)
    page = write_page(folder)
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "page": str(page), **calibration.summary()}, indent=1))
    else:
        click.echo(text(calibration))
        click.echo(f"Table and picture: {page}")
    raise SystemExit(0 if all(bar.met is not False for bar in calibration.bars()) else 1)


def text(calibration: Calibration) -> str:
    """The answer for people."""
    from unnoticed.results.calibration_page import accuracy_grid, quiet_grid

    lines: list[str] = []
    for each in (accuracy_grid(calibration), quiet_grid(calibration)):
        if each.rows:
            lines += [each.caption, *_columns([tuple(head.title for head in each.heads), *each.rows]), ""]
    lines.append("Bars, with the time-stamp method:")
    for bar in calibration.bars():
        mark = {True: "met", False: "MISSED", None: "?"}[bar.met]
        lines.append(f"  [{mark}] {bar.text} Here: {bar.figure}.")
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [f"  {line.rstrip()}" for line in aligned]


def _durations(option: str, given: str) -> list[int]:
    if given.strip() in ("", "none"):
        return []
    return [_duration(option, each, longest_ns=_LONGEST_NS) for each in given.split(",")]


def _duration(option: str, given: str, *, longest_ns: int) -> int:
    if given.strip() in ("none", "0"):
        return 0
    try:
        duration_ns = parse(given.strip(), DURATION)
    except QuantityError as error:
        raise PlanError(f"{option}: {error}") from error
    if not 0 < duration_ns <= longest_ns:
        raise PlanError(f'{option}: "{given.strip()}" must be above 0, and at most {longest_ns // 10**9} s.')
    return duration_ns


def _shares(option: str, given: str) -> list[float]:
    if given.strip() in ("", "none"):
        return []
    found = []
    for each in given.split(","):
        number, sign, rest = each.strip().partition("%")
        try:
            share = float(number) / 100
        except ValueError:
            share = -1.0
        if sign != "%" or rest or not 0 < share <= 0.5:
            raise PlanError(
                f'{option}: "{each.strip()}" is no share; write a percentage above 0 and at most 50: "1 %".'
            )
        found.append(share)
    return found


def _new_folder(out: Path | None) -> Path:
    from unnoticed.results.calibration import FOLDER

    folder = out or FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PlanError(f"--out {folder}: something is there already; name a folder that is new or empty.")
    return folder
