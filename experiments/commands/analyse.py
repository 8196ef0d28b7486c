"""`unnoticed analyse FILE...`: retransmissions and outages in captures of any origin."""

from __future__ import annotations

import json
import shutil
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from unnoticed.errors import PlanError

if TYPE_CHECKING:
    from rich.console import Console

    from unnoticed.results.capture import Capture
    from unnoticed.results.grid import Grid

_WIDTH = 190  # columns where stdout is no terminal
_NARROW = 150  # below it there is no room for these
_LESS_NEEDED = frozenset({"packets", "bytes", "lasted", "round trip", "captured", "kind"})


@click.command(name="analyse")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--at", "places", metavar="ADDRESS", multiple=True, help="The host that captured has this address.")
@click.option("--top", default=20, show_default=True, type=click.IntRange(1), help="How many flows to show.")
@click.option("--output", metavar="DIR", help="Leave a page with pictures, and all tables in Parquet, in this folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document with all flows instead of tables.")
def command(files: tuple[str, ...], places: tuple[str, ...], top: int, output: str | None, *, as_json: bool) -> None:
    """Retransmissions and outages in captures of any origin: pcap and pcapng, plain or packed by gzip or zstd.

    For each TCP connection: what was sent again and why, the longest stall and the bounds of the outage behind it; for
    UDP flows and pings that keep a period, the longest gap. Counts are exact where the capture was taken at the sender,
    else lower bounds, and it says which. Files whose times follow one another are taken for pieces of one capture,
    files whose times overlap for capture points: each flow is then read at the point nearest to its sender.
    """
    at = [_address(text) for text in places]
    from unnoticed.experiments.analysis.capture import analyse_captures

    paths = [Path(name) for name in files]
    page = None
    if output is None:
        capture = analyse_captures(paths, at=at)
    else:
        from unnoticed.results.capture_page import PICTURES, write_output

        capture = analyse_captures(paths, at=at, pictures=PICTURES)
        page = write_output(Path(output), capture)
    if as_json:
        click.echo(json.dumps({**capture.document(), "page": None if page is None else str(page)}, indent=1))
    else:
        click.echo(text(capture, width=_width(), top=top), nl=False)
        if page is not None:
            click.echo(f"Page: {page}")


def _address(text: str) -> int:
    from unnoticed.probes.packets import address

    try:
        return address(text)
    except ValueError:
        raise PlanError(f"--at {text}: this is no IPv4 or IPv6 address.") from None


def _width() -> int:
    return max(shutil.get_terminal_size().columns, 80) if sys.stdout.isatty() else _WIDTH


def text(capture: Capture, *, width: int, top: int) -> str:
    """The answer for people."""
    from rich.console import Console

    buffer = StringIO()
    console = Console(file=buffer, width=width, no_color=True, highlight=False, emoji=False, markup=False)
    for point in capture.points:
        console.print(point.text)
    console.print(f"{capture.summary}\n")
    if capture.connections:
        _print(console, capture.grid(limit=top))
    if capture.steady:
        _print(console, capture.steady_grid(limit=top))
    for sentence in capture.notes:
        console.print(sentence)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _print(console: Console, grid: Grid) -> None:
    from rich.table import Table

    from unnoticed.results.quantities import unbroken

    left_out = _LESS_NEEDED if console.width < _NARROW else frozenset[str]()
    kept = [k for k, head in enumerate(grid.heads) if head.title not in left_out]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=False)
    for k in kept:
        longest = max((len(row[k]) for row in grid.rows), default=0)
        # A name stays in one piece, unless it would leave no room for what is said of it.
        in_one = k == 0 and longest <= console.width // 2
        side: Literal["right", "left"] = "right" if grid.heads[k].is_number else "left"
        table.add_column(grid.heads[k].title, justify=side, overflow="fold", no_wrap=in_one)
    for row in grid.rows:
        table.add_row(*(unbroken(row[k]) for k in kept))
    console.print(table)
    if grid.note:
        console.print(grid.note)
    console.print()
