"""A grid: a table as a page shows it, every cell already a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from unnoticed.results import schema
from unnoticed.results.quantities import NOTHING, fixed_ms, format_number, is_missing
from unnoticed.results.schema import Column


@dataclass(frozen=True, kw_only=True)
class Head:
    """A column's heading; numbers stand at the right. `hint` is shown when the pointer rests on it."""

    title: str
    is_number: bool = True
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """`note` says what was left out, if anything; `hints` explain texts of cells."""

    caption: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)


def text(title: str, hint: str = "") -> Head:
    """A column of texts."""
    return Head(title=title, is_number=False, hint=hint)


def number(title: str, hint: str = "") -> Head:
    """A column of numbers."""
    return Head(title=title, hint=hint)


def of_table(
    table: str, frame: pd.DataFrame, *, origin_ns: Any = None, limit: int = 1000, drop: Sequence[str] = ()
) -> Grid:
    """A frame of the named table in full: durations in ms, moments in ms since `origin_ns`.

    Where `origin_ns` is missing, moments are left as they are. Beyond `limit` rows, the note says so.
    """
    known = schema.BY_NAME[table]
    columns = [
        known.column(str(name)) or Column(name=str(name), dtype="string", meaning="a factor of the plan")
        for name in frame.columns
        if name not in drop
    ]
    shown = frame.head(limit)
    cells = [[_cell(value, column, origin_ns) for value in shown[column.name]] for column in columns]
    note = f"The first {limit} of {len(frame)} rows; {table}.parquet has them all." if len(frame) > limit else ""
    heads = tuple(
        Head(title=_title(column, origin_ns), is_number=column.dtype in ("Int64", "Float64"), hint=column.meaning)
        for column in columns
    )
    return Grid(caption=table, heads=heads, rows=tuple(zip(*cells, strict=True)), note=note)


_MOMENTS = frozenset(
    {"start_ns", "end_ns", "time_ns", "paused_ns", "resumed_ns", "intended_ns", "sent_ns", "answered_ns"}
)


def _title(column: Column, origin_ns: Any) -> str:
    if column.unit != "ns":
        return column.name
    if column.name in _MOMENTS and is_missing(origin_ns):
        return column.name
    return f"{column.name.removesuffix('_ns')}, ms"


def _cell(value: Any, column: Column, origin_ns: Any) -> str:
    if is_missing(value) or value == "":
        return NOTHING
    if column.dtype == "boolean":
        return "yes" if value else "no"
    if column.dtype == "string":
        return str(value)
    if column.unit == "ns" and column.name in _MOMENTS:
        return str(value) if is_missing(origin_ns) else fixed_ms(value - origin_ns, digits=3)
    if column.unit == "ns":
        return fixed_ms(value, digits=3)
    return format_number(float(value), digits=4)
