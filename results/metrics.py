"""Metrics: what a clause, a budget or a comparison may ask of the trials table, and how each is called and written.

Every column of the trials table with a number or a yes/no is a metric, and so are four that follow from its outcome:
`completed`, `gave_up`, `lost`, and `as_expected` (it ended as the plan expects).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from unnoticed.results import schema
from unnoticed.results.statistics import Numbers, numbers

_DERIVED = {
    "completed": "migrations that completed",
    "gave_up": "migrations that gave up",
    "lost": "guests that were lost",
    "as_expected": "trials that ended as expected",
}
# A share reads as "share of <this>".
_SHARES = {
    "rounds_shrink": "trials whose every round sends fewer pages than the one before",
    "integrity": "trials without a lost, repeated or changed byte",
    "captures_complete": "trials with complete captures",
    "kernel_agrees": "trials whose retransmissions equal the kernel's own count",
    "disturbed": "trials disturbed by the machine",
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric's name, its unit (as in the schema), what people call it, and what it means."""

    name: str
    unit: str
    label: str
    meaning: str

    @property
    def is_yes_no(self) -> bool:
        return self.unit == "yes/no"


def find(name: str) -> Metric | None:
    """The metric of that name, or None."""
    if name in _DERIVED:
        return Metric(name=name, unit="yes/no", label=_DERIVED[name], meaning=_DERIVED[name])
    column = schema.TRIALS.column(name)
    if column is None or column.dtype == "string":
        return None
    label = _SHARES.get(name, column.title)
    return Metric(name=name, unit=column.unit, label=label, meaning=column.meaning)


def names() -> list[str]:
    """Every metric there is."""
    return [column.name for column in schema.TRIALS.columns if column.dtype != "string"] + list(_DERIVED)


_WAITS = ("perceived_ns", "slowest_request_ns", "slowest_connect_ns")


def at_most(trials: pd.DataFrame, name: str) -> Numbers:
    """The metric of the trials that have one, infinite where it is only a lower bound: the wait was not over."""
    known = trials.dropna(subset=[name]) if name in trials.columns else trials
    found = numbers(values(known, name))
    if name in _WAITS:
        found = np.where(known["unfinished"].fillna(False).to_numpy(dtype=bool), np.inf, found)
    return found


def values(trials: pd.DataFrame, name: str) -> pd.Series[Any]:
    """The metric of each trial, NA where it has none. Raises KeyError for an unknown metric or a missing column."""
    match name:
        case "completed":
            series = trials["outcome"] == "completed"
        case "gave_up":
            series = trials["outcome"] == "gave-up"
        case "lost":
            series = trials["outcome"] == "lost"
        case "as_expected":
            series = trials["outcome"] == trials["expected"]
        case _:
            if find(name) is None:
                raise KeyError(name)
            return trials[name]
    return cast("pd.Series[Any]", series.astype("boolean"))
