"""Cells: the trials of one setting, that is of one case and one value of each factor that varies within a case.

Which of them count is said here, once: those that the machine did not disturb, for verdicts, tables and pictures alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from unnoticed.results import schema
from unnoticed.results.quantities import format_number

NOTABLE_STALL = 0.1  # of an outage: for longer, the machine disturbed it


def counted(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that count: those that the machine did not disturb."""
    return trials[~disturbed(trials)]


def disturbed(trials: pd.DataFrame) -> pd.Series[bool]:
    """Which trials the machine disturbed, as far as it is known."""
    return trials["disturbed"].fillna(False).astype(bool)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`label` says in words what sets these trials apart; `settings` are (factor, value) pairs."""

    case: str
    settings: tuple[tuple[str, str], ...]
    label: str
    trials: pd.DataFrame

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        return self.case, self.settings

    @property
    def expected(self) -> str:
        return str(self.trials["expected"].iloc[0])

    @property
    def counted(self) -> pd.DataFrame:
        """Those of its trials that count."""
        return counted(self.trials)

    @property
    def left_out(self) -> int:
        """How many of its trials do not count."""
        return int(disturbed(self.trials).sum())

    def rows_of(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of another table that belong to those of its trials that count."""
        return table[table["trial_id"].isin(self.counted["trial_id"])]


def cells(trials: pd.DataFrame, cases: Sequence[str] = ()) -> list[Cell]:
    """The trials by setting: cases in the given order (others behind), factor values by size or alphabet."""
    varying = [
        factor
        for factor in schema.factors(trials)
        if any(group[factor].nunique(dropna=False) > 1 for _, group in trials.groupby("case", sort=False))
    ]
    found: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for position, (case, *values) in enumerate(zip(*(trials[name] for name in ("case", *varying)), strict=True)):
        key = (str(case), tuple(_written(value) for value in values))
        found.setdefault(key, []).append(position)
    ranks = {case: rank for rank, case in enumerate(cases)}
    last = len(ranks)
    ordered = sorted(found, key=lambda key: (ranks.get(key[0], last), key[0], [_order(value) for value in key[1]]))
    return [
        Cell(
            case=case,
            settings=tuple(zip(varying, values, strict=True)),
            label=_label(case, dict(zip(varying, values, strict=True))),
            trials=trials.iloc[found[case, values]],
        )
        for case, values in ordered
    ]


def _written(value: object) -> str:
    if value is None or value is pd.NA:
        return "not set"
    return format_number(value) if isinstance(value, (int, float)) else str(value)


_PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "µ": 1e-6, "n": 1e-9}


def _order(value: str) -> tuple[int, float, str]:
    """Numbers by their size, units included as far as a prefix tells it (20 KiB/s before 1 MiB/s); texts behind."""
    found = re.match(r"\s*([\d.]+)\s*(?:(Ki|Mi|Gi|[kMGTµn])(?=\w)|(ms))?", value)
    if not found or not found.group(1).strip("."):
        return (1, 0.0, value)
    scale = 1e-3 if found.group(3) else _PREFIXES.get(found.group(2) or "", 1.0)
    return (0, float(found.group(1)) * scale, value)


def _label(case: str, settings: dict[str, str]) -> str:
    # The last part of a factor's name says enough beside its value; the tables give it in full.
    parts = [f"{name.rsplit('.', maxsplit=1)[-1].replace('_', ' ')} {value}" for name, value in settings.items()]
    return ", ".join(filter(None, [case, *parts])) or "all trials"
