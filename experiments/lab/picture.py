"""The live picture: for each client a strip of the last seconds, and what the migration is at. Pure, but for rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from unnoticed.experiments.lab.pulse import Beat, felt

BINS = 36  # a line of 80 columns has room for them, with the figures beside
SPAN_NS = 3_600_000_000
_HEIGHTS = "▁▂▃▄▅▆▇█"
_LOWEST_NS, _DECADES_PER_STEP = 100_000, 0.5  # the shortest bar ends at 0.3 ms, the longest begins at 300 ms
_GRACE_NS = 50_000_000  # a probe that has waited for less is not yet counted as unanswered


def strip(beats: Sequence[Beat], *, to_ns: int) -> Text:
    """One character for each tenth of a second: the slowest answer in it on a logarithmic scale, × where none came."""
    bin_ns = SPAN_NS // BINS
    slowest: list[int | None] = [None] * BINS
    unanswered = [False] * BINS
    for beat in beats:
        place = BINS - 1 - (to_ns - beat.sent_ns) // bin_ns
        if not 0 <= place < BINS:
            continue
        if beat.answered_ns:
            slowest[place] = max(slowest[place] or 0, beat.answered_ns - beat.sent_ns)
        elif to_ns - beat.sent_ns > _GRACE_NS:
            unanswered[place] = True
    drawn = Text()
    for worst, lost in zip(slowest, unanswered, strict=True):
        if lost:
            drawn.append("×", style="bold red")
        elif worst is None:
            drawn.append(" ")
        else:
            height = height_of(worst)
            drawn.append(_HEIGHTS[height], style="green" if height < 4 else "yellow")
    return drawn


def height_of(took_ns: int) -> int:
    """0 to 7: each step is half a decade above 0.1 ms."""
    height, bound = 0, float(_LOWEST_NS)
    while height < len(_HEIGHTS) - 1 and took_ns >= bound * 10**_DECADES_PER_STEP:
        bound *= 10**_DECADES_PER_STEP
        height += 1
    return height


def picture(beats: Mapping[str, Sequence[Beat]], *, title: str, to_ns: int) -> Table:
    """The strips of all clients under a title, with each one's median answer and longest silence in the strip."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), show_header=False)
    for client, theirs in beats.items():
        shown = [beat for beat in theirs if beat.sent_ns > to_ns - SPAN_NS]
        done = [beat for beat in shown if beat.answered_ns or to_ns - beat.sent_ns > _GRACE_NS]
        about = felt(done, to_ns=to_ns)
        median = "no answers" if about.median_ns is None else f"{about.median_ns / 1e6:.2f} ms"
        table.add_row(
            client, strip(shown, to_ns=to_ns), median, f"longest silence {about.longest_silence_ns / 1e6:.0f} ms"
        )
    return table
