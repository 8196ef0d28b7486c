"""What was asked of links beside what was measured, as lines of text and as a document. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from unnoticed.experiments.links.judging import Measured, differences
from unnoticed.topology.direction import Direction

HEAD = ("link", "rate, Mbit/s", "delay, ms", "loss, %", "by", "")


def row(
    name: str, asked: Direction, measured: Measured, means: str, *, before: Measured | None = None
) -> tuple[str, ...]:
    """One direction: asked, then measured, of each quantity. `before`: an earlier look, which was not as asked."""
    rate = measured.rate_bit_per_s
    wanted = "none" if asked.rate_bit_per_s is None else f"{asked.rate_bit_per_s / 1e6:g}"
    delay = "-" if measured.delay_ns is None else f"{measured.delay_ns / 1e6:.2f}"
    jitter = f"±{asked.jitter_ns / 1e6:g}" if asked.jitter_ns else ""
    lost = 100 * measured.lost / measured.sent if measured.sent else 0.0
    return (
        name,
        f"{wanted}: {'-' if rate is None else f'{rate / 1e6:.4g}'}",
        f"{asked.delay_ns / 1e6:g}{jitter}: {delay}",
        f"{asked.loss_ppm / 1e4:g}: {lost:.2f}",
        means,
        verdict(differences(asked, measured), [] if before is None else differences(asked, before)),
    )


def verdict(wrong: Sequence[str], before: Sequence[str]) -> str:
    """In words, what is wrong with a link, and what seemed to be when it was measured before."""
    said = "; ".join(wrong) or "as asked"
    return f"{said} (measured again; at first {'; '.join(before)})" if before and not wrong else said


def lines(rows: Sequence[tuple[str, ...]], *, head: tuple[str, ...] = HEAD) -> list[str]:
    """The rows under the head, in columns."""
    table = [head, *rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(head) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in table
    ]


def document(
    name: str, asked: Direction, measured: Measured, means: str, *, before: Measured | None = None
) -> dict[str, Any]:
    """The same for a program."""
    return {
        "link": name,
        "asked": asdict(asked),
        "measured": asdict(measured),
        "measured_before": None if before is None else asdict(before),
        "means": means,
        "differences": differences(asked, measured),
    }
