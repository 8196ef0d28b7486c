"""Retransmitted segments by kind of flow and by phase of the migration, for every setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results.cells import Cell
from unnoticed.results.plots.style import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MUTED,
    PAPER,
    PURPLE,
    RULE,
    SMALL,
    VERMILION,
    WIDTH,
    beside,
    figure,
    heading,
    panel,
    render,
    shorten,
)
from unnoticed.results.quantities import format_number

_LOOKS = {
    "rounds": (BLUE, "before the pause"),
    "cutover": (VERMILION, "because of the cutover"),
    "push": (GREEN, "while pages followed"),
    "after": (AMBER, "afterwards"),
    "other": (PURPLE, "at other times"),
}
_ALWAYS = {"rounds", "cutover"}  # in the legend: that there is none is what one looks for
_LEFT, _RIGHT, _ROW, _HEAD, _TOP = 2.45, 2.2, 0.22, 0.36, 0.5


@dataclass(frozen=True, kw_only=True)
class Row:
    """Retransmitted segments per trial that counts, of one kind of flow, by phase; `worst`: most of one flow in one."""

    workload: str
    sender: str
    per_trial: dict[str, float]
    worst: int


def rows_of(cell: Cell, flows: pd.DataFrame, retransmits: pd.DataFrame) -> list[Row]:
    """One row for each workload and sender with a retransmission in this setting, most first."""
    segments = cell.rows_of(retransmits)
    if not len(segments):
        return []
    kinds = cell.rows_of(flows)[["trial_id", "local", "remote", "workload", "sender"]]
    kinds = kinds.assign(flow=kinds["local"] + ">" + kinds["remote"]).drop_duplicates(["trial_id", "flow", "sender"])
    key = ["trial_id", "flow", "sender"]
    joined = segments.merge(kinds[[*key, "workload"]], on=key, how="left")
    joined["workload"] = joined["workload"].fillna("unknown")
    joined["segments"] = joined["segments"].fillna(1)
    rows = []
    for (workload, sender), group in joined.groupby(["workload", "sender"], sort=True):
        phases = group.groupby("phase")["segments"].sum()
        per_trial = {phase: float(phases.get(phase, 0)) / len(cell.counted) for phase in _LOOKS}
        worst = int(group.groupby(["trial_id", "flow"])["segments"].sum().max())
        rows.append(Row(workload=str(workload), sender=str(sender), per_trial=per_trial, worst=worst))
    return sorted(rows, key=lambda row: (-sum(row.per_trial.values()), row.workload, row.sender))


def draw(cells: Sequence[Cell], flows: pd.DataFrame, retransmits: pd.DataFrame, *, name: str = "retransmits") -> str:
    """SVG with one block for each setting and one bar for each kind of flow in it."""
    description = "Retransmitted segments per trial, by kind of flow and phase, for each setting."
    blocks = [(cell, rows_of(cell, flows, retransmits)) for cell in cells]
    return render(name, description, lambda: _draw(blocks))


def _draw(blocks: list[tuple[Cell, list[Row]]]) -> Figure:
    height = _TOP + sum(_HEAD + _ROW * max(len(rows), 1) + 0.12 for _, rows in blocks) + 0.1
    drawing = figure(height)
    found = {phase for phase in _LOOKS if any(row.per_trial[phase] for _, rows in blocks for row in rows)}
    _legend(drawing, [phase for phase in _LOOKS if phase in found | _ALWAYS])
    longest = max([sum(row.per_trial.values()) for _, rows in blocks for row in rows], default=1.0)
    top = _TOP
    for cell, rows in blocks:
        heading(drawing, shorten(cell.label, 80), left=0.0, top=top + 0.2)
        top += _HEAD
        if rows:
            axes = panel(drawing, left=_LEFT, top=top, width=WIDTH - _LEFT - _RIGHT, height=_ROW * len(rows))
            _bars(axes, rows, longest)
        else:
            count = len(cell.counted)
            text = f"no retransmission in {'its only trial' if count == 1 else f'any of {count} trials'}"
            text = text if count else "every trial was disturbed by the machine"
            heading(drawing, text, left=_LEFT, top=top + 0.15, colour=MUTED, weight="normal")
        top += _ROW * max(len(rows), 1) + 0.12
    return drawing


def _legend(drawing: Figure, phases: list[str]) -> None:
    left, full = _LEFT, drawing.get_figheight()
    for phase in phases:
        colour, text = _LOOKS[phase]
        drawing.text(left / WIDTH, 1 - 0.16 / full, "■", color=colour, fontsize=SMALL, va="baseline")
        drawing.text((left + 0.15) / WIDTH, 1 - 0.16 / full, text, color=MUTED, fontsize=SMALL, va="baseline")
        left += 0.15 + 0.083 * len(text) + 0.25


def _bars(axes: Axes, rows: list[Row], longest: float) -> None:
    axes.set_xlim(0, longest)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(True)
    axes.spines["left"].set_color(RULE)
    axes.set_xticks([])
    for place, row in enumerate(rows):
        left = 0.0
        for phase, (colour, _) in _LOOKS.items():
            value = row.per_trial[phase]
            if value:
                axes.barh(place, value, left=left, height=0.62, color=colour, ec=PAPER, lw=0.6)
                left += value
        per_trial = format_number(round(left, 2), digits=2)
        beside(axes, (left, place), f"{per_trial} per trial; worst flow {row.worst}", color=INK)
    axes.set_yticks(range(len(rows)), [f"{row.workload}, sent by the {row.sender}" for row in rows])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=SMALL, pad=6)
