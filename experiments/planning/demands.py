"""Clauses and budgets of a plan: what a metric must be, over the trials it speaks of."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unnoticed.experiments.metrics import METRICS
from unnoticed.experiments.planning.fields import dimension_of
from unnoticed.experiments.planning.problems import shown, suggestion
from unnoticed.experiments.planning.quantities import QuantityError, parse
from unnoticed.experiments.planning.toml_lines import Path

BOUNDS = ("at_most", "at_least", "equals")


class Demand(BaseModel):
    """A [[clause]] (a verdict of the report) or a [[budget]] (decides the exit code). Exactly one bound is given."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    metric: str
    statistic: Literal["min", "median", "mean", "p95", "p99", "max", "share"]
    at_most: Any = None
    at_least: Any = None
    equals: Any = None
    where: dict[str, Any] = Field(default_factory=dict)
    text: str = ""

    @property
    def bound(self) -> tuple[str, float]:
        """The name of the bound and its value in the metric's base unit."""
        name = next(bound for bound in BOUNDS if getattr(self, bound) is not None)
        return name, number_of(getattr(self, name), metric=self.metric, statistic=self.statistic)


class ClauseTable(Demand):
    """A clause of the claim under test. `counter`: a counter-case, which shows what happens without some part of it."""

    text: str = Field(min_length=1)
    counter: bool = False


class BudgetTable(Demand):
    """A budget: the run fails (exit code 1) where it is missed."""


def number_of(value: Any, *, metric: str, statistic: str) -> float:
    """A bound in the metric's base unit. Raises QuantityError with what to write."""
    dimension = None if statistic == "share" else dimension_of(metric)
    if dimension is not None:
        return parse(value, dimension)
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = "a share from 0 to 1" if statistic == "share" else "a number"
        raise QuantityError(f"{shown(value)} is not {what} (write it without quotes).")
    if statistic == "share" and not 0 <= value <= 1:
        raise QuantityError(f"{value} is not a share: write a number from 0 to 1.")
    return value


def mistakes(
    tables: list[dict[str, Any]], *, kind: str, cases: Collection[str], factors: Collection[str]
) -> Iterator[tuple[Path, str]]:
    """What is wrong with the tables' values towards one another and the rest of the plan, as (path, sentence)."""
    for number, table in enumerate(tables):
        path: Path = (kind, number)
        metric, statistic = table.get("metric"), table.get("statistic")
        given = [bound for bound in BOUNDS if bound in table]
        if isinstance(metric, str) and metric not in METRICS:
            yield (*path, "metric"), f'"{metric}" is not a metric of a trial{suggestion(metric, METRICS)}'
        elif isinstance(metric, str) and isinstance(statistic, str):
            truth = METRICS[metric] == "truth"
            if truth != (statistic == "share"):
                right = 'is true or false: its statistic is "share"' if truth else 'is a number, which has no "share"'
                yield (*path, "statistic"), f'"{statistic}" does not go with {metric}, which {right}.'
            else:
                for bound in given:
                    try:
                        number_of(table[bound], metric=metric, statistic=statistic)
                    except QuantityError as error:
                        yield (*path, bound), str(error)
        if len(given) != 1:
            have = f"{' and '.join(given)} are given" if given else "no bound is given"
            yield (*path, *given[1:2]), f"{have}; give exactly one of at_most, at_least and equals."
        yield from _where(table.get("where"), (*path, "where"), cases, factors)


def _where(where: Any, path: Path, cases: Collection[str], factors: Collection[str]) -> Iterator[tuple[Path, str]]:
    if not isinstance(where, dict):
        return
    for key, value in where.items():
        if key == "case":
            for name in value if isinstance(value, list) else [value]:
                if name not in cases:
                    near = suggestion(str(name), cases) if cases else "; the plan has no [[case]]."
                    yield (*path, key), f"there is no case {shown(name)}{near}"
        elif key not in factors:
            known = ["case", *factors]
            rest = value if isinstance(value, dict) else {}
            quoted = next((f"{key}.{each}" for each in rest if f"{key}.{each}" in factors), None)
            hint = f'; a factor is one key, in quotes: "{quoted}".' if quoted else suggestion(key, known)
            yield (*path, key), f'"{key}" is neither "case" nor a factor of this plan{hint}'
