"""Flows of a capture: when each of them stood still, and the longest stall of all byte by byte."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results.capture import Capture, Trace
from unnoticed.results.plots.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    RULE,
    SMALL,
    VERMILION,
    WIDTH,
    above,
    figure,
    heading,
    panel,
    render,
    shorten,
    uprights,
)
from unnoticed.results.quantities import format_ns

_LEFT, _RIGHT, _TOP, _ROW = 2.75, 1.75, 0.42, 0.36
_STROKES = 900  # at most, over the width
_FRAMES = 4000  # at most, in the picture of one stall

F64 = npt.NDArray[np.float64]


def draw_strips(capture: Capture, *, name: str = "strips") -> str:
    """SVG with a row for each traced connection."""
    stalls = ((trace.title, trace.stall) for trace in capture.traces)
    told = "; ".join(f"{title}: stood still for {stall.text}" for title, stall in stalls if stall)
    return render(name, f"Flows over the time of the capture. {told}", lambda: _strips(capture))


def _strips(capture: Capture) -> Figure:
    traces = capture.traces
    height = _ROW * len(traces)
    drawing = figure(_TOP + height + 0.5)
    for left, colour, text in ((0.0, GREEN, "new bytes acknowledged"), (2.1, VERMILION, "sent again")):
        heading(drawing, "■", left=_LEFT + left, top=0.16, colour=colour, weight="normal")
        heading(drawing, text, left=_LEFT + left + 0.16, top=0.16, colour=MUTED, weight="normal")
    axes = panel(drawing, left=_LEFT, top=_TOP, width=WIDTH - _LEFT - _RIGHT, height=height)
    zero = capture.first_ns
    last = max([int(trace.sent_ns[-1]) for trace in traces if len(trace.sent_ns)], default=zero)
    last = max([last, *(int(trace.heard_ns[-1]) for trace in traces if len(trace.heard_ns))])
    end_s = max((last - zero) / 1e9, 1e-6)
    axes.set_xlim(-0.01 * end_s, 1.01 * end_s)
    axes.set_ylim(len(traces) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.set_xlabel("seconds since the first frame of the capture")
    for row, trace in enumerate(traces):
        _strip(axes, trace, row, zero, end_s)
    return drawing


def _strip(axes: Axes, trace: Trace, row: int, zero: int, end_s: float) -> None:
    _beside(axes, row, shorten(trace.title, 46), left=True)
    news = _advances(trace)
    for moments, bottom, top, colour in (
        (trace.heard_ns[news], row + 0.30, row + 0.02, GREEN),
        (trace.sent_ns[trace.again], row - 0.06, row - 0.34, VERMILION),
    ):
        at = _thinned((moments - zero) / 1e9, end_s)
        uprights(axes, at, np.full(len(at), bottom), np.full(len(at), top), color=colour, lw=0.7)
    stall = trace.stall
    if stall is None:
        return
    start_s = (stall.start_ns - zero) / 1e9
    width_s = stall.duration_ns / 1e9
    axes.fill_between([start_s, start_s + width_s], row - 0.4, row + 0.4, color=VERMILION, alpha=0.16, lw=0, zorder=0)
    _beside(axes, row, f"stood still for {stall.text}", left=False)


def _beside(axes: Axes, row: float, text: str, *, left: bool) -> None:
    axes.annotate(
        text,
        (0.0, row) if left else (1.02, row),
        xycoords=("figure fraction", "data") if left else ("axes fraction", "data"),
        va="center",
        ha="left",
        fontsize=SMALL,
        color=INK if left else MUTED,
        annotation_clip=False,
    )


def _advances(trace: Trace) -> npt.NDArray[np.bool_]:
    if not len(trace.acknowledged):
        return np.zeros(0, np.bool_)
    mask: npt.NDArray[np.bool_] = np.diff(trace.acknowledged, prepend=trace.acknowledged[:1] - 1) > 0
    return mask


def _thinned(at: F64, width: float) -> F64:
    """Not more moments than can be told apart over a width."""
    _, first = np.unique(np.floor(at / width * _STROKES), return_index=True)
    return at[first]


def draw_sequence(trace: Trace, *, name: str = "sequence") -> str:
    """SVG of what was sent, sent again and acknowledged around the longest stall of one direction."""
    stall = trace.stall
    assert stall is not None
    words = f"{trace.title}, around the {stall.text} in which it stood still"
    return render(name, f"Bytes over time of {words}.", lambda: _sequence(trace))


def _sequence(trace: Trace) -> Figure:
    stall = trace.stall
    assert stall is not None
    drawing = figure(4.3)
    heading(drawing, shorten(trace.title, 80), left=0.0, top=0.16)
    left = 3.4
    for colour, text in ((BLUE, "sent"), (VERMILION, "sent again"), (GREEN, "acknowledged")):
        heading(drawing, "■", left=WIDTH - left, top=0.16, colour=colour, weight="normal")
        heading(drawing, text, left=WIDTH - left + 0.16, top=0.16, colour=MUTED, weight="normal")
        left -= 0.5 + 0.075 * len(text)
    axes = panel(drawing, left=0.75, top=0.62, width=WIDTH - 0.85, height=3.1)
    zero, duration = stall.start_ns, max(stall.duration_ns, 1)
    margin = max(0.3 * duration, 1e6)
    low, high = -margin / 1e6, (duration + margin) / 1e6
    axes.set_xlim(low, high)
    axes.axvspan(0, duration / 1e6, color=VERMILION, alpha=0.12, lw=0, zorder=0)
    words = f"nothing new acknowledged for {stall.text}"
    if stall.low_ns:
        words += f"; behind it an outage of {stall.outage_text}"
    above(axes, duration / 2e6, words, color=VERMILION, fontweight="bold")
    sent = _in_view((trace.sent_ns - zero) / 1e6, low, high)
    heard = _in_view((trace.heard_ns - zero) / 1e6, low, high)
    floor = _floor(trace, sent, heard)
    for chosen, colour in ((sent[~trace.again[sent]], BLUE), (sent[trace.again[sent]], VERMILION)):
        at = (trace.sent_ns[chosen] - zero) / 1e6
        bottom, top = (trace.start[chosen] - floor) / 1024, (trace.end[chosen] - floor) / 1024
        uprights(axes, at, bottom, top, color=colour, lw=1.4, solid_capstyle="projecting")
    if len(heard):
        level = (np.maximum(trace.acknowledged[heard], floor) - floor) / 1024
        moments = (trace.heard_ns[heard] - zero) / 1e6
        axes.step(np.append(moments, high), np.append(level, level[-1]), where="post", color=GREEN, lw=1.2)
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.set_ylabel("KiB of the stream")
    axes.set_xlabel(f"milliseconds since it began to stand still (for {format_ns(duration)})")
    return drawing


def _in_view(at: F64, low: float, high: float) -> npt.NDArray[np.int64]:
    """The numbers of the moments in view, thinned where there are too many to draw."""
    inside = np.flatnonzero((at >= low) & (at <= high))
    return inside[:: max(1, -(-len(inside) // _FRAMES))]


def _floor(trace: Trace, sent: npt.NDArray[np.int64], heard: npt.NDArray[np.int64]) -> int:
    """The lowest position in view."""
    if len(sent):
        return int(trace.start[sent].min())
    return int(trace.acknowledged[heard].min()) if len(heard) else 0
