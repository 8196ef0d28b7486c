"""Summaries: the tables beside the pictures, from frames to grids.

All of them are of the trials that count (see `cells`), and say how many do not; only whether data was intact, and
whether the kernel agrees, is said of every trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from unnoticed.results import glossary, grid, metrics, schema
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
from unnoticed.results.statistics import (
    Numbers,
    estimate,
    largest,
    median,
    note_on_coverage,
    numbers,
    percentile,
)

_P95_HINT = "95th percentile, from 20 trials on"


def overview(cells: Sequence[Cell]) -> Grid:
    """One row for each setting: what came of it, and its main figures."""
    rows = []
    for cell in cells:
        trials = cell.counted
        ended = cell.trials["outcome"].value_counts()
        outcomes = [f"{ended[name]} {name}" for name in ("completed", "gave-up", "lost", "failed") if name in ended]
        if cell.left_out:
            outcomes.append(f"{len(trials)} counted")
        rows.append(
            (
                cell.label,
                ", ".join(outcomes),
                _middle(trials, "blackout_ns"),
                _middle(trials, "perceived_ns"),
                _middle(trials, "slowest_request_ns"),
                _middle(trials, "slowest_connect_ns"),
                _middle(trials, "total_ns"),
                _typical_count(trials["rounds_retransmits"] + trials["push_retransmits"].fillna(0)),
                _typical_count(trials["cutover_retransmits"]),
                _all(cell.trials["integrity"]),
                _all(cell.trials["kernel_agrees"]),
            )
        )
    heads = (
        grid.text("setting"),
        grid.text("trials", "those that the machine disturbed count in no figure"),
        grid.number("blackout", "the guest runs nowhere"),
        grid.number("perceived", "what the worst client felt"),
        grid.number("slowest request", "the longest wait for an answer, from when the request was due"),
        grid.number("slowest connect", "the longest time to open a connection and be answered"),
        grid.number("whole migration"),
        grid.number(
            "resent, pages",
            "segments sent again before the pause, or while pages followed the guest: the page stream's congestion; "
            "median and most",
        ),
        grid.number(
            "resent, cutover", "segments sent again from the pause until 1.5 s after the resume; median and most"
        ),
        grid.text("data intact", "every byte of every flow, and RAM; disturbed trials too"),
        grid.text(
            "kernel agrees", "our count of retransmissions equals the kernel's, flow by flow; disturbed trials too"
        ),
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
            known, bounds = numbers(cell.counted[column]), metrics.at_most(cell.counted, column)
            if not len(known):
                rows.append((cell.label, name, "0", *[NOTHING] * 5))
                continue
            middle = estimate("median", known)
            interval = NOTHING
            if middle.low is not None and middle.high is not None:
                interval = f"{fixed_ms(middle.low)} to {fixed_ms(middle.high)}"
            least, typical, high, most = (
                marked(fixed_ms(of(known)), is_bound=of(known) != of(bounds)) if enough else NOTHING
                for of, enough in ((np.min, True), (median, True), (_p95, _resolves_p95(known)), (np.max, True))
            )
            rows.append((cell.label, name, str(len(known)), least, typical, interval, high, most))
    heads = (
        grid.text("setting"),
        grid.text("time"),
        grid.number("trials", "with a value, not disturbed"),
        grid.number("least"),
        grid.number("median"),
        grid.number("95 % interval", "of the median"),
        grid.number("p95", _P95_HINT),
        grid.number("most"),
    )
    return Grid(caption="Blackout and perceived downtime, ms", heads=heads, rows=tuple(rows))


def _p95(values: Numbers) -> float:
    return percentile(values, 95)


def _resolves_p95(values: Numbers) -> bool:
    """Whether the values are enough to tell their 95th percentile from their largest."""
    return not note_on_coverage("p95", len(values))


def _without(cells: Sequence[Cell]) -> str:
    """How many trials are left out, as a sentence; empty where none is."""
    count = sum(cell.left_out for cell in cells)
    if not count:
        return ""
    return f"Without {count} {'trial' if count == 1 else 'trials'} that the machine disturbed."


def steps(typical: pd.DataFrame, cell: Cell, every: pd.DataFrame) -> Grid:
    """Each cutover step of a typical trial of a setting, beside the same step over its trials; milliseconds."""
    mine = cell.rows_of(every)
    lengths = mine.assign(length_ns=mine["end_ns"] - mine["start_ns"])
    rows = []
    for step in records(typical.sort_values(["start_ns", "end_ns"], kind="stable")):
        same = numbers(lengths.loc[(lengths["step"] == step.step) & (lengths["place"] == step.place), "length_ns"])
        here = fixed_ms(step.end_ns - step.start_ns, digits=3)
        others = (NOTHING, NOTHING, NOTHING)
        if len(same):
            middle, high, most = (fixed_ms(of(same), digits=3) for of in (median, _p95, largest))
            others = (middle, high if _resolves_p95(same) else NOTHING, most)
        rows.append((step.step, step.place.upper(), here, *others))
    heads = (
        grid.text("step"),
        grid.text("host"),
        grid.number("this trial"),
        grid.number("median", "over the trials of this setting that count"),
        grid.number("p95", _P95_HINT),
        grid.number("most"),
    )
    count = mine["trial_id"].nunique()
    note = f"Over {count} {'trial' if count == 1 else 'trials'} of this setting"
    note += f", without {cell.left_out} that the machine disturbed." if cell.left_out else "."
    return Grid(caption="Steps of the cutover, ms", heads=heads, rows=tuple(rows), note=note, hints=glossary.STEPS)


def clients(outages: pd.DataFrame) -> Grid:
    """What each client of one trial felt, by every estimator; milliseconds."""
    rows = [
        (row.client, row.estimator, fixed_ms(row.outage_ns), fixed_ms(row.low_ns), fixed_ms(row.high_ns))
        for row in records(outages.sort_values(["client", "estimator"], kind="stable"))
    ]
    heads = (
        grid.text("client"),
        grid.text("estimator", "time-stamp is the one quoted as perceived downtime"),
        grid.number("outage"),
        grid.number("at least", "the outage was no shorter"),
        grid.number("at most", "the outage was no longer"),
    )
    return Grid(caption="What each client felt, ms", heads=heads, rows=tuple(rows), hints=glossary.ESTIMATORS)


def rounds(cells: Sequence[Cell], frame: pd.DataFrame) -> Grid:
    """Medians of each round of each setting, over the trials that count and had it."""
    rows = []
    for cell in cells:
        for round_number, group in cell.rows_of(frame).groupby("round", sort=True):

            def middle(column: str, group: pd.DataFrame = group) -> float | None:
                known = numbers(group[column])
                return median(known) if len(known) else None

            sent, size, rate, dirty = (middle(name) for name in ("pages", "bytes", "bit_per_s", "dirty_pages_per_s"))
            pace, throttle = middle("rate_limit_bit_per_s"), middle("throttle")
            rows.append(
                (
                    cell.label,
                    str(round_number),
                    str(len(group)),
                    NOTHING if sent is None else format_number(sent),
                    NOTHING if size is None else format_bytes(size),
                    fixed_ms(middle("duration_ns")),
                    NOTHING if rate is None else format_bit_per_s(rate),
                    NOTHING if pace is None else format_bit_per_s(pace),
                    NOTHING if dirty is None else format_number(dirty, digits=4),
                    NOTHING if not throttle else format_share(throttle),
                )
            )
    heads = (
        grid.text("setting"),
        grid.number("round"),
        grid.number("trials", "that count, and had this round"),
        grid.number("pages"),
        grid.number("size"),
        grid.number("duration, ms"),
        grid.number("rate"),
        grid.number("pace", "the rate that the policy set, if it did"),
        grid.number("dirtied pages/s", "while the round was sent"),
        grid.number("throttled", "share of the time for which the policy had the guest kept from running"),
    )
    return Grid(caption="Rounds, medians", heads=heads, rows=tuple(rows), note=_without(cells))


def encodings(cells: Sequence[Cell], frame: pd.DataFrame) -> Grid:
    """Sums of each encoding of each setting, over the trials that count: what pages took on the wire."""
    rows = []
    for cell in cells:
        for encoding, group in cell.rows_of(frame).groupby("encoding", sort=True):
            pages, size, sent = (int(group[name].sum()) for name in ("pages", "bytes", "wire_bytes"))
            share = format_share(sent / size) if size else NOTHING
            rows.append(
                (cell.label, str(encoding), format_number(pages), format_bytes(size), format_bytes(sent), share)
            )
    heads = (
        grid.text("setting"),
        grid.text("encoding", "none: as they are; xor: what differs from what was sent before, compressed"),
        grid.number("pages"),
        grid.number("size"),
        grid.number("sent", "bytes on the wire, without the protocol's frames"),
        grid.number("share", "of the size"),
    )
    return Grid(caption="Pages by encoding, sums", heads=heads, rows=tuple(rows), note=_without(cells))


def brownout(cells: Sequence[Cell], frame: pd.DataFrame) -> Grid:
    """Medians of each span of time of each setting in which the guest ran, over the trials that count and had it."""
    rows = []
    for cell in cells:
        mine = cell.rows_of(frame)
        for span in schema.BROWNOUT_SPANS:
            group = mine[mine["span"] == span]
            if not len(group):
                continue
            waits = [numbers(group[column]) for column in ("request_median_ns", "request_p99_ns")]
            paces = [numbers(group[column]) for column in ("dirty_pages_per_s", "skipped_pages_per_s")]
            rows.append(
                (
                    cell.label,
                    span,
                    str(len(group)),
                    str(int(group["requests"].sum())),
                    *(fixed_ms(median(known)) if len(known) else NOTHING for known in waits),
                    *(format_number(round(median(known))) if len(known) else NOTHING for known in paces),
                )
            )
    heads = (
        grid.text("setting"),
        grid.text("time"),
        grid.number("trials", "that count, and had this time"),
        grid.number("requests", "due and answered within it, in all these trials"),
        grid.number("answer, ms", "the median wait for an answer, from when the request was due"),
        grid.number("p99, ms", "the 99th percentile of it"),
        grid.number("pages/s", "that the guest's dirtier wrote"),
        grid.number("left out/s", "pages that it should have written and did not, since it could not keep up"),
    )
    caption = "Before the migration, and while pages were tracked and sent; medians"
    return Grid(caption=caption, heads=heads, rows=tuple(rows), note=_without(cells), hints=glossary.SPANS)


def later_pages(cells: Sequence[Cell], faults: pd.DataFrame) -> Grid | None:
    """What came after the guest, for each setting where something did: medians, and the waits of all its trials."""
    rows = []
    for cell in cells:
        trials = cell.counted[cell.counted["catch_up_ns"].notna()]
        if not len(trials):
            continue
        waits = numbers(cell.rows_of(faults)["latency_ns"])
        typical, high, most = (
            fixed_ms(of(waits), digits=3) if len(waits) else NOTHING for of in (median, _p99, largest)
        )
        sizes = [format_bytes(median(numbers(trials[name]))) for name in ("pushed_bytes", "demanded_bytes")]
        rows.append(
            (
                cell.label,
                str(len(trials)),
                fixed_ms(median(numbers(trials["catch_up_ns"]))),
                *sizes,
                format_number(median(numbers(trials["faults"]))),
                typical,
                high,
                most,
            )
        )
    if not rows:
        return None
    heads = (
        grid.text("setting"),
        grid.number("trials", "that count, and in which pages came after the guest"),
        grid.number("until the last page, ms", "from the resume; median"),
        grid.number("pushed", "unasked; median"),
        grid.number("on demand", "median"),
        grid.number("waits", "pages that the guest had to wait for; median"),
        grid.number("wait, median, ms", "over the waits of all these trials"),
        grid.number("p99"),
        grid.number("most"),
    )
    return Grid(caption="Pages that came after the guest", heads=heads, rows=tuple(rows), note=_without(cells))


def _p99(values: Numbers) -> float:
    return percentile(values, 99)


def retransmits(cells: Sequence[Cell], flows: pd.DataFrame) -> Grid:
    """Sums over all flows of a kind and the trials of a setting that count, by type, beside the kernel's own count."""
    rows = []
    for cell in cells:
        for (workload, sender), group in cell.rows_of(flows).groupby(["workload", "sender"], sort=True):
            segments, again = int(group["segments"].sum()), int(group["retransmits"].sum())
            kinds = [str(int(group[name].sum())) for name in ("rto", "fast", "tlp", "spurious")]
            kernel, late = group["kernel_retransmits"], group["predicted_retransmit"].dropna()
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
                    format_number(int(late.sum())) if len(late) else NOTHING,
                    NOTHING if kernel.isna().all() else str(int(kernel.sum())) + ("?" if kernel.isna().any() else ""),
                )
            )
    heads = (
        grid.text("setting"),
        grid.text("workload"),
        grid.text("sender"),
        grid.number("flows", "connections, over the trials that count"),
        grid.number("segments"),
        grid.number("resent"),
        grid.number("share"),
        grid.number("timer", "by the retransmission timer (RTO)"),
        grid.number("fast", "fast retransmit"),
        grid.number("probe", "tail-loss probe"),
        grid.number("needless", "spurious, by DSACK"),
        grid.number("foretold", "flows whose client must have lost patience in the blackout, where no frame is lost"),
        grid.number("kernel", "the kernel's own count; a question mark where a flow has none"),
    )
    return Grid(caption="Segments sent again, sums", heads=heads, rows=tuple(rows), note=_without(cells))
