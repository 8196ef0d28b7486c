"""Brownout: answers and the dirtier's pace, before a migration and while pages are tracked and sent, by setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results import schema
from unnoticed.results.cells import Cell
from unnoticed.results.plots.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    RULE,
    SMALL,
    WIDTH,
    beside,
    duration_ticks,
    figure,
    heading,
    panel,
    render,
    shorten,
)
from unnoticed.results.quantities import format_ns, format_number
from unnoticed.results.statistics import Numbers, median, numbers

SPAN_WORDS = dict(
    zip(schema.BROWNOUT_SPANS, ("before the migration", "while rounds were sent", "after the resume"), strict=True)
)
_LEFT, _LATENCY, _BETWEEN, _PACE = 1.6, 3.5, 1.55, 2.2  # inches
_ROW, _HEAD, _TOP, _AXIS, _GAP = 0.22, 0.36, 0.3, 0.28, 0.14


@dataclass(frozen=True, kw_only=True)
class Row:
    """One span of one setting, over its trials that count: for each that has it, the value."""

    span: str
    median_ns: Numbers
    p99_ns: Numbers
    pages_per_s: Numbers


def rows_of(cell: Cell, brownout: pd.DataFrame) -> list[Row]:
    """The spans that this setting's trials had, in the order of time."""
    mine = cell.rows_of(brownout)
    found = []
    for span in schema.BROWNOUT_SPANS:
        rows = mine[mine["span"] == span]
        if len(rows):
            found.append(
                Row(
                    span=span,
                    median_ns=numbers(rows["request_median_ns"]),
                    p99_ns=numbers(rows["request_p99_ns"]),
                    pages_per_s=numbers(rows["dirty_pages_per_s"]),
                )
            )
    return found


def draw(cells: Sequence[Cell], brownout: pd.DataFrame, *, name: str = "brownout") -> str:
    """SVG with one block for each setting and one line for each span of time in it."""
    description = "Answer times and pages written per second, before and during the migration, for each setting."
    blocks = [(cell, rows_of(cell, brownout)) for cell in cells]
    return render(name, description, lambda: _draw(blocks))


def _draw(blocks: list[tuple[Cell, list[Row]]]) -> Figure:
    drawing = figure(_TOP + sum(_HEAD + _ROW * max(len(rows), 1) + _GAP for _, rows in blocks) + _AXIS)
    titles = (("how long answers took: ○ median, ● 99th percentile", _LEFT), ("pages written per second", _pace_left()))
    for text, left in titles:
        heading(drawing, text, left=left, top=0.16, colour=MUTED, weight="normal")
    every = [row for _, rows in blocks for row in rows]
    waits = np.concatenate([np.empty(0), *(values for row in every for values in (row.median_ns, row.p99_ns))]) / 1e6
    low, high = (float(waits.min()) / 1.5, float(waits.max()) * 1.5) if len(waits) else (0.1, 10.0)
    most = max((float(row.pages_per_s.max(initial=0)) for row in every), default=0) or 1.0
    top = _TOP
    for place, (cell, rows) in enumerate(blocks):
        is_last = place == len(blocks) - 1
        heading(drawing, shorten(cell.label, 80), left=0.0, top=top + 0.2)
        top += _HEAD
        height = _ROW * max(len(rows), 1)
        if rows:
            axes = panel(drawing, left=_LEFT, top=top, width=_LATENCY, height=height)
            _latencies(axes, rows, (low, high), name_axis=is_last)
            _paces(panel(drawing, left=_pace_left(), top=top, width=_PACE, height=height), rows, most)
        else:
            text = "every trial was disturbed by the machine"
            heading(drawing, text, left=_LEFT, top=top + 0.15, colour=MUTED, weight="normal")
        top += height + _GAP
    return drawing


def _pace_left() -> float:
    return WIDTH - _PACE - 1.0


def _lanes(axes: Axes, rows: list[Row]) -> None:
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines["bottom"].set_visible(False)


def _latencies(axes: Axes, rows: list[Row], limits: tuple[float, float], *, name_axis: bool) -> None:
    """For each trial a hollow mark at the median and a full one at the 99th percentile; a line between the middles."""
    _lanes(axes, rows)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    duration_ticks(axes, *limits)
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.tick_params(axis="x", length=0, labelbottom=name_axis)
    axes.set_yticks(range(len(rows)), [SPAN_WORDS[row.span] for row in rows])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=SMALL, pad=6)
    for place, row in enumerate(rows):
        colour = MUTED if row.span == schema.BROWNOUT_SPANS[0] else GREEN
        text = "too few requests"
        for values, face in ((row.median_ns, "none"), (row.p99_ns, colour)):
            axes.plot(values / 1e6, np.full(len(values), place), "o", mfc=face, mec=colour, ms=4, mew=0.9, alpha=0.7)
        if len(row.median_ns):
            text = format_ns(median(row.median_ns))
        if len(row.p99_ns):
            ends = (median(row.median_ns) / 1e6, median(row.p99_ns) / 1e6)
            axes.plot(ends, (place, place), color=colour, lw=1.2, alpha=0.6)
            text += f", {format_ns(median(row.p99_ns))}"
        beside(axes, (limits[1], place), text, color=INK)


def _paces(axes: Axes, rows: list[Row], most: float) -> None:
    """A bar to the median over the trials, with a stroke for each trial."""
    _lanes(axes, rows)
    axes.set_xlim(0, most)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["left"].set_visible(True)
    axes.spines["left"].set_color(RULE)
    for place, row in enumerate(rows):
        if not len(row.pages_per_s):
            beside(axes, (0, place), "not recorded")
            continue
        typical = median(row.pages_per_s)
        colour = MUTED if row.span == schema.BROWNOUT_SPANS[0] else BLUE
        axes.barh(place, typical, height=0.5, color=colour, alpha=0.45, lw=0)
        for value in row.pages_per_s:
            axes.plot((value, value), (place - 0.25, place + 0.25), color=colour, lw=0.8)
        text = format_number(round(typical))
        before = rows[0].pages_per_s
        if place and len(before) and median(before):
            text += f" ({typical / median(before):.0%})".replace("%", "\u00a0%")
        beside(axes, (max(typical, float(row.pages_per_s.max())), place), text, color=INK)
