"""The statistics of reports, verdicts and comparisons: named functions over plain arrays.

Intervals are percentile bootstraps with a fixed seed, so the same data always gives the same interval. On two-humped
data such an interval, said to be 95 %, covers 81 % at 5 repeats and 93 % at 20: below ENOUGH_REPEATS the interval is
given, and `Estimate.note` says that it is too narrow. A share gets Wilson's interval (a bootstrap of 5 out of 5 would
have no width), and an extreme gets none: no resampling knows what lies beyond the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from unnoticed.results.run import Statistic

ENOUGH_REPEATS = 20
CONFIDENCE = 0.95
RESAMPLES = 4000
SEED = 1

Numbers = npt.NDArray[np.float64]

WORDS: dict[Statistic, str] = {
    "min": "smallest",
    "median": "median",
    "mean": "mean",
    "p95": "95th percentile of",
    "p99": "99th percentile of",
    "max": "largest",
    "share": "share of",
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic of `n` values with its interval; `low` and `high` are None where none can be given."""

    value: float
    low: float | None
    high: float | None
    n: int
    note: str = ""


def numbers(values: Iterable[Any]) -> Numbers:
    """The values that are there, as float64 (true is 1, false 0); NA, None and NaN are left out."""
    return np.asarray(pd.Series(list(values), dtype="object").dropna(), dtype=np.float64)


def median(values: Numbers) -> float:
    return float(np.median(values))


def mean(values: Numbers) -> float:
    return float(np.mean(values))


def smallest(values: Numbers) -> float:
    return float(np.min(values))


def largest(values: Numbers) -> float:
    return float(np.max(values))


def percentile(values: Numbers, per_cent: float) -> float:
    """By linear interpolation between order statistics (Hyndman and Fan's definition 7)."""
    return float(np.percentile(values, per_cent))


def share(values: Numbers) -> float:
    """The share of values that are true, from 0 to 1. Raises ValueError where a value is neither 0 nor 1."""
    if not bool(np.isin(values, (0.0, 1.0)).all()):
        raise ValueError("a share can only be taken of yes and no")
    return float(np.mean(values))


_BY_NAME: dict[Statistic, Callable[[Numbers], float]] = {
    "min": smallest,
    "median": median,
    "mean": mean,
    "p95": lambda values: percentile(values, 95),
    "p99": lambda values: percentile(values, 99),
    "max": largest,
    "share": share,
}

# The same along the rows of a matrix of resamples. An extreme has no entry, since no bootstrap of it is honest.
_RESAMPLED: dict[Statistic, Callable[[Numbers], Numbers]] = {
    "median": lambda rows: np.asarray(np.median(rows, axis=1)),
    "mean": lambda rows: np.asarray(np.mean(rows, axis=1)),
    "p95": lambda rows: np.asarray(np.percentile(rows, 95, axis=1)),
    "p99": lambda rows: np.asarray(np.percentile(rows, 99, axis=1)),
}


def compute(statistic: Statistic, values: Numbers) -> float:
    """The named statistic. Raises ValueError where there is no value at all."""
    if not len(values):
        raise ValueError("no value")
    return _BY_NAME[statistic](values)


def estimate(statistic: Statistic, values: Numbers, *, confidence: float = CONFIDENCE, seed: int = SEED) -> Estimate:
    """The named statistic with its interval. Raises ValueError where there is no value at all."""
    value = compute(statistic, values)
    n = len(values)
    interval: tuple[float, float] | None
    if statistic == "share":
        interval = wilson_interval(value, n, confidence=confidence)
    elif statistic in _RESAMPLED and n > 1:
        interval = bootstrap_interval(statistic, values, confidence=confidence, seed=seed)
    else:
        interval = None
    low, high = interval or (None, None)
    return Estimate(value=value, low=low, high=high, n=n, note=note_on_coverage(statistic, n))


def note_on_coverage(statistic: Statistic, n: int) -> str:
    """What must be said of an interval over `n` values: empty where it can be taken at its word."""
    if statistic in ("min", "max"):
        return ""
    if statistic in ("p95", "p99") and n < (rank := 100 / (100 - int(statistic[1:]))):
        values = "1 value cannot" if n == 1 else f"{n} values cannot"
        return f"{values} resolve a {statistic[1:]}th percentile: it takes {rank:.0f}"
    if statistic != "share" and n < ENOUGH_REPEATS:
        return f"with {n} values the interval is too narrow"
    return ""


def _resample(statistic: Statistic, values: Numbers, rng: np.random.Generator) -> Numbers:
    return _RESAMPLED[statistic](values[rng.integers(0, len(values), (RESAMPLES, len(values)))])


def bootstrap_interval(
    statistic: Statistic, values: Numbers, *, confidence: float = CONFIDENCE, seed: int = SEED
) -> tuple[float, float]:
    """Percentile bootstrap of median, mean, p95 or p99 (Efron 1979), deterministic for a seed."""
    return _middle(_resample(statistic, values, np.random.default_rng(seed)), confidence)


def difference_interval(
    statistic: Statistic, first: Numbers, second: Numbers, *, confidence: float = CONFIDENCE, seed: int = SEED
) -> tuple[float, float]:
    """Bootstrap interval of `statistic(second) - statistic(first)`, the two samples being independent."""
    rng = np.random.default_rng(seed)
    resampled_first = _resample(statistic, first, rng)
    return _middle(_resample(statistic, second, rng) - resampled_first, confidence)


def _middle(resampled: Numbers, confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(resampled, (tail, 100 - tail))
    return float(low), float(high)


def wilson_interval(value: float, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share `value` of `n` (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(value * (1 - value) / n + z * z / (4 * n * n)))
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def quantiles_by(
    frame: pd.DataFrame, by: Sequence[str], column: str, per_cent: Sequence[float] = (5, 25, 50, 75, 95)
) -> pd.DataFrame:
    """Percentiles of `column` for each group of `by`, in the order of first appearance.

    Columns: those of `by`, n (values that are there), and one `p<per_cent>` each; a group with no value has NA.
    """
    rows: list[dict[str, Any]] = []
    for key, group in frame.groupby(list(by), sort=False, dropna=False):
        values = numbers(group[column])
        row: dict[str, Any] = {**dict(zip(by, key, strict=True)), "n": len(values)}
        row |= {f"p{level:g}": percentile(values, level) if len(values) else pd.NA for level in per_cent}
        rows.append(row)
    return pd.DataFrame(rows, columns=[*by, "n", *(f"p{level:g}" for level in per_cent)])
