"""How every picture looks, and how a matplotlib figure becomes SVG that sits in a page.

Identical data gives identical bytes: no date, hashed ids with a fixed salt, and text laid out by the font that
matplotlib brings along. Text stays text, in the font of the page. Colours are written as CSS variables (with the
light-mode colour as fallback), so a page can be light, dark or printed. They tell things apart for the colour-blind
(after Okabe and Ito), and never alone: everything is also labelled.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unnoticed.results.quantities import format_number

INK, MUTED, RULE, PAPER, SHADE = "#1b1c20", "#666973", "#d8dae0", "#fdfdfd", "#eff0f4"
BLUE, VERMILION, GREEN, PURPLE, AMBER = "#0a6ebd", "#d1500a", "#00866a", "#97508f", "#b97f00"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    SHADE: "shade",
    BLUE: "blue",
    VERMILION: "vermilion",
    GREEN: "green",
    PURPLE: "purple",
    AMBER: "amber",
}
CLIENT_COLOURS = (GREEN, PURPLE, AMBER)  # blue is the migration's, vermilion the harm's

WIDTH = 10.0  # inches; 72 units of the SVG to the inch
TEXT, SMALL = 9.0, 8.0

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "path.simplify": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    "text.color": INK,
    "text.usetex": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": SMALL,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "hatch.linewidth": 0.6,
    "lines.solid_capstyle": "butt",
}


def render(name: str, description: str, draw: Callable[[], Figure]) -> str:
    """The SVG of the figure that `draw` makes, ready to stand in an HTML page.

    `name` prefixes its ids, so that several pictures can share a page; `description` is read to those who cannot see.
    """
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_SETTINGS, "svg.hashsalt": name}
    with mpl.rc_context(settings):
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        draw().savefig(buffer, format="svg", metadata=nothing)
    return _embed(buffer.getvalue(), name, description)


def _embed(svg: str, name: str, description: str) -> str:
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"\bid=\"", f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r"xlink:href=\"#", f'href="#{name}-', body)
    body = re.sub(r"font-family: [^;\"]+;?\s*", "", body)
    body = body.replace(' transform="rotate(-0 ', ' transform="rotate(0 ')
    body = re.sub(r' transform="rotate\(0 [^)]*\)"', "", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda found: variable(found.group()), body)
    # A hundredth of a unit is enough for the eye, in paths and places; numbers in texts stay as they are.
    body = re.sub(r'(?<= [dxy]=")[^"]*', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found.group()), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    about = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    look = 'xmlns="http://www.w3.org/2000/svg" style="stroke-linejoin: round; stroke-linecap: butt"'
    return f'<svg class="plot" role="img" aria-label="{about}" viewBox="{box.group(1)}" {look}>{body.strip()}\n'


def variable(colour: str) -> str:
    """A colour of ours as the page's variable, with the light-mode colour as fallback."""
    return f"var(--{_VARIABLES[colour]}, {colour})" if colour in _VARIABLES else colour


def figure(height: float) -> Figure:
    """An empty figure of the common width and a height in inches."""
    return Figure(figsize=(WIDTH, height))


def panel(drawing: Figure, *, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the top left corner, with no frame but the line at the bottom."""
    full = drawing.get_figheight()
    axes = drawing.add_axes((left / WIDTH, 1 - (top + height) / full, width / WIDTH, height / full))
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3, width=0.8)
    axes.set_axisbelow(True)
    return axes


def heading(drawing: Figure, text: str, *, left: float, top: float, colour: str = INK, weight: str = "bold") -> None:
    """A line of text whose baseline is `top` inches from the upper edge."""
    full = drawing.get_figheight()
    look: dict[str, Any] = {"color": colour, "fontweight": weight, "fontsize": TEXT}
    drawing.text(left / WIDTH, 1 - top / full, text, va="baseline", ha="left", **look)


UNDERLAID = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}  # a text's bbox: no line behind it crosses it out


def beside(axes: Axes, at: tuple[float, float], text: str, *, shift: float = 5, **look: Any) -> None:
    """A small text at the right of a mark (or at its left, where `shift` is negative), never clipped."""
    place: dict[str, Any] = {"xytext": (shift, 0), "textcoords": "offset points", "annotation_clip": False}
    side = "right" if shift < 0 else "left"
    look = {"va": "center", "ha": side, "fontsize": SMALL, "color": MUTED, **look}
    axes.annotate(text, at, **place, **look)


def above(axes: Axes, x: float, text: str, *, rise: float = 5, **look: Any) -> None:
    """A small text above the panel, centred over `x`."""
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (0, rise), "textcoords": "offset points"}
    look = {"ha": "center", "fontsize": SMALL, "color": MUTED, "annotation_clip": False, **look}
    axes.annotate(text, (x, 1.0), **place, **look)


def uprights(
    axes: Axes,
    x: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    **look: Any,
) -> None:
    """Upright strokes as one path: a twentieth of the bytes of as many lines."""
    gaps = np.full(len(x), np.nan)
    axes.plot(np.column_stack((x, x, gaps)).ravel(), np.column_stack((low, high, gaps)).ravel(), **look)


def hatched(axes: Axes, spans: Iterable[tuple[float, float]]) -> None:
    """Upright hatched bands that stand behind all else, seen however narrow."""
    for low, high in spans:
        axes.axvspan(low, high, facecolor="none", edgecolor=MUTED, hatch="//////", lw=0.25, alpha=0.4, zorder=0.5)


def duration_ticks(axes: Axes, low_ms: float, high_ms: float) -> None:
    """Log ticks of an x axis in milliseconds, at each power of ten, labelled 1 ms, 10 ms, ... 1 s, 10 s."""
    powers = [power for power in range(-3, 7) if low_ms <= 10.0**power <= high_ms]
    axes.set_xticks([10.0**power for power in powers])
    axes.set_xticklabels([tick_ms(10.0**power) for power in powers])
    axes.set_xticks([], minor=True)


def tick_ms(value_ms: float) -> str:
    if value_ms >= 1000:
        return f"{format_number(value_ms / 1000)} s"
    if value_ms < 1:
        return f"{format_number(value_ms * 1000)} µs"
    return f"{format_number(value_ms)} ms"


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last one an ellipsis where something was cut off."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
