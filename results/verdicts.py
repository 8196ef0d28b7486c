"""Verdicts: what the trials say of each clause and each budget, in words and numbers.

A verdict fails loudly. A metric that nobody measured is never a pass. Trials in which the machine itself stalled are
left out, and that is said. A trial that should have a value and has none (it failed, or the client never got an answer)
is not left out: the clause is judged with that value at its best and at its worst, and holds or fails only if both
agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pandas as pd

from unnoticed.results import metrics, schema
from unnoticed.results.cells import counted
from unnoticed.results.quantities import format_quantity
from unnoticed.results.run import Clause, Statistic, Value
from unnoticed.results.statistics import WORDS, Estimate, Numbers, compute, estimate, numbers


class Finding(Enum):
    """What became of a clause."""

    HOLDS = "holds"
    FAILS = "fails"
    UNKNOWN = "cannot be evaluated"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The finding on one clause.

    `estimate` is None where there was nothing to compute it from. `n` trials have a value, of `trials` that the clause
    is about; `disturbed` of them were left out, `unknown` should have a value and have none, `inapplicable` gave up as
    expected and so cannot have one. `settled` is false where the interval reaches across the bound.
    """

    clause: Clause
    finding: Finding
    estimate: Estimate | None
    trials: int
    disturbed: int = 0
    unknown: int = 0
    inapplicable: int = 0
    settled: bool = True
    is_bound: bool = False  # the estimate is only a lower bound
    sentence: str

    @property
    def n(self) -> int:
        return self.estimate.n if self.estimate else 0


def judge(clause: Clause, trials: pd.DataFrame) -> Verdict:
    """The verdict on `clause` over a trials table (see schema.TRIALS)."""
    metric = metrics.find(clause.metric)
    if metric is None:
        return _unknown(clause, 0, f"no column of the trials is called {clause.metric}")
    missing = [name for name in clause.where if name not in trials.columns]
    if missing:
        return _unknown(clause, 0, f"the trials have no factor called {missing[0]}")
    if schema.TRIALS.column(clause.metric) is not None and clause.metric not in trials.columns:
        return _unknown(clause, 0, f"the trials have no column {clause.metric}")
    if clause.statistic == "share" and not metric.is_yes_no:
        return _unknown(clause, 0, f"{metric.label} is not a yes or no, of which a share could be taken")
    about = trials[matches(trials, clause.where)]
    if not len(about):
        return _unknown(clause, 0, f"no trial was run{_scope(clause)}")
    calm = counted(about)
    column = metrics.values(calm, clause.metric)
    gave_up_as_planned = (calm["outcome"] == "gave-up") & (calm["expected"] == "gave-up")
    inapplicable = int((column.isna() & gave_up_as_planned).sum())
    unknown = int(column.isna().sum()) - inapplicable
    known = numbers(column)
    counts = {"disturbed": len(about) - len(calm), "unknown": unknown, "inapplicable": inapplicable}
    if not len(known):
        why = "every one of them was disturbed by a stall of the machine" if not len(calm) else "none has a value"
        why = f"of {_trials(len(about))}{_scope(clause)}, {why}"
        return _unknown(clause, len(about), why, metric=metric, **counts)
    result = estimate(clause.statistic, known)
    bounds = metrics.at_most(calm, clause.metric)
    ways = {
        _holds(clause, _with(values, unknown, extreme)) for extreme in _extremes(clause) for values in (known, bounds)
    }
    finding = Finding.UNKNOWN if len(ways) > 1 else Finding.HOLDS if True in ways else Finding.FAILS
    settled = finding is Finding.UNKNOWN or _settled(clause, result)
    return Verdict(
        clause=clause,
        finding=finding,
        estimate=result,
        trials=len(about),
        **counts,
        settled=settled,
        is_bound=compute(clause.statistic, bounds) != result.value,
        sentence=_sentence(clause, metric, result, finding, settled=settled, **counts) + _bounds_words(known, bounds),
    )


def judge_all(clauses: Sequence[Clause], trials: pd.DataFrame) -> list[Verdict]:
    """One verdict for each clause, in their order."""
    return [judge(clause, trials) for clause in clauses]


def matches(trials: pd.DataFrame, where: Mapping[str, Value | Sequence[Value]]) -> pd.Series[bool]:
    """Which trials have the asked value (or one of them) in each column of `where`."""
    chosen = pd.Series(True, index=trials.index)
    for name, asked in where.items():
        options = [asked] if isinstance(asked, (str, int, float)) else list(asked)
        wanted = {_spelling(option) for option in options}
        chosen &= pd.Series([_spelling(value) in wanted for value in trials[name]], index=trials.index, dtype=bool)
    return chosen


def _spelling(value: object) -> str:
    """One spelling for a value however it is typed: 2, 2.0 and "2" are the same, and so are true and "true"."""
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return str(value)


def _extremes(clause: Clause) -> tuple[float, float]:
    """The values that would suit the clause best and worst, for trials that have none."""
    if clause.statistic == "share":
        best = 0.0 if clause.bound == "at_most" or (clause.bound == "equals" and clause.value == 0) else 1.0
        return best, 1.0 - best
    match clause.bound:
        case "at_most":
            return -math.inf, math.inf
        case "at_least":
            return math.inf, -math.inf
        case "equals":
            return clause.value, math.inf


def _with(known: np.ndarray, count: int, extreme: float, /) -> np.ndarray:
    return np.concatenate([known, np.full(count, extreme)])


def _holds(clause: Clause, values: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # interpolating between infinities
        value = compute(clause.statistic, values)
    return not math.isnan(value) and _keeps(clause, value)


def _keeps(clause: Clause, value: float) -> bool:
    match clause.bound:
        case "at_most":
            return value <= clause.value
        case "at_least":
            return value >= clause.value
        case "equals":
            return math.isclose(value, clause.value, rel_tol=1e-9, abs_tol=1e-12)


def _settled(clause: Clause, result: Estimate) -> bool:
    """Whether both ends of the interval say the same as the value itself."""
    if result.low is None or result.high is None or clause.bound == "equals" or clause.statistic == "share":
        return True  # the interval of a share always reaches below 100 %: it would call every perfect score unsettled
    return _keeps(clause, result.low) == _keeps(clause, result.value) == _keeps(clause, result.high)


# Words


def phrase(statistic: Statistic, metric: metrics.Metric) -> str:
    """What is judged, e.g. `median blackout`, `share of migrations that completed`."""
    return f"{WORDS[statistic]} {metric.label}"


def unit_of(clause: Clause, metric: metrics.Metric) -> str:
    """The unit of the clause's statistic and bound; that of a yes/no is a share, or a plain 0 and 1."""
    if clause.statistic == "share" or (metric.is_yes_no and clause.statistic == "mean"):
        return "share"
    return "" if metric.is_yes_no else metric.unit


def bound_words(clause: Clause, *, unit: str) -> str:
    """The bound, e.g. `at most 40.0 ms`."""
    shown = format_quantity(clause.value, unit)
    return {"at_most": f"at most {shown}", "at_least": f"at least {shown}", "equals": f"exactly {shown}"}[clause.bound]


def interval_words(result: Estimate, unit: str) -> str:
    """The interval, e.g. `95 % interval 11.9 ms to 13.0 ms`; empty where there is none."""
    if result.low is None or result.high is None:
        return ""
    return f"95 % interval {format_quantity(result.low, unit)} to {format_quantity(result.high, unit)}"


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _scope(clause: Clause) -> str:
    parts = []
    for name, asked in clause.where.items():
        options = [asked] if isinstance(asked, (str, int, float)) else list(asked)
        shown = " or ".join(_spelling(option) if not isinstance(option, str) else option for option in options)
        parts.append(f"in case “{shown}”" if name == "case" else f"with {name} = {shown}")
    return "".join(f" {part}" for part in parts)


def _bounds_words(known: Numbers, bounds: Numbers) -> str:
    count = int((known != bounds).sum())
    if not count:
        return ""
    were = f"{count} of these values are lower bounds" if count > 1 else "One of these values is a lower bound"
    return f" {were}: a client still waited when the trial was judged."


def _unknown(
    clause: Clause,
    trials: int,
    why: str,
    *,
    metric: metrics.Metric | None = None,
    disturbed: int = 0,
    unknown: int = 0,
    inapplicable: int = 0,
) -> Verdict:
    said = clause.metric if metric is None else phrase(clause.statistic, metric)
    unit = "" if metric is None else unit_of(clause, metric)
    return Verdict(
        clause=clause,
        finding=Finding.UNKNOWN,
        estimate=None,
        trials=trials,
        disturbed=disturbed,
        unknown=unknown,
        inapplicable=inapplicable,
        sentence=f"{said[0].upper()}{said[1:]}, where {bound_words(clause, unit=unit)} was asked: {why}.",
    )


def _sentence(
    clause: Clause,
    metric: metrics.Metric,
    result: Estimate,
    finding: Finding,
    *,
    settled: bool,
    disturbed: int,
    unknown: int,
    inapplicable: int,
) -> str:
    unit = unit_of(clause, metric)
    bracket = ", ".join(filter(None, [interval_words(result, unit), _trials(result.n)]))
    said = phrase(clause.statistic, metric)
    about = f"{said[0].upper()}{said[1:]}{_scope(clause)}: {format_quantity(result.value, unit)} ({bracket})"
    sentences = [f"{about}, where {bound_words(clause, unit=unit)} was asked."]
    if unknown:
        were = (
            "1 trial that should have a value has"
            if unknown == 1
            else f"{unknown} trials that should have a value have"
        )
        tail = {
            Finding.UNKNOWN: "so that it cannot be decided",
            Finding.HOLDS: "which could not change the verdict",
            Finding.FAILS: "which could not change the verdict",
        }[finding]
        sentences.append(f"{were} none, {tail}.")
    if disturbed:
        were = "was" if disturbed == 1 else "were"
        sentences.append(f"{_trials(disturbed)} disturbed by a stall of the machine {were} left out.")
    if inapplicable:
        were = "has" if inapplicable == 1 else "have"
        sentences.append(f"{_trials(inapplicable)} gave up as expected and {were} no such value.")
    if not settled:
        sentences.append("The interval reaches across the bound: more repeats would settle it.")
    if result.note:
        sentences.append(f"{result.note[0].upper()}{result.note[1:]}.")
    return " ".join(sentences)
