"""Pages sent per round, for each trial that counts: whether what is left shrinks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results.cells import Cell
from unnoticed.results.frames import floats
from unnoticed.results.plots.style import (
    BLUE,
    INK,
    MUTED,
    RULE,
    SMALL,
    VERMILION,
    WIDTH,
    beside,
    figure,
    heading,
    panel,
    render,
)
from unnoticed.results.quantities import format_number

MAX_ROUNDS = 30  # shown; later ones are said
_COLUMNS, _HEIGHT, _HEAD, _LEFT, _GAP = 3, 1.75, 0.62, 0.62, 0.35


def draw(cells: Sequence[Cell], rounds: pd.DataFrame, *, name: str = "rounds") -> str:
    """SVG with one small panel for each setting; pages on a log scale, the same for all."""
    description = "Pages sent in each round of each trial, by setting: " + ", ".join(cell.label for cell in cells)
    return render(name, description, lambda: _draw(cells, rounds))


def _draw(cells: Sequence[Cell], rounds: pd.DataFrame) -> Figure:
    columns = 2 if len(cells) in (1, 2, 4) else _COLUMNS
    lines = -(-len(cells) // columns)
    width = (WIDTH - columns * _LEFT - (columns - 1) * _GAP - 0.2) / columns
    drawing = figure(lines * (_HEIGHT + _HEAD + 0.45))
    pages = floats(rounds["pages"].dropna())
    highest = max(float(pages.max(initial=10.0)), 10.0)
    for place, cell in enumerate(cells):
        line, column = divmod(place, columns)
        left = _LEFT + column * (width + _LEFT + _GAP)
        top = _HEAD + line * (_HEIGHT + _HEAD + 0.45)
        title = textwrap.wrap(cell.label, 34)[0] if cell.label else ""
        heading(drawing, title, left=left - _LEFT, top=top - 0.36)
        heading(drawing, _shrink_words(cell), left=left - _LEFT, top=top - 0.18, colour=MUTED, weight="normal")
        axes = panel(drawing, left=left, top=top, width=width, height=_HEIGHT)
        _lines(axes, cell.rows_of(rounds), highest, name_axis=line == lines - 1)
    return drawing


def _shrink_words(cell: Cell) -> str:
    if not len(cell.counted):
        return "every trial was disturbed by the machine"
    known = cell.counted["rounds_shrink"].dropna()
    most = cell.counted["rounds"].fillna(0).max()
    if not len(known) or not most > 1:
        if most == 1:
            return "a single round"
        return (
            "all after the guest had moved"
            if cell.counted["faults"].notna().any()
            else "all while the guest stood still"
        )
    count = int(known.sum())
    return f"pages; shrinking in {count} of {len(known)} {'trial' if len(known) == 1 else 'trials'}"


def _lines(axes: Axes, rounds: pd.DataFrame, highest: float, *, name_axis: bool) -> None:
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)  # a round may send no page at all
    axes.set_ylim(0, highest * 2.2)
    axes.set_yticks([0, *(10.0**power for power in range(0, 12, 2) if 10.0**power <= highest)])
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: format_number(value))
    axes.grid(axis="y", color=RULE, lw=0.6)
    shown = rounds[rounds["round"] <= MAX_ROUNDS].sort_values(["trial_id", "round"], kind="stable")
    if not len(shown):
        axes.set_xticks([])
        beside(axes, (0, highest**0.5), "no round", shift=5)
        return
    for _, trial in shown.groupby("trial_id", sort=True):
        numbers, pages = floats(trial["round"]), floats(trial["pages"])
        axes.plot(numbers, pages, color=BLUE, lw=0.9, alpha=0.55, marker="o", ms=2.6, mew=0)
        grown = np.flatnonzero(np.diff(pages) >= 0) + 1
        later = grown[grown > 1]  # round 1 has nothing to be compared with: round 0 sends all of RAM
        axes.plot(numbers[later], pages[later], ls="", marker="^", ms=4.6, color=VERMILION, mew=0)
    last = int(shown["round"].max())
    axes.set_xlim(-0.35, max(last, 1) + 0.35)
    step = max(1, -(-last // 8))
    axes.set_xticks(range(0, last + 1, step))
    for number in {0, last}:
        values = floats(shown.loc[shown["round"] == number, "pages"].dropna())
        if len(values):
            axes.annotate(
                format_number(float(np.median(values))),
                (number, float(np.max(values))),
                xytext=(0, 6),
                textcoords="offset points",
                ha="left" if number == 0 else "right" if last > 1 else "center",
                fontsize=SMALL,
                color=INK,
                annotation_clip=False,
            )
    if name_axis:
        axes.set_xlabel("round")
