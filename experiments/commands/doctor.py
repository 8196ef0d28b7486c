"""`unnoticed doctor`: what this machine can do, what it lacks, what that costs, and how noisy it is."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

import click

from unnoticed import own_root
from unnoticed.errors import MachineError
from unnoticed.experiments.doctor.capabilities import CAPABILITIES, Found, find
from unnoticed.experiments.doctor.stalls import Stalls, measure_stalls

NOISY_NS = 5_000_000


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01, max=3600),
    default=2.0,
    show_default=True,
    help="How long to listen for stalls.",
)
def command(*, as_json: bool, seconds: float) -> None:
    """What this machine can do, what it lacks, what that costs, and how noisy it is.

    Each capability is tried, in throw-away processes and network namespaces; nothing on this machine is changed. The
    exit code is 77 if something is missing that no run can do without, or if it is not root that asks.
    """
    if os.geteuid() != 0:
        if as_json:
            click.echo(json.dumps(document([find(CAPABILITIES[0])], None), indent=1))
        raise MachineError(
            "Whether this machine can run experiments shows only to root: what is tried would be refused to user "
            f"{os.geteuid()}; try: sudo unnoticed doctor"
        )
    own_root.check_proc()
    with contextlib.suppress(MachineError):  # it is tried again, and reported, below
        own_root.enter()
    found = [find(capability) for capability in CAPABILITIES]
    stalls = measure_stalls(duration_s=seconds)
    click.echo(json.dumps(document(found, stalls), indent=1) if as_json else text(found, stalls))
    missing = [entry for entry in found if entry.capability.required and not entry.works]
    if missing:
        raise MachineError(
            "This machine cannot run experiments yet:\n"
            + "\n".join(f"  {entry.capability.name}: {entry.detail}; {entry.remedy}." for entry in missing)
        )


def text(found: Sequence[Found], stalls: Stalls | None) -> str:
    """The answer for people."""
    width = max(len(entry.capability.name) for entry in found)
    groups = (
        ("Required", [entry for entry in found if entry.capability.required]),
        ("Optional", [entry for entry in found if not entry.capability.required and entry.capability.is_used]),
        ("Not used yet", [entry for entry in found if not entry.capability.is_used]),
    )
    lines = []
    for title, entries in groups:
        lines.append(f"{title}:")
        for entry in entries:
            lines += _lines(entry, width)
        lines.append("")
    return "\n".join([*lines, *([] if stalls is None else _noise_lines(stalls))])


def _lines(entry: Found, width: int) -> list[str]:
    capability, indent = entry.capability, f"       {'':<{width}}  "
    lines = [f"  {'yes' if entry.works else 'NO '}  {capability.name:<{width}}  for {capability.purpose}"]
    if entry.works:
        return [*lines, f"{indent}tried: {entry.detail}"]
    lines.append(f"{indent}tried: {capability.probed}; but {entry.detail}")
    if capability.is_used:
        lines += [f"{indent}without it: {capability.cost}", f"{indent}to have it: {entry.remedy}"]
    return lines


def _noise_lines(stalls: Stalls) -> list[str]:
    kind = "under SCHED_FIFO" if stalls.realtime else "at normal priority (SCHED_FIFO was refused)"
    figures = (("median", stalls.p50_ns), ("p99", stalls.p99_ns), ("worst", stalls.max_ns))
    late = ", ".join(f"{name} {value / 1e6:.3g} ms" for name, value in figures)
    lines = ["Noise of the machine itself:", f"  a 1 kHz timer {kind} woke late by: {late} ({stalls.samples} wake-ups)"]
    if stalls.steal is not None:
        lines.append(f"  the hypervisor took {stalls.steal:.1%} of the processors' time meanwhile")
    if stalls.max_ns > NOISY_NS:
        lines.append(
            f"  An outage below {stalls.max_ns / 1e6:.3g} ms cannot be told from that; quiet the machine if it matters."
        )
    return lines


def document(found: Sequence[Found], stalls: Stalls | None) -> dict[str, Any]:
    """The answer for programs."""
    return {
        "able": all(entry.works for entry in found if entry.capability.required),
        "capabilities": [
            {
                "name": entry.capability.name,
                "works": entry.works,
                "required": entry.capability.required,
                "used": entry.capability.is_used,
                "purpose": entry.capability.purpose,
                "probed": entry.capability.probed,
                "detail": entry.detail,
                "cost": None if entry.works else entry.capability.cost,
                "remedy": None if entry.works else entry.remedy,
            }
            for entry in found
        ],
        "machine_noise": None if stalls is None else stalls.document(),
    }
