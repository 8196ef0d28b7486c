"""docs/plans.md has every key of a plan and every metric, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from unnoticed.experiments.metrics import METRICS
from unnoticed.experiments.planning.settings import BulkLoad, ConnectLoad, RequestLoad, Settings

PAGE = (Path(__file__).parents[3] / "docs/plans.md").read_text(encoding="utf-8")
_LOADS = (RequestLoad, BulkLoad, ConnectLoad)  # shown with an example, not key by key


def keys(model, prefix=""):
    """The dotted keys of a section and the sections in it."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in _LOADS:
            yield from keys(inner, f"{key}.")
        else:
            yield key


def first_column(after, before):
    part = PAGE[PAGE.index(after) : PAGE.index(before)]
    return {
        name for row in re.findall(r"^\| (`[^|]*) \|", part, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }


def test_every_key_of_a_plan_is_on_the_page_and_no_other():
    assert first_column("| key |", "## Clauses") == set(keys(Settings))


def test_every_metric_is_on_the_page_and_no_other():
    assert first_column("| metric |", "The tables that a run leaves") == set(METRICS)
