"""Known outages and what each estimator made of them: errors of those that measure, figures of those that feel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results.calibration import ALARM_NS, CUT_BAR_NS, FREEZE_BAR_NS, Calibration
from unnoticed.results.plots.style import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MUTED,
    PAPER,
    PURPLE,
    RULE,
    SHADE,
    VERMILION,
    WIDTH,
    above,
    beside,
    duration_ticks,
    figure,
    heading,
    panel,
    render,
)

# Estimator: colour, marker. Those of the first table claim to measure an outage, the others what a user feels of it.
_MEASURE = {"time-stamp": (BLUE, "o"), "lost-frames": (VERMILION, "s"), "answer-gap": (GREEN, "^")}
_FEEL = {
    "request-latency": (PURPLE, "o"),
    "new-connection": (AMBER, "s"),
    "delivered-download": (GREEN, "^"),
    "acknowledged-upload": (VERMILION, "v"),
}
_KINDS = {"cut": "the path is cut", "freeze": "the guest's process is stopped"}
_LEFT, _GAP, _PANEL_WIDTH = 0.85, 0.65, 3.85
_MEASURE_TOP, _MEASURE_HEIGHT = 0.95, 2.3
_FEEL_TOP, _FEEL_HEIGHT = 4.75, 2.3
_QUIET_TOP, _QUIET_HEIGHT = 8.25, 0.9
_MOST_MS = 30.0  # of an error that is drawn where it lies; larger ones stand at the edge


def draw(calibration: Calibration, *, name: str = "calibration") -> str:
    """SVG of one calibration."""
    description = "; ".join(f"{bar.text} {bar.figure}" for bar in calibration.bars())
    return render(name, description, lambda: _draw(calibration.calm))


def _draw(rows: pd.DataFrame) -> Figure:
    drawing = figure(_QUIET_TOP + _QUIET_HEIGHT + 0.6)
    heading(drawing, "How far estimates are from the truth", left=0.0, top=0.16)
    _legend(drawing, _MEASURE, top=0.42)
    heading(drawing, "What users of TCP wait, for the same outages", left=0.0, top=_FEEL_TOP - 0.8)
    _legend(drawing, _FEEL, top=_FEEL_TOP - 0.54)
    for column, (kind, words) in enumerate(_KINDS.items()):
        left = _LEFT + column * (_PANEL_WIDTH + _GAP)
        of_kind = rows[rows["kind"] == kind]
        bar_ns = CUT_BAR_NS if kind == "cut" else FREEZE_BAR_NS
        axes = panel(drawing, left=left, top=_MEASURE_TOP, width=_PANEL_WIDTH, height=_MEASURE_HEIGHT)
        _errors(axes, of_kind, words, bar_ns=bar_ns, labelled=column == 0)
        axes = panel(drawing, left=left, top=_FEEL_TOP, width=_PANEL_WIDTH, height=_FEEL_HEIGHT)
        _felt(axes, of_kind, labelled=column == 0)
    heading(drawing, "What is found where nothing is to be found, second by second", left=0.0, top=_QUIET_TOP - 0.3)
    axes = panel(drawing, left=1.2, top=_QUIET_TOP, width=WIDTH - 1.5, height=_QUIET_HEIGHT)
    _quiet(axes, rows[rows["kind"] == "quiet"])
    return drawing


def _legend(drawing: Figure, looks: dict[str, tuple[str, str]], *, top: float) -> None:
    axes = panel(drawing, left=0.0, top=top, width=WIDTH, height=0.2)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-1, 1)
    axes.axis("off")
    for place, (estimator, (colour, marker)) in enumerate(looks.items()):
        axes.plot([0.1 + 1.75 * place], [0], marker, color=colour, mfc=PAPER, ms=5)
        beside(axes, (0.1 + 1.75 * place, 0), estimator, shift=8, color=INK)


def _scale(axes: Axes, truth_ms: pd.Series[float]) -> None:
    low, high = (float(truth_ms.min()), float(truth_ms.max())) if len(truth_ms) else (1.0, 1000.0)
    axes.set_xscale("log")
    axes.set_xlim(low * 0.7, high * 1.4)
    duration_ticks(axes, low * 0.7, high * 1.4)
    axes.grid(axis="x", color=RULE, lw=0.6)


def _errors(axes: Axes, rows: pd.DataFrame, words: str, *, bar_ns: int, labelled: bool) -> None:
    _scale(axes, rows["truth_ns"].astype(float) / 1e6)
    axes.set_yscale("symlog", linthresh=2.0, linscale=1.6)
    axes.set_ylim(-_MOST_MS * 1.5, _MOST_MS * 1.5)
    ticks = (-10, -2, -1, 0, 1, 2, 10)
    axes.set_yticks(ticks, [f"{tick:+d} ms" if tick else "0" for tick in ticks] if labelled else [""] * len(ticks))
    axes.set_yticks([], minor=True)
    axes.axhspan(-bar_ns / 1e6, bar_ns / 1e6, color=SHADE, lw=0, zorder=0)
    axes.axhline(0, color=RULE, lw=0.8)
    above(axes, float(np.sqrt(np.prod(axes.get_xlim()))), words, rise=7, color=INK)
    beside(axes, (axes.get_xlim()[0], bar_ns / 1e6), f"±{bar_ns / 1e6:g} ms", shift=4, va="bottom", color=MUTED)
    for estimator, (colour, marker) in reversed(_MEASURE.items()):
        found = rows[rows["estimator"] == estimator]
        error_ms = (found["outage_ns"] - found["truth_ns"]).to_numpy(dtype=float) / 1e6
        shown = np.clip(error_ms, -_MOST_MS, _MOST_MS)
        look: dict[str, Any] = {"mfc": PAPER, "mec": colour, "mew": 0.8, "ms": 3.8, "ls": ""}
        axes.plot(found["truth_ns"].to_numpy(dtype=float) / 1e6, shown, marker, alpha=0.85, **look)
    axes.set_xlabel("length of the outage (at the edges above and below: off by 30 ms or more)" if labelled else "")


def _felt(axes: Axes, rows: pd.DataFrame, *, labelled: bool) -> None:
    chosen = rows[rows["estimator"].isin(list(_FEEL))]
    _scale(axes, chosen["truth_ns"].astype(float) / 1e6)
    low, high = axes.get_xlim()
    most = max(float(chosen["outage_ns"].max()) / 1e6 if len(chosen) else 1.0, high)
    axes.set_yscale("log")
    axes.set_ylim(low, most * 1.5)
    powers = [power for power in range(-1, 6) if low <= 10.0**power <= most * 1.5]
    labels = [f"{10**power:g} ms" if power < 3 else f"{10 ** (power - 3):g} s" for power in powers]
    axes.set_yticks([10.0**power for power in powers], labels if labelled else [""] * len(powers))
    axes.set_yticks([], minor=True)
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.plot([low, high], [low, high], color=INK, lw=0.9, ls=(0, (4, 3)))
    beside(axes, (high, high), "as long as the outage", shift=-4, va="top", rotation=0, color=MUTED)
    for estimator, (colour, marker) in reversed(_FEEL.items()):
        found = chosen[chosen["estimator"] == estimator]
        place = found["truth_ns"].to_numpy(dtype=float) / 1e6, found["outage_ns"].to_numpy(dtype=float) / 1e6
        axes.plot(*place, marker, mfc=PAPER, mec=colour, mew=0.8, ms=3.8, ls="", alpha=0.85)
    axes.set_xlabel("length of the outage" if labelled else "")


def _quiet(axes: Axes, rows: pd.DataFrame) -> None:
    axes.set_yticks(range(len(_MEASURE)), list(_MEASURE))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(_MEASURE) - 0.5, -0.5)
    alarm_ms = ALARM_NS / 1e6
    longest_ms = float(rows["outage_ns"].max()) / 1e6 if len(rows) else 0.0
    axes.set_xlim(-0.1, max(alarm_ms * 1.2, longest_ms * 1.1))
    axes.axvline(alarm_ms, color=INK, lw=0.9, ls=(0, (4, 3)))
    above(axes, alarm_ms, "an alarm", rise=3)
    axes.set_xlabel("milliseconds; nothing should be here")
    for place, (estimator, (colour, marker)) in enumerate(_MEASURE.items()):
        found = rows[rows["estimator"] == estimator]["outage_ns"].to_numpy(dtype=float) / 1e6
        heights = place + np.linspace(-0.22, 0.22, 7)[np.arange(len(found)) % 7]
        axes.plot(found, heights, marker, mfc=PAPER, mec=colour, mew=0.7, ms=3, ls="", alpha=0.7)
    if not len(rows):
        beside(axes, (0.0, 1.0), "not looked at", shift=4)
