"""The timeline of one trial: rounds, throughput and answers from start to end, and the cutover enlarged below."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results import schema
from unnoticed.results.frames import floats, records
from unnoticed.results.plots import cutover
from unnoticed.results.plots.scene import Scene
from unnoticed.results.plots.style import (
    BLUE,
    INK,
    MUTED,
    RULE,
    SHADE,
    VERMILION,
    WIDTH,
    above,
    beside,
    figure,
    hatched,
    heading,
    panel,
    render,
    shorten,
    tick_ms,
    uprights,
)
from unnoticed.results.quantities import format_bit_per_s, format_ns
from unnoticed.results.store import Tables

_LEFT, _RIGHT = 1.75, 0.75  # inches beside the panels
_INNER = WIDTH - _LEFT - _RIGHT
_TOP, _THROUGHPUT, _STRIP, _STRIP_STEP = 0.62, 1.25, 0.5, 0.62
_BINS = 360
_STROKES: dict[str, dict[str, Any]] = dict(
    zip(schema.SERIES, ({"lw": 1.1}, {"lw": 0.9, "ls": (0, (1, 1.2))}), strict=True)
)
_LINK_RISES = (26, 35)  # points above the panels, for the names of links that changed
_LETTER = 0.06  # inches

Window = tuple[float, float]  # seconds since the pause
Floats = npt.NDArray[np.float64]


def draw(tables: Tables, *, name: str = "timeline") -> str:
    """SVG for the tables of exactly one trial whose guest was paused and resumed; time 0 is the pause."""
    scene = Scene(tables)
    who = ", ".join(scene.clients) or "no client"
    description = f"Trial {scene.trial_id}: rounds, throughput, answer times of {who}, and the cutover enlarged."
    return render(name, description, lambda: _draw(scene))


def _draw(scene: Scene) -> Figure:
    strips: list[tuple[str, Callable[[Axes, Window], None]]] = [
        (f"{shorten(client, 8)}: answers after", functools.partial(_latency, scene, client))
        for client in scene.clients
        if len(scene.requests_of(client))
    ]
    if len(scene.tables.faults):
        strips.insert(0, ("guest: pages after", functools.partial(_waits, scene)))
    strips_top = _TOP + _THROUGHPUT + 0.35
    enlarged_top = strips_top + _STRIP_STEP * len(strips) + 0.95
    enlarged_height = cutover.ROW * cutover.rows_of(scene)
    drawing = figure(enlarged_top + enlarged_height + 0.35)
    start = scene.seconds(min(scene.start_ns, scene.paused_ns))
    end = scene.seconds(max(scene.felt_until_ns, scene.completed_ns))
    span = max(end - start, 1.0)
    window = (start - 0.12 * span, end + 0.16 * span)

    heading(drawing, "The whole trial", left=0.0, top=0.16)
    _aside(drawing, "seconds; 0 is the moment the guest was paused", left=_LEFT, top=0.16)
    _aside(drawing, "throughput", left=0.0, top=_TOP + 0.14, colour=INK)
    if scene.stalls:
        _aside(drawing, "▨ this machine itself stalled", left=_LEFT + 3.6, top=0.16)
    panels = [panel(drawing, left=_LEFT, top=_TOP, width=_INNER, height=_THROUGHPUT)]
    _throughput(panels[0], scene, window)
    for place, (title, draw_strip) in enumerate(strips):
        top = strips_top + _STRIP_STEP * place
        _aside(drawing, title, left=0.0, top=top + 0.16, colour=INK)
        panels.append(panel(drawing, left=_LEFT, top=top, width=_INNER, height=_STRIP))
        draw_strip(panels[-1], window)
    for axes in panels:
        _shade(axes, scene)
        axes.set_xlim(*window)
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    _name_rounds(panels[0], scene, window)
    above(panels[0], 0.0, "guest paused", rise=15, color=VERMILION)
    _mark_links(panels, scene, window)

    heading(drawing, "The cutover, enlarged", left=0.0, top=enlarged_top - 0.36)
    _aside(drawing, "milliseconds since the pause", left=1.78, top=enlarged_top - 0.36)
    cutover.draw_on(panel(drawing, left=_LEFT, top=enlarged_top, width=_INNER, height=enlarged_height), scene)
    return drawing


def _aside(drawing: Figure, text: str, *, left: float, top: float, colour: str = MUTED) -> None:
    heading(drawing, text, left=left, top=top, colour=colour, weight="normal")


def _shade(axes: Axes, scene: Scene) -> None:
    """Every other round, the time in which pages follow the guest, and what is enlarged below."""
    for low, high, number in _rounds(scene):
        if number % 2 == 0:
            axes.axvspan(low, high, color=SHADE, lw=0, zorder=0)
    if scene.completed_ns > scene.resumed_ns:
        axes.axvspan(scene.seconds(scene.resumed_ns), scene.seconds(scene.completed_ns), color=SHADE, lw=0, zorder=0)
    margin = cutover.MARGIN_NS / 1e9
    axes.axvspan(-margin, scene.seconds(scene.felt_until_ns) + margin, color=VERMILION, alpha=0.10, lw=0)
    axes.axvline(0, color=VERMILION, lw=1.0)
    hatched(axes, ((scene.seconds(low), scene.seconds(high)) for low, high in scene.stalls))


def _rounds(scene: Scene) -> list[tuple[float, float, int]]:
    rows = scene.tables.rounds.dropna(subset=["start_ns", "duration_ns"]).sort_values("round", kind="stable")
    return [
        (scene.seconds(row.start_ns), scene.seconds(row.start_ns + row.duration_ns), row.round) for row in records(rows)
    ]


def _name_rounds(axes: Axes, scene: Scene, window: Window) -> None:
    """`round 0` over a round that is wide enough, else its number, else nothing."""
    for low, high, number in _rounds(scene):
        inches = (high - low) / (window[1] - window[0]) * _INNER
        if inches > 0.14:
            above(axes, (low + high) / 2, f"round {number}" if inches > 0.6 else str(number), rise=3)
    low, high = scene.seconds(scene.resumed_ns), scene.seconds(scene.completed_ns)
    if high > low:
        above(axes, max((low + high) / 2, low + _LETTER / _INNER * (window[1] - window[0]) * 9), "pages follow", rise=3)


def _mark_links(panels: list[Axes], scene: Scene, window: Window) -> None:
    """Where links changed: a line through all panels, named above them as far as names find room."""
    free = [window[0]] * len(_LINK_RISES)
    for row in records(scene.tables.links.sort_values("start_ns", kind="stable")):
        at = scene.seconds(row.start_ns)
        if not window[0] <= at <= window[1]:
            continue
        for axes in panels:
            axes.axvline(at, color=INK, lw=0.8, ls=(0, (4, 2)))
        text = f"{row.link} {row.change}"
        half = len(text) * _LETTER / _INNER * (window[1] - window[0]) / 2
        level = next((level for level, end in enumerate(free) if end <= at - half), None)
        if level is not None:
            above(panels[0], at, text, rise=_LINK_RISES[level], color=INK)
            free[level] = at + half


def _throughput(axes: Axes, scene: Scene, window: Window) -> None:
    """Bits per second: the migration's as an area, each client's as a line, dotted for what it sent."""
    rates = scene.tables.timeline.sort_values("time_ns", kind="stable")
    highest = 0.0
    levels: dict[str, float] = {}
    colours = {"migration": BLUE, **scene.colours}
    for who, series in itertools.product(("migration", *scene.clients), schema.SERIES):
        rows = rates[(rates["client"] == who) & (rates["series"] == series)]
        times, values = (floats(rows["time_ns"]) - scene.paused_ns) / 1e9, floats(rows["value"])
        inside = (times >= window[0]) & (times <= window[1]) & ~np.isnan(values)
        times, values = times[inside], values[inside]
        if not len(values):
            continue
        highest = max(highest, float(values.max()))
        if who == "migration":
            axes.fill_between(times, values, step="post", color=BLUE, alpha=0.20, lw=0)
            level = float(np.median(values[values > 0.5 * values.max()])) if values.max() else 0.0
        else:
            level = float(np.median(values[-max(len(values) // 10, 1) :]))
        axes.step(times, values, where="post", color=colours[who], **_STROKES[series])
        levels[who] = max(level, levels.get(who, 0.0))
    if not levels:
        axes.set_yticks([])
        beside(axes, (window[0], 0.5), "not recorded", shift=8)
        return
    highest = highest or 1.0
    axes.set_ylim(0, highest * 1.08)
    tick = _round_down(highest)
    axes.set_yticks([0, tick], ["0", format_bit_per_s(tick)])
    axes.axhline(tick, color=RULE, lw=0.6, zorder=0)
    free = 0.0
    for who, level in sorted(levels.items(), key=lambda item: item[1]):  # moved up where they would overlap
        beside(axes, (window[1], max(level, free)), shorten(who, 10), color=colours[who])
        free = max(level, free) + 0.15 * highest


def _round_down(value: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is at most `value`."""
    power = float(10 ** math.floor(math.log10(value)))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= value)


def _waits(scene: Scene, axes: Axes, window: Window) -> None:
    """How long the guest waited for pages: range and median within each bin, on a log scale."""
    faults = scene.tables.faults
    at = (floats(faults["start_ns"]) - scene.paused_ns) / 1e9
    wait_ms = np.maximum(floats(faults["latency_ns"]) / 1e6, 1e-3)
    worst_ms = float(wait_ms.max())
    low, high = 0.01, max(1.0, 2 * worst_ms)
    centres, least, middle, most = _by_bin(at, wait_ms, window)
    uprights(axes, centres, least, most, color=BLUE, lw=1.6, alpha=0.55)
    axes.plot(centres, middle, ".", color=BLUE, ms=2)
    beside(axes, (window[1], (low * high) ** 0.5), f"worst here\n{format_ns(worst_ms * 1e6)}", color=INK)
    _log_scale(axes, low, high)


def _log_scale(axes: Axes, low: float, high: float) -> None:
    """Milliseconds, with the first and the last power of ten above 0.1 named."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    powers = [10.0**power for power in range(-1, 6) if low < 10.0**power <= high]
    shown = powers if len(powers) <= 2 else [powers[0], powers[-1]]
    axes.set_yticks(shown, [tick_ms(power) for power in shown])
    axes.set_yticks([], minor=True)
    for power in shown:
        axes.axhline(power, color=RULE, lw=0.6, zorder=0)


def _latency(scene: Scene, client: str, axes: Axes, window: Window) -> None:
    """One client's answer times: range and median within each bin, on a log scale; those never answered on top."""
    requests = scene.requests_of(client)
    at = (floats(requests["intended_ns"]) - scene.paused_ns) / 1e9
    latency_ms = (floats(requests["answered_ns"]) - floats(requests["intended_ns"])) / 1e6
    unanswered = int(np.isnan(latency_ms).sum())  # all of them, not only those in the window
    inside = (at >= window[0]) & (at <= window[1])
    at, latency_ms = at[inside], np.maximum(latency_ms[inside], 1e-3)
    answered = ~np.isnan(latency_ms)
    low, high = 0.1, 20.0
    summary, colour = "", INK
    if answered.any():
        worst = int(np.nanargmax(latency_ms))
        high = max(high, 2 * float(latency_ms[worst]))
        centres, least, middle, most = _by_bin(at[answered], latency_ms[answered], window)
        uprights(axes, centres, least, most, color=scene.colours[client], lw=1.6, alpha=0.55)
        axes.plot(centres, middle, color=scene.colours[client], lw=0.9)
        summary, colour = f"worst here\n{format_ns(latency_ms[worst] * 1e6)}", INK
    if unanswered:
        never = at[~answered]
        summary, colour = f"{unanswered} never\nanswered", VERMILION
        axes.plot(never, np.full(len(never), high / 1.3), "x", color=VERMILION, ms=3, mew=0.8)
    beside(axes, (window[1], (low * high) ** 0.5), summary, color=colour)
    _log_scale(axes, low, high)


def _by_bin(at: Floats, values: Floats, window: Window) -> tuple[Floats, Floats, Floats, Floats]:
    """Of each bin that holds something: its centre, and the least, the median and the greatest value in it."""
    edges = np.linspace(*window, _BINS + 1)
    place = np.clip(np.digitize(at, edges) - 1, 0, _BINS - 1)
    order = np.lexsort((values, place))
    place, values = place[order], values[order]
    starts = np.flatnonzero(np.concatenate(([True], np.diff(place) > 0)))
    ends = np.concatenate((starts[1:], [len(place)])) - 1
    centres = (edges[place[starts]] + edges[place[starts] + 1]) / 2
    return centres, values[starts], values[(starts + ends) // 2], values[ends]
