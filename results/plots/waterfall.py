"""The waterfalls: what a client's perceived downtime consists of, and what its slowest request waited for."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results.frames import records
from unnoticed.results.plots.style import (
    AMBER,
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
    shorten,
)
from unnoticed.results.quantities import format_ns
from unnoticed.results.schema import REQUEST_LATENCY, TIME_STAMP
from unnoticed.results.store import Tables

MAX_CLIENTS = 2
_VIEWS = {
    TIME_STAMP: ("as its probe felt it", "perceived downtime"),
    REQUEST_LATENCY: ("its slowest request around the cutover", "latency"),
}
_LEFT, _RIGHT, _ROW, _GAP, _TOP = 2.45, 1.2, 0.215, 0.9, 0.7
_NAMES = {
    BLUE: "a step of the cutover",
    AMBER: "the network",
    VERMILION: "waiting for a timer",
    MUTED: "everything else",
}


def draw(tables: Tables, *, name: str = "waterfall") -> str:
    """SVG for the tables of exactly one trial that has a waterfall; time 0 is the pause."""
    clients = worst_clients(tables.waterfall)
    description = f"What the perceived downtime of {', '.join(clients)} consists of, part after part."
    return render(name, description, lambda: _draw(tables, clients))


def worst_clients(waterfall: pd.DataFrame) -> list[str]:
    """Clients by what they felt, longest first, at most MAX_CLIENTS."""
    by_probe = waterfall[waterfall["estimator"] == TIME_STAMP]
    grouped = (by_probe if len(by_probe) else waterfall).groupby("client")
    felt = (grouped["end_ns"].max() - grouped["start_ns"].min()).sort_index()
    return [str(client) for client in felt.sort_values(ascending=False, kind="stable").index[:MAX_CLIENTS]]


def colour_of(part: str, steps: frozenset[str]) -> str:
    """Blue for a step of the cutover, amber for the network, vermilion for waiting for a timer, else grey."""
    words = part.lower()
    if part in steps:
        return BLUE
    if any(word in words for word in ("timer", "rto", "wait", "timeout", "recovery")):
        return VERMILION
    if any(
        word in words
        for word in ("relearn", "re-learn", "switch", "announce", "frame", "gate", "network", "table", "way")
    ):
        return AMBER
    return MUTED


def _draw(tables: Tables, clients: list[str]) -> Figure:
    rows_of = dict(iter(tables.waterfall.sort_values("order", kind="stable").groupby(["client", "estimator"])))
    parts = {
        (client, view): rows_of[client, view] for client in clients for view in _VIEWS if (client, view) in rows_of
    }
    steps = frozenset(str(step) for step in tables.steps["step"])
    paused = tables.trials["paused_ns"].iloc[0]
    zero = min(float(rows["start_ns"].min()) for rows in parts.values()) if pd.isna(paused) else float(paused)
    height = _TOP + sum(_ROW * (len(rows) + 1) + _GAP for rows in parts.values())
    drawing = figure(height)
    _legend(drawing, {colour_of(str(part), steps) for rows in parts.values() for part in rows["part"]})
    top = _TOP
    for (client, view), rows in parts.items():
        inner = _ROW * (len(rows) + 1)
        about, total = _VIEWS[view]
        heading(drawing, f"{shorten(client, 12)}, {about}", left=0.0, top=top - 0.08)
        axes = panel(drawing, left=_LEFT, top=top, width=WIDTH - _LEFT - _RIGHT, height=inner)
        # Each on a scale of its own: a retransmission timer is long enough to hide all else.
        _bars(axes, rows, steps, zero, total)
        axes.set_xlabel("milliseconds since the pause")
        top += inner + _GAP
    return drawing


def _legend(drawing: Figure, used: set[str]) -> None:
    left = _LEFT
    full = drawing.get_figheight()
    for colour, text in _NAMES.items():
        if colour not in used:
            continue
        axes_x, axes_y = left / WIDTH, 1 - 0.16 / full
        drawing.text(axes_x, axes_y, "■", color=colour, fontsize=SMALL, va="baseline")
        drawing.text(axes_x + 0.15 / WIDTH, axes_y, text, color=MUTED, fontsize=SMALL, va="baseline")
        left += 0.15 + 0.083 * len(text) + 0.25


def _bars(axes: Axes, rows: pd.DataFrame, steps: frozenset[str], zero: float, total: str) -> None:
    start, end = float(rows["start_ns"].min()), float(rows["end_ns"].max())
    margin = 0.01 * (end - start)
    axes.set_xlim((start - margin - zero) / 1e6, (end + margin - zero) / 1e6)
    axes.set_ylim(len(rows) + 0.5, -0.5)
    axes.grid(axis="x", color=RULE, lw=0.6)
    for row, part in enumerate(records(rows)):
        low, high = (part.start_ns - zero) / 1e6, (part.end_ns - zero) / 1e6
        length = part.end_ns - part.start_ns
        colour = colour_of(part.part, steps)
        axes.barh(row, high - low, left=low, height=0.62, color=colour, lw=0)
        axes.plot([low, low], [row - 0.31, row + 0.31], color=colour, lw=1.0)  # seen however short the part
        if row:
            axes.plot([low, low], [row - 0.69, row - 0.31], color=MUTED, lw=0.5)  # it begins where the last one ended
        share = length / (end - start) if end > start else 0.0
        beside(axes, (max(low, high), row), format_ns(length) + (f" · {share:.0%}" if share >= 0.01 else ""))
    low, high = (start - zero) / 1e6, (end - zero) / 1e6
    axes.barh(len(rows), high - low, left=low, height=0.2, color=INK, lw=0)
    beside(axes, (high, len(rows)), format_ns(end - start), color=INK, fontweight="bold")
    names = [shorten(str(part), 44) for part in rows["part"]]
    axes.set_yticks(range(len(rows) + 1), [*names, total])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=SMALL, pad=6)
