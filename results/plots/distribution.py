"""Blackout and perceived downtime side by side: every trial of every setting, with the medians and the TCP timeout."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results import metrics
from unnoticed.results.cells import Cell, disturbed
from unnoticed.results.frames import floats
from unnoticed.results.plots.style import (
    BLUE,
    INK,
    PAPER,
    RULE,
    SMALL,
    UNDERLAID,
    VERMILION,
    WIDTH,
    above,
    beside,
    duration_ticks,
    figure,
    panel,
    render,
)
from unnoticed.results.quantities import format_ns, marked, unbroken

_LEFT, _RIGHT, _TOP, _LANE, _GAP = 2.45, 1.1, 0.42, 0.33, 0.16
_DOT = 0.058  # inches that a dot needs
_LANES = (("blackout_ns", "blackout", BLUE, "o"), ("perceived_ns", "perceived", VERMILION, "D"))


def draw(cells: Sequence[Cell], *, name: str = "distribution") -> str:
    """SVG for the settings of a run, one row each; times on a log scale."""
    description = "Blackout and perceived downtime of every trial, by setting: " + ", ".join(
        cell.label for cell in cells
    )
    return render(name, description, lambda: _draw(cells))


def _draw(cells: Sequence[Cell]) -> Figure:
    band = 2 * _LANE + _GAP
    drawing = figure(_TOP + band * len(cells) + 0.45)
    axes = panel(drawing, left=_LEFT, top=_TOP, width=WIDTH - _LEFT - _RIGHT, height=band * len(cells))
    whole = pd.concat([cell.trials for cell in cells])
    timeouts = floats(whole["rto_min_ns"].dropna())
    measured = [values for cell in cells for lane in _LANES if len(values := floats(cell.trials[lane[0]].dropna()))]
    every = np.concatenate([*measured, timeouts]) / 1e6 if measured or len(timeouts) else np.array([1.0])
    low = min(float(np.min(every[every > 0], initial=1.0)), 1.0) * 0.7
    high = max(float(np.max(every)) * 1.4, 100.0)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(band * len(cells), 0)
    duration_ticks(axes, low, high)
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.set_yticks([])
    if len(timeouts):
        _timeout(axes, float(np.median(timeouts)))
    for place, cell in enumerate(cells):
        top = band * place
        if place:
            axes.axhline(top, color=RULE, lw=0.8)
        label = "\n".join(textwrap.wrap(unbroken(cell.label), 27)[:3])
        axes.annotate(
            label,
            (0, top + band / 2),
            xycoords=("figure fraction", "data"),
            va="center",
            fontsize=SMALL + 0.5,
            color=INK,
            annotation_clip=False,
        )
        for lane, (column, word, colour, marker) in enumerate(_LANES):
            _lane(axes, cell, column, (word, colour, marker), top + _GAP / 2 + _LANE * (lane + 0.5))
    return drawing


def _timeout(axes: Axes, timeout_ns: float) -> None:
    axes.axvline(timeout_ns / 1e6, color=INK, lw=1.0, ls=(0, (4, 3)))
    above(axes, timeout_ns / 1e6, f"smallest TCP timeout measured, {format_ns(timeout_ns)}", rise=6, color=INK)


def _lane(axes: Axes, cell: Cell, column: str, look: tuple[str, str, str], height: float) -> None:
    """One row of dots: filled for trials that count, hollow for those that the machine disturbed."""
    word, colour, marker = look
    edge = axes.get_xlim()[0]
    beside(axes, (edge, height), word, shift=-6, color=colour)
    present = cell.trials.dropna(subset=[column])
    values = floats(present[column]) / 1e6
    hollows = disturbed(present).to_numpy(dtype=bool)
    if not len(values):
        gave_up = bool((cell.trials["outcome"] == "gave-up").all())
        why = "gave up: the guest was never paused" if gave_up and column == "blackout_ns" else "no value"
        beside(axes, (edge, height), why, shift=8)
        return
    values = np.maximum(values, edge)
    decades = float(np.diff(np.log10(axes.get_xlim()))[0])
    heights = height + _swarm(np.log10(values), _DOT * decades / (WIDTH - _LEFT - _RIGHT))
    for hollow in (False, True):
        chosen = hollows == hollow
        if chosen.any():
            face = PAPER if hollow else colour
            axes.plot(values[chosen], heights[chosen], marker, ms=4.3, mfc=face, mec=colour, mew=0.8, ls="", alpha=0.85)
    said = "none counts"
    if not hollows.all():
        middle = float(np.median(values[~hollows]))
        axes.plot([middle, middle], [height - 0.14, height + 0.14], color=INK, lw=1.8)
        is_bound = not np.isfinite(np.median(metrics.at_most(present[~hollows], column)))
        said = marked(format_ns(middle * 1e6), is_bound=is_bound)
    beside(axes, (float(np.max(values)), height), said, shift=9, color=INK, bbox=UNDERLAID)


def _swarm(places: npt.NDArray[np.float64], width: float) -> npt.NDArray[np.float64]:
    """Heights (inches) that keep dots apart: each takes the first free one of 0, up, down, further up, ..."""
    levels = [0.0, 0.05, -0.05, 0.1, -0.1]
    taken = [-np.inf] * len(levels)
    heights = np.zeros(len(places))
    for index in np.argsort(places, kind="stable"):
        free = [level for level, last in enumerate(taken) if places[index] - last >= width]
        level = free[0] if free else int(np.argmin(taken))  # more dots than room: where they overlap least
        taken[level] = float(places[index])
        heights[index] = levels[level]
    return heights
