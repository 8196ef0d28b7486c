"""What a run set out to answer: `run.json`, written by the runner before the first trial, read by the report.

`plan.toml` holds the plan as the user wrote it; this file holds what results need of it, so that a report can be made
from the run's folder alone: the question, the clauses and budgets, and which trials there should be.

Versions of the file:
1  first version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from unnoticed.errors import RecordError

RUN_VERSION = 1

Statistic = Literal["min", "median", "mean", "p95", "p99", "max", "share"]
Bound = Literal["at_most", "at_least", "equals"]
Value = str | float | bool  # int is a float to the type system


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One statement that a run puts to the test, or one budget it must keep.

    `text` says it in words (a budget may leave it empty). `statistic` of column `metric` (see results/metrics) of the
    trials for which `where` is true (column = value, or one of several values) must be at_most, at_least or equal
    `value` (ns, bytes, counts as in the table; 0 to 1 for a share). `counter` marks a counter-case: one that shows what
    happens when a part is left out.
    """

    text: str = ""
    metric: str
    statistic: Statistic
    bound: Bound
    value: float
    where: Mapping[str, Value | Sequence[Value]] = field(default_factory=dict)
    counter: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """The content of `run.json`. `planned` holds the id of every trial that there should be, in the plan's order.

    `cases` keeps the plan's order ("" where the plan has none); the first one is the main case. `factors` are the
    dotted names of what the plan varies. Times are ISO 8601 in UTC.
    """

    name: str
    question: str = ""
    started_utc: str = ""
    seed: int = 0
    repeats: int = 0
    cases: tuple[str, ...] = ("",)
    factors: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()
    clauses: tuple[Clause, ...] = ()
    budgets: tuple[Clause, ...] = ()

    def to_json(self) -> str:
        return json.dumps({"version": RUN_VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def run_from_json(text: str, *, source: str) -> Run:
    """The run that `text` describes. Raises RecordError, naming `source`, where it is not one."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise RecordError(f"{source}: not JSON ({error}).") from error
    if not isinstance(document, dict):
        raise RecordError(f"{source}: not a JSON object.")
    version = document.pop("version", None)
    if version != RUN_VERSION:
        raise RecordError(f"{source}: version {version!r}; this release reads version {RUN_VERSION}.")
    try:
        for name in ("clauses", "budgets"):
            document[name] = tuple(_clause(entry) for entry in document.get(name, ()))
        for name in ("cases", "factors", "planned"):
            if name in document:
                document[name] = tuple(str(entry) for entry in document[name])
        return Run(**document)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{source}: {error}.") from error


def _clause(entry: dict[str, Any]) -> Clause:
    clause = Clause(**entry)
    if clause.statistic not in get_args(Statistic):
        raise ValueError(f"statistic {clause.statistic!r} is none of {', '.join(get_args(Statistic))}")
    if clause.bound not in get_args(Bound):
        raise ValueError(f"bound {clause.bound!r} is none of {', '.join(get_args(Bound))}")
    return clause
