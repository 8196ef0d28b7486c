"""Summaries: the tables beside the pictures, from frames to grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from unnoticed.results import grid, metrics
from unnoticed.results.cells import Cell
from unnoticed.results.frames import records
from unnoticed.results.grid import Grid
from unnoticed.results.quantities import (
    NOTHING,
    fixed_ms,
    format_bit_per_s,
    format_bytes,
    format_ns,
    format_number,
    format_quantity,
    format_share,
    marked,
)
from unnoticed.results.statistics import estimate, largest, median, numbers, percentile


def calm(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that the machine did not disturb."""
    return trials[~trials["disturbed"].fillna(False).astype(bool)]


def overview(cells: Sequence[Cell]) -> Grid:
    """One row for each setting: what came of it, and its main figures."""
    rows = []
    for cell in cells:
        trials = calm(cell.trials)
        ended = cell.trials["outcome"].value_counts()
        outcomes = ", ".join(f"{ended[name]} {name}" for name in ("completed", "gave-up", "failed") if name in ended)
        rows.append(
            (
                cell.label,
                outcomes,
                _middle(trials, "blackout_ns"),
                _middle(trials, "perceived_ns"),
                _middle(trials, "slowest_request_ns"),
                _middle(trials, "slowest_connect_ns"),
                _middle(trials, "total_ns"),
                _typical_count(trials["cutover_retransmits"]),
                _typical_count(trials["retransmits"]),
                _all(cell.trials["integrity"]),
                _all(cell.trials["kernel_agrees"]),
            )
        )
    heads = (
        grid.text("setting"),
        grid.text("trials"),
        grid.number("blackout", "the guest runs nowhere"),
        grid.number("perceived", "what the worst client felt"),
        grid.number("slowest request", "the longest wait for an answer, from when the request was due"),
        grid.number("slowest connect", "the longest time to open a connection and be answered"),
        grid.number("whole migration"),
        grid.number(
            "resent, cutover", "segments sent again from the pause until 1.5 s after the resume; median and most"
        ),
        grid.number("resent, in all", "segments sent again in the whole trial; median and most"),
        grid.text("data intact", "every byte of every flow, and RAM"),
        grid.text("kernel agrees", "our count of retransmissions equals the kernel's, flow by flow"),
    )
    return Grid(caption="Medians by setting", heads=heads, rows=tuple(rows))


def _middle(trials: pd.DataFrame, column: str) -> str:
    known, most = numbers(trials[column]), metrics.at_most(trials, column)
    if not len(known):
        return NOTHING
    return marked(format_ns(median(known)), is_bound=median(known) != median(most))


def _typical_count(values: pd.Series[Any]) -> str:
    known = numbers(values)
    if not len(known):
        return NOTHING
    typical, most = (format_quantity(value, "count") for value in (median(known), largest(known)))
    return f"{typical} (max {most})"


def _all(values: pd.Series[Any]) -> str:
    known = values.dropna()
    if not len(known):
        return NOTHING
    good = int(known.sum())
    return "all" if good == len(values) else f"{good} of {len(values)}"


def downtime(cells: Sequence[Cell]) -> Grid:
    """Blackout and perceived downtime of each setting: median with interval, 95th percentile, extremes, in ms."""
    rows = []
    for cell in cells:
        for name, column in (("blackout", "blackout_ns"), ("perceived", "perceived_ns")):
            trials = calm(cell.trials)
            known, bounds = numbers(trials[column]), metrics.at_most(trials, column)
            if not len(known):
                rows.append((cell.label, name, "0", *[NOTHING] * 5))
                continue
            middle = estimate("median", known)
            interval = NOTHING
            if middle.low is not None and middle.high is not None:
                interval = f"{fixed_ms(middle.low)} to {fixed_ms(middle.high)}"
            least, typical, high, most = (
                marked(fixed_ms(of(known)), is_bound=of(known) != of(bounds))
                for of in (np.min, median, lambda values: percentile(values, 95), np.max)
            )
            rows.append((cell.label, name, str(len(known)), least, typical, interval, high, most))
    heads = (
        grid.text("setting"),
        grid.text("time"),
        grid.number("trials", "with a value, not disturbed"),
        grid.number("least"),
        grid.number("median"),
        grid.number("95 % interval", "of the median"),
        grid.number("p95"),
        grid.number("most"),
    )
    return Grid(caption="Blackout and perceived downtime, ms", heads=heads, rows=tuple(rows))


def steps(typical: pd.DataFrame, every: pd.DataFrame) -> Grid:
    """Each cutover step of a typical trial beside the same step over all trials of its setting; milliseconds."""
    lengths = every.assign(length_ns=every["end_ns"] - every["start_ns"])
    rows = []
    for step in records(typical.sort_values(["start_ns", "end_ns"], kind="stable")):
        same = numbers(lengths.loc[(lengths["step"] == step.step) & (lengths["place"] == step.place), "length_ns"])
        here = step.end_ns - step.start_ns
        rows.append(
            (
                step.step,
                step.place.upper(),
                fixed_ms(here, digits=3),
                *(fixed_ms(value, digits=3) for value in (median(same), percentile(same, 95), largest(same))),
            )
        )
    heads = (
        grid.text("step"),
        grid.text("host"),
        grid.number("this trial"),
        grid.number("median", "over all trials of this setting"),
        grid.number("p95"),
        grid.number("most"),
    )
    return Grid(caption="Steps of the cutover, ms", heads=heads, rows=tuple(rows))


def clients(outages: pd.DataFrame) -> Grid:
    """What each client of one trial felt, by every estimator; milliseconds."""
    rows = [
        (row.client, row.estimator, fixed_ms(row.outage_ns), fixed_ms(row.low_ns), fixed_ms(row.high_ns))
        for row in records(outages.sort_values(["client", "estimator"], kind="stable"))
    ]
    heads = (
        grid.text("client"),
        grid.text("estimator"),
        grid.number("outage"),
        grid.number("at least"),
        grid.number("at most"),
    )
    return Grid(caption="What each client felt, ms", heads=heads, rows=tuple(rows))


def rounds(cells: Sequence[Cell], frame: pd.DataFrame) -> Grid:
    """Medians of each round of each setting, over the trials that had it."""
    rows = []
    for cell in cells:
        for round_number, group in cell.rows_of(frame).groupby("round", sort=True):

            def middle(column: str, group: pd.DataFrame = group) -> float | None:
                known = numbers(group[column])
                return median(known) if len(known) else None

            sent, size, rate, dirty = (middle(name) for name in ("pages", "bytes", "bit_per_s", "dirty_pages_per_s"))
            rows.append(
                (
                    cell.label,
                    str(round_number),
                    str(len(group)),
                    NOTHING if sent is None else format_number(sent),
                    NOTHING if size is None else format_bytes(size),
                    fixed_ms(middle("duration_ns")),
                    NOTHING if rate is None else format_bit_per_s(rate),
                    NOTHING if dirty is None else format_number(dirty, digits=4),
                )
            )
    heads = (
        grid.text("setting"),
        grid.number("round"),
        grid.number("trials"),
        grid.number("pages"),
        grid.number("size"),
        grid.number("duration, ms"),
        grid.number("rate"),
        grid.number("dirtied pages/s", "while the round was sent"),
    )
    return Grid(caption="Rounds, medians", heads=heads, rows=tuple(rows))


def retransmits(cells: Sequence[Cell], flows: pd.DataFrame) -> Grid:
    """Sums over all flows of a kind and all trials of a setting, by type, beside the kernel's own count."""
    rows = []
    for cell in cells:
        for (workload, sender), group in cell.rows_of(flows).groupby(["workload", "sender"], sort=True):
            segments, again = int(group["segments"].sum()), int(group["retransmits"].sum())
            kinds = [str(int(group[name].sum())) for name in ("rto", "fast", "tlp", "spurious")]
            kernel = group["kernel_retransmits"]
            rows.append(
                (
                    cell.label,
                    str(workload),
                    str(sender),
                    format_number(len(group)),
                    format_number(segments),
                    format_number(again),
                    format_share(again / segments) if segments else NOTHING,
                    *kinds,
                    NOTHING if kernel.isna().all() else str(int(kernel.sum())) + ("?" if kernel.isna().any() else ""),
                )
            )
    heads = (
        grid.text("setting"),
        grid.text("workload"),
        grid.text("sender"),
        grid.number("flows", "connections, over all trials"),
        grid.number("segments"),
        grid.number("resent"),
        grid.number("share"),
        grid.number("timer", "by the retransmission timer (RTO)"),
        grid.number("fast", "fast retransmit"),
        grid.number("probe", "tail-loss probe"),
        grid.number("needless", "spurious, by DSACK"),
        grid.number("kernel", "the kernel's own count; a question mark where a flow has none"),
    )
    return Grid(caption="Segments sent again, over all trials", heads=heads, rows=tuple(rows))
