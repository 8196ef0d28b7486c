"""Two runs side by side: for each setting and metric both medians, and their difference with its interval.

A difference is called one only where its 95 % bootstrap interval leaves out zero. What differs between the two machines
is said with it, since runs of different machines compare machines.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import comb
from pathlib import Path
from typing import Any

from unnoticed.errors import PlanError
from unnoticed.results import environment, metrics
from unnoticed.results.cells import Cell, cells
from unnoticed.results.environment import Difference
from unnoticed.results.quantities import NOTHING, format_quantity, marked
from unnoticed.results.run import Statistic
from unnoticed.results.statistics import (
    ENOUGH_REPEATS,
    Estimate,
    Numbers,
    compute,
    difference_interval,
    estimate,
    numbers,
)
from unnoticed.results.store import RunFolder

COMPARED = (
    "blackout_ns",
    "perceived_ns",
    "total_ns",
    "rounds",
    "bytes_sent",
    "retransmits",
    "cutover_retransmits",
    "brownout_request_p99_ns",
    "brownout_dirty_share",
    "resets",
    "completed",
    "integrity",
)


class Change(Enum):
    """What can be said of a difference."""

    MORE = "more"
    LESS = "less"
    NONE = "no change seen"
    UNKNOWN = "cannot be compared"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one setting in both runs.

    Medians for numbers, shares for yes and no. `difference` is second minus first, in the metric's unit, with the
    interval `low` to `high` where there is one.
    """

    setting: str
    metric: metrics.Metric
    statistic: Statistic
    first: Estimate | None
    second: Estimate | None
    difference: float | None
    low: float | None
    high: float | None
    change: Change
    bounds: tuple[bool, bool] = (False, False)  # whether each estimate is only a lower bound

    @property
    def unit(self) -> str:
        return "share" if self.statistic == "share" else self.metric.unit


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`only_first` and `only_second` are settings that the other run does not have."""

    first: str
    second: str
    rows: tuple[Row, ...]
    environment: tuple[Difference, ...]
    plan: tuple[Difference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """What to know before believing the rows."""
        said = []
        if self.environment:
            names = ", ".join(difference.name for difference in self.environment)
            said.append(f"The two runs were not made in the same environment; these differ: {names}.")
        for difference in self.plan:
            said.append(
                f"The two plans differ in {difference.name}: {difference.first} in {self.first}, "
                f"{difference.second} in {self.second}."
            )
        fewest = min((each.n for row in self.rows for each in (row.first, row.second) if each), default=0)
        if self.rows and fewest < ENOUGH_REPEATS:
            few = f"As few as {fewest} trials of a setting: intervals are narrower than they should be"
            one = "Only 1 trial of a setting: no interval can be given for it"
            said.append(f"{one if fewest == 1 else few}; {ENOUGH_REPEATS} repeats are enough.")
        for name, settings in ((self.first, self.only_first), (self.second, self.only_second)):
            if settings:
                said.append(f"Only in {name}: {', '.join(settings)}.")
        return said

    def to_text(self) -> str:
        """A table for a terminal, warnings first."""
        heads = ("setting", "metric", self.first, self.second, "difference", "95 % interval", "")
        lines = [heads, *(_texts(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        shown = [
            "  ".join(
                text.rjust(width) if 2 <= place <= 5 else text.ljust(width) for place, (text, width) in pairs
            ).rstrip()
            for pairs in (list(enumerate(zip(line, widths, strict=True))) for line in lines)
        ]
        return "\n".join([*(f"Warning: {warning}" for warning in self.warnings), *shown]) + "\n"

    def to_html(self) -> str:
        """A page of its own, in the look of a report."""
        from unnoticed.results.report import environment_of_templates  # the plots' libraries are heavy

        template = environment_of_templates().get_template("comparison.html.jinja")
        return template.render(comparison=self, rows=[_texts(row) for row in self.rows])

    def to_json(self) -> dict[str, Any]:
        """A document for programs; numbers in the units of the metrics' columns."""
        return {
            "first": self.first,
            "second": self.second,
            "warnings": self.warnings,
            "environment": [vars(difference) for difference in self.environment],
            "plan": [vars(difference) for difference in self.plan],
            "rows": [
                {
                    "setting": row.setting,
                    "metric": row.metric.name,
                    "statistic": row.statistic,
                    "first": row.first and row.first.value,
                    "second": row.second and row.second.value,
                    "difference": row.difference,
                    "low": row.low,
                    "high": row.high,
                    "change": row.change.value,
                }
                for row in self.rows
            ],
        }


def compare(first: Path, second: Path, *, compared: Sequence[str] = COMPARED) -> Comparison:
    """Compare two run folders.

    Raises RecordError where one of them is not a run's, or damaged, and PlanError where they have no setting in common.
    """
    folders = RunFolder(first), RunFolder(second)
    (run_a, run_b), (tables_a, tables_b) = [folder.run() for folder in folders], [folder.load() for folder in folders]
    cells_a = {cell.key: cell for cell in cells(tables_a.trials, run_a.cases)}
    cells_b = {cell.key: cell for cell in cells(tables_b.trials, run_b.cases)}
    rows = [
        _row(cell, cells_b[key], metric)
        for key, cell in cells_a.items()
        if key in cells_b
        for name in compared
        if (metric := metrics.find(name)) is not None
    ]
    names = names_of(first, second)
    if not cells_a.keys() & cells_b.keys():
        have = (
            f"{name} has {_listed([cell.label for cell in found.values()])}"
            for name, found in zip(names, (cells_a, cells_b), strict=True)
        )
        raise PlanError(f"The two runs have no setting in common, so that nothing can be compared: {'; '.join(have)}.")
    return Comparison(
        first=names[0],
        second=names[1],
        rows=tuple(row for row in rows if row.first or row.second),
        environment=tuple(environment.differences(folders[0].environment(), folders[1].environment())),
        plan=tuple(_differing_plans(*(tomllib.loads(folder.plan()) for folder in folders))),
        only_first=tuple(cell.label for key, cell in cells_a.items() if key not in cells_b),
        only_second=tuple(cell.label for key, cell in cells_b.items() if key not in cells_a),
    )


def names_of(first: Path, second: Path) -> tuple[str, str]:
    """What to call two folders: as much of the ends of their paths as tells them apart."""
    one, other = (path.resolve() for path in (first, second))
    for parts in range(1, max(len(one.parts), len(other.parts))):
        names = tuple("/".join(path.parts[-parts:]) for path in (one, other))
        if names[0] != names[1]:
            return names[0], names[1]
    return str(one), str(other)


def _listed(words: Sequence[str]) -> str:
    """`one, another and a third`."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last


# What is asked of the results, and how often, changes no result.
_NOT_COMPARED = ("question", "clause", "budget", "repeats", "seed")


def _differing_plans(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Where two plans say something else, or one says nothing."""
    one, other = (
        environment.flatten({name: value for name, value in plan.items() if name not in _NOT_COMPARED})
        for plan in (first, second)
    )
    return [
        Difference(name=name, first=one.get(name, "nothing"), second=other.get(name, "nothing"))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _row(first: Cell, second: Cell, metric: metrics.Metric) -> Row:
    statistic: Statistic = "share" if metric.is_yes_no else "median"
    values = [_values(cell, metric) for cell in (first, second)]
    estimates = [estimate(statistic, known) if len(known) else None for known in values]
    difference = low = high = None
    change = Change.UNKNOWN
    if estimates[0] and estimates[1]:
        difference = estimates[1].value - estimates[0].value
        if statistic == "share":
            change = _change_of_share(difference, values)
        elif min(len(known) for known in values) > 1:
            low, high = difference_interval("median", *values)
            change = Change.MORE if low > 0 else Change.LESS if high < 0 else Change.NONE
    return Row(
        setting=first.label,
        metric=metric,
        statistic=statistic,
        first=estimates[0],
        second=estimates[1],
        difference=difference,
        low=low,
        high=high,
        change=change,
        bounds=(_is_bound(first, metric, statistic), _is_bound(second, metric, statistic)),
    )


def _is_bound(cell: Cell, metric: metrics.Metric, statistic: Statistic) -> bool:
    known, bounds = _values(cell, metric), metrics.at_most(cell.counted, metric.name)
    return len(known) > 0 and compute(statistic, known) != compute(statistic, bounds)


def _change_of_share(difference: float, values: list[Numbers]) -> Change:
    """Fisher's exact test at 5 %: shares of a few trials differ by chance more often than one thinks."""
    if difference == 0 or fisher_p(*((int(known.sum()), len(known)) for known in values)) > 0.05:
        return Change.NONE
    return Change.MORE if difference > 0 else Change.LESS


def fisher_p(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Two-sided p of Fisher's exact test for two shares, each given as (how many, of how many)."""
    hits, total = first[0] + second[0], first[1] + second[1]
    ways = {
        k: comb(first[1], k) * comb(second[1], hits - k)
        for k in range(max(0, hits - second[1]), min(first[1], hits) + 1)
    }
    seen = ways[first[0]]
    return sum(count for count in ways.values() if count <= seen) / comb(total, hits)


def _values(cell: Cell, metric: metrics.Metric) -> Numbers:
    return numbers(metrics.values(cell.counted, metric.name))


def _texts(row: Row) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        return NOTHING if value is None else format_quantity(value, row.unit)

    signed = NOTHING if row.difference is None else ("+" if row.difference > 0 else "") + shown(row.difference)
    interval = NOTHING if row.low is None else f"{shown(row.low)} to {shown(row.high)}"
    label = row.metric.label if row.statistic == "median" else f"share of {row.metric.label}"
    estimates = zip((row.first, row.second), row.bounds, strict=True)
    values = (marked(shown(each.value if each else None), is_bound=is_bound) for each, is_bound in estimates)
    return (row.setting, label, *values, signed, interval, row.change.value)
