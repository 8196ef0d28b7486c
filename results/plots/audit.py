"""One outage, and what each way to measure it reports: the client's answers above, every method's figures below."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results.audit import GROUPS, Audit, Entry, error_text
from unnoticed.results.plots.style import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    RULE,
    SMALL,
    VERMILION,
    WIDTH,
    above,
    beside,
    figure,
    heading,
    panel,
    render,
    tick_ms,
    uprights,
)
from unnoticed.results.quantities import format_ns

_LEFT, _RIGHT = 2.05, 2.55  # inches beside the panels
_INNER = WIDTH - _LEFT - _RIGHT
_STRIP_TOP, _STRIP, _ROW, _HEAD = 0.62, 0.62, 0.335, 0.36
_COLOURS = {"hypervisor": BLUE, "published": INK, "users": PURPLE, "tool": AMBER}
_LARGEST = 12.5  # points: the circle of a figure that every phase gives
_SMALLEST = 2.2
_STROKES = 900  # at most, over the strip's width


def draw(audit: Audit, *, name: str = "audit") -> str:
    """SVG of one audit."""
    description = f"Trial {audit.trial_id}: {audit.summary} " + "; ".join(
        f"{entry.name}: {entry.spread}" for entry in audit.entries
    )
    return render(name, description, lambda: _draw(audit))


def _draw(audit: Audit) -> Figure:
    groups = [(group, [entry for entry in audit.entries if entry.group == group]) for group in GROUPS]
    groups = [(group, entries) for group, entries in groups if entries]
    figures_top = _STRIP_TOP + _STRIP + 1.12
    body = sum(_HEAD + _ROW * len(entries) for _, entries in groups)
    drawing = figure(figures_top + body + 0.62)

    heading(drawing, f"What {audit.client} lived through", left=0.0, top=0.16)
    strip = panel(drawing, left=_LEFT, top=_STRIP_TOP, width=WIDTH - _LEFT - 0.35, height=_STRIP)
    _answers(strip, audit)
    heading(drawing, "and what it is said to be", left=0.0, top=_STRIP_TOP + _STRIP + 0.82)
    axes = panel(drawing, left=_LEFT, top=figures_top, width=_INNER, height=body)
    axes.set_ylim(body, 0)
    axes.set_yticks([])
    _scale(axes, audit)
    _truth(axes, audit)
    top = 0.0
    for group, entries in groups:
        _at_left(axes, top + _HEAD * 0.62, GROUPS[group], color=MUTED, fontsize=SMALL, fontstyle="italic")
        top += _HEAD
        for entry in entries:
            _row(axes, entry, audit, top + _ROW / 2)
            top += _ROW
    _at_right(axes, -0.16, "may report", color=MUTED)
    return drawing


# -- the answers -----------------------------------------------------------------------------------------------------


def _answers(axes: Axes, audit: Audit) -> None:
    """Each probe where it was sent: answered ones above, lost ones below, the outage shaded."""
    truth = audit.truth
    start = truth.start_ns if truth.start_ns is not None else audit.paused_ns
    if start is None or not len(audit.sent_ns):
        axes.set_xticks([])
        axes.set_yticks([])
        beside(axes, (0.0, 0.5), "nothing was felt")
        return
    zero = float(start)
    end = zero + truth.outage_ns if truth.end_ns is None else float(truth.end_ns)
    margin = max(0.45 * (end - zero), 20e6)
    low, high = (-margin) / 1e6, (end - zero + margin) / 1e6
    at = np.asarray((audit.sent_ns - zero) / 1e6, np.float64)
    inside = (at >= low) & (at <= high)
    answered = inside & (audit.answered_ns > 0)
    lost = inside & (audit.answered_ns == 0)
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1)
    axes.axvspan(0, (end - zero) / 1e6, color=VERMILION, alpha=0.12, lw=0, zorder=0)
    above(axes, (end - zero) / 2e6, f"without answers: {truth.text}", color=VERMILION, rise=6, fontweight="bold")
    for chosen, (bottom, top), colour in ((answered, (0.5, 0.95), GREEN), (lost, (0.08, 0.32), VERMILION)):
        places = at[chosen]
        _, first = np.unique(np.floor((places - low) / ((high - low) / _STROKES)), return_index=True)
        places = places[first]
        uprights(axes, places, np.full(len(places), bottom), np.full(len(places), top), color=colour, lw=0.7)
    axes.set_yticks([0.72, 0.2], ["a probe each ms: answered", "never answered"])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=SMALL, pad=6)
    axes.set_xlabel("milliseconds since the outage began")


# -- the figures -----------------------------------------------------------------------------------------------------


def _scale(axes: Axes, audit: Audit) -> None:
    """Zero has its place; from a tenth of the outage on the scale is logarithmic, so that equal factors look equal."""
    every = [figure for entry in audit.entries for figure in entry.known_ns] + [audit.truth.outage_ns]
    most = max([*every, 1_000_000]) / 1e6
    bend = 10.0 ** np.floor(np.log10(max(audit.truth.outage_ns / 1e6 / 3, 1.0)))
    axes.set_xscale("symlog", linthresh=bend, linscale=0.7)
    axes.set_xlim(-0.14 * bend, most * 1.35)
    ticks = [0.0] + [
        step * 10.0**power for power in range(0, 8) for step in (1, 2, 5) if bend <= step * 10.0**power <= most * 1.3
    ]
    if len(ticks) > 9:
        ticks = [0.0] + [10.0**power for power in range(0, 8) if bend <= 10.0**power <= most * 1.3]
    axes.set_xticks(ticks, ["0" if tick == 0 else tick_ms(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.set_xlabel(f"downtime reported (logarithmic from {tick_ms(bend)} on)")


def _truth(axes: Axes, audit: Audit) -> None:
    truth = audit.truth
    high = axes.get_xlim()[1] if truth.high_ns is None else truth.high_ns / 1e6
    axes.axvspan(truth.low_ns / 1e6, high, color=VERMILION, alpha=0.14, lw=0, zorder=0)
    axes.axvline(truth.outage_ns / 1e6, color=VERMILION, lw=1.2, zorder=1)
    least = "at least " if truth.is_open else ""
    above(
        axes,
        truth.outage_ns / 1e6,
        f"the outage, {least}{format_ns(truth.outage_ns)}",
        color=VERMILION,
        fontweight="bold",
    )


def _row(axes: Axes, entry: Entry, audit: Audit, height: float) -> None:
    colour = _COLOURS[entry.group]
    _at_left(axes, height - 0.045, entry.name, color=INK, fontsize=SMALL + 0.5, fontweight="bold")
    _at_left(axes, height + 0.085, entry.rule, color=MUTED, fontsize=SMALL - 1.8)
    shares = entry.shares
    if shares:
        ends = [shares[0][0] / 1e6, shares[-1][0] / 1e6]
        axes.plot(ends, [height, height], color=colour, lw=1.0, alpha=0.55, zorder=2)
    for value, share in _binned(shares):
        size = max(_LARGEST * share**0.5, _SMALLEST)
        axes.plot([value / 1e6], [height], "o", ms=size, mfc=colour, mec="none", alpha=0.75, zorder=3)
    if not shares:
        beside(axes, (0.0, height), "reports nothing, whatever its phase", shift=4, fontstyle="italic")
    typical = entry.typical_ns
    _at_right(axes, height - 0.045, entry.spread, color=INK)
    if typical is not None:
        error = error_text(entry.error_ns(audit.truth), audit.truth, figure_ns=typical)
        right = audit.truth.holds(typical)
        words = "within the bounds" if right else f"{error} typically" if len(entry.figures_ns) > 1 else error
        _at_right(axes, height + 0.085, words, color=GREEN if right else MUTED, fontsize=SMALL - 1)


def _binned(shares: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Figures within a twentieth of one another as one circle, at their mean: many small ones would hide the shares."""
    bins: list[list[tuple[int, float]]] = []
    for value, share in shares:
        if bins and value <= 1.05 * bins[-1][0][0]:
            bins[-1].append((value, share))
        else:
            bins.append([(value, share)])
    return [
        (sum(value * share for value, share in one) / sum(share for _, share in one), sum(share for _, share in one))
        for one in bins
    ]


def _at_left(axes: Axes, height: float, text: str, **look: object) -> None:
    place = {"xycoords": ("figure fraction", "data"), "va": "center", "ha": "left", "annotation_clip": False}
    axes.annotate(text, (0.0, height), **place, **look)  # type: ignore[arg-type]


def _at_right(axes: Axes, height: float, text: str, **look: object) -> None:
    place = {"xycoords": ("axes fraction", "data"), "va": "center", "ha": "left", "annotation_clip": False}
    axes.annotate(text, (1.03, height), **place, **{"fontsize": SMALL, **look})  # type: ignore[arg-type]
