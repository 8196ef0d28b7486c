"""The cutover, enlarged: its steps, the switches' re-learning and each client's answers around the pause."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from unnoticed.results.frames import floats, records
from unnoticed.results.plots.scene import Scene
from unnoticed.results.plots.style import (
    AMBER,
    BLUE,
    INK,
    RULE,
    SMALL,
    VERMILION,
    above,
    beside,
    hatched,
    shorten,
    uprights,
)
from unnoticed.results.quantities import format_ns

MARGIN_NS = 50_000_000  # what is shown before the pause and after the first answer
ROW = 0.21  # inches
_BAR = 6.5  # points
_HALF = _BAR / 72 / ROW / 2  # of a bar's height, in rows


def rows_of(scene: Scene) -> int:
    """How many rows the panel needs: one for each step and switch, two for each client, and one at least."""
    return max(1, len(scene.steps) + len(scene.relearned) + 2 * len(scene.clients))


def draw_on(axes: Axes, scene: Scene) -> None:
    """Fill the panel; its x axis is in milliseconds since the pause."""
    window = (-MARGIN_NS / 1e6, scene.ms(scene.felt_until_ns + MARGIN_NS))
    rows = rows_of(scene)
    axes.set_xlim(*window)
    axes.set_ylim(rows - 0.4, -0.7)
    blackout_ns = scene.resumed_ns - scene.paused_ns
    axes.axvspan(0, blackout_ns / 1e6, color=VERMILION, alpha=0.12, lw=0, zorder=0)
    hatched(axes, ((_inside(axes, scene.ms(low)), _inside(axes, scene.ms(high))) for low, high in _near(axes, scene)))
    above(axes, blackout_ns / 2e6, f"blackout {format_ns(blackout_ns)}", color=VERMILION)
    labels = [*_steps(axes, scene, 0), *_switches(axes, scene, len(scene.steps))]
    for client in scene.clients:
        labels += _client(axes, scene, client, len(labels))
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=SMALL, pad=6)
    axes.set_xticks(_ticks(window))
    axes.grid(axis="x", color=RULE, lw=0.6)
    for boundary in (len(scene.steps), len(scene.steps) + len(scene.relearned)):
        if 0 < boundary < rows:
            axes.axhline(boundary - 0.5, color=RULE, lw=0.8)


def _near(axes: Axes, scene: Scene) -> list[tuple[float, float]]:
    """The stalls of the machine that reach into the panel."""
    low, high = axes.get_xlim()
    return [(start, end) for start, end in scene.stalls if scene.ms(end) > low and scene.ms(start) < high]


def _steps(axes: Axes, scene: Scene, row: int) -> list[str]:
    labels = []
    for place, step in enumerate(records(scene.steps), start=row):
        low, high = _inside(axes, scene.ms(step.start_ns)), _inside(axes, scene.ms(step.end_ns))
        axes.plot([low, high], [place, place], color=BLUE, lw=_BAR)
        axes.plot([low, low], [place - _HALF, place + _HALF], color=BLUE, lw=1.0)  # seen however short the step
        beside(axes, (high, place), format_ns(step.end_ns - step.start_ns))
        labels.append(f"{shorten(step.step, 22)} · {step.place.upper()}")
    return labels


def _switches(axes: Axes, scene: Scene, row: int) -> list[str]:
    labels = []
    for place, switch in enumerate(records(scene.relearned), start=row):
        at = _inside(axes, scene.ms(switch.time_ns))
        if at == scene.ms(switch.time_ns):
            axes.plot([at], [place], marker="D", ms=4.2, color=AMBER)
        beside(axes, (at, place), f"at {format_ns(switch.time_ns - scene.paused_ns)}", shift=7)
        labels.append(f"switch {shorten(switch.switch, 12)} re-learns")
    return labels


def _inside(axes: Axes, at: float) -> float:
    """The place itself, or the edge that it lies beyond: a switch may re-learn seconds later."""
    low, high = axes.get_xlim()
    return min(max(at, low), high)


def _client(axes: Axes, scene: Scene, client: str, row: int) -> list[str]:
    _answers(axes, scene, client, row)
    if client in scene.felt:
        _felt(axes, scene, *scene.felt[client], row=row + 1)
    return [f"{shorten(client, 12)}: answers", "perceived downtime"]


def _felt(axes: Axes, scene: Scene, start_ns: float, end_ns: float, *, row: int) -> None:
    """What a client felt; in words where it lies beyond the panel, as a stall of the machine may."""
    low, high = axes.get_xlim()
    start, end, lasted = scene.ms(start_ns), scene.ms(end_ns), format_ns(end_ns - start_ns)
    if end <= low:
        text = f"{lasted}, and {format_ns(scene.paused_ns - end_ns)} before the pause"
        beside(axes, (low, row), text, shift=7, color=INK)
    elif start >= high:
        text = f"{lasted}, and {format_ns(start_ns - scene.resumed_ns)} after the resume"
        axes.annotate(
            text, (high, row), xytext=(-7, 0), textcoords="offset points", ha="right", va="center", fontsize=SMALL
        )
    else:
        ends = [_inside(axes, start), _inside(axes, end)]
        axes.plot(ends, [row, row], color=INK, lw=1.0)
        axes.plot(ends, [row, row], ls="", marker="|", ms=6, color=INK, mew=1.0)
        beside(axes, (ends[1], row), lasted, shift=7, color=INK)


def _answers(axes: Axes, scene: Scene, client: str, row: int) -> None:
    """One stroke for each answer, where it came; those closer than a stroke's width are drawn once."""
    low, high = axes.get_xlim()
    answered = (floats(scene.requests_of(client)["answered_ns"]) - scene.paused_ns) / 1e6
    answered = answered[(answered >= low) & (answered <= high)]
    _, first = np.unique(np.floor(answered / ((high - low) / 700)), return_index=True)
    if len(first):
        middle = np.full(len(first), float(row))
        uprights(axes, answered[first], middle - 0.3, middle + 0.3, color=scene.colours[client], lw=0.9)


def _ticks(window: tuple[float, float]) -> list[float]:
    steps = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 10**9)
    step = next(step for step in steps if (window[1] - window[0]) / step <= 12)
    return [float(tick) for tick in range(math.ceil(window[0] / step) * step, math.floor(window[1]) + 1, step)]
