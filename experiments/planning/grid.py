"""The grid of a plan, its cases times its factors: each point is one setting; and the trials in their order."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal

from pydantic import BaseModel

from unnoticed.experiments.planning.document import Document, Keys, is_factor, leaves, merged, put
from unnoticed.experiments.planning.fields import dimension_of
from unnoticed.experiments.planning.quantities import written
from unnoticed.experiments.planning.settings import RATE_AND_PATTERN, Settings, fit_announcement, fit_policy

Expected = Literal["completed", "gave-up", "lost"]
Scalar = str | int | float | bool | None
_LONGEST_NAME = 40


@dataclass(frozen=True, kw_only=True)
class Case:
    """A named variant of the plan. `overrides` holds what it changes, shaped like a plan."""

    name: str
    expected: Expected
    overrides: Document


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of the grid. `factors`: what differs between points, by its dotted name, as the plan writes it."""

    case: str
    expected: Expected
    factors: Mapping[str, Scalar]
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One migration under one setting. `number` counts from 1 in order of performance, `repeat` from 0."""

    id: str
    number: int
    repeat: int
    case: str
    expected: Expected
    factors: Mapping[str, Scalar]
    settings: Settings


def factor_names(base: Document, cases: Iterable[Case]) -> tuple[str, ...]:
    """The dotted names of all that differs between settings: lists, and what a case changes; in the order written."""
    names = [".".join(path) for path, value in leaves(base) if is_factor(value)]
    names += [".".join(path) for case in cases for path, _ in leaves(case.overrides)]
    return tuple(dict.fromkeys(names))


def size_of_grid(base: Document, cases: Sequence[Case]) -> int:
    """How many settings the grid has, without making them."""
    total = 0
    for case in cases:
        points = 1
        for _, value in leaves(merged(base, case.overrides)):
            points *= len(value) if is_factor(value) else 1
        total += points
    return total


def points(document: Document) -> Iterator[Document]:
    """Every combination of one element from each list of the document, the last list varying fastest."""
    factors = [(path, value) for path, value in leaves(document) if is_factor(value)]
    for values in itertools.product(*(value for _, value in factors)):
        point = merged(document, {})
        for (path, _), value in zip(factors, values, strict=True):
            put(point, path, value)
        yield point


def settings_of(base: Document, cases: Sequence[Case], *, folder: FilePath) -> tuple[Setting, ...]:
    """All settings of the grid. The document must be valid; `folder` is the plan's, for files that it names."""
    names = factor_names(base, cases)
    result = []
    for case in cases:
        for point in points(merged(base, case.overrides)):
            settings = Settings.model_validate(point, context={"folder": folder})
            migration = fit_announcement(fit_policy(settings.migration), settings.clients)
            settings = settings.model_copy(update={"migration": migration})
            factors = {name: _as_written(point, settings, tuple(name.split("."))) for name in names}
            result.append(Setting(case=case.name, expected=case.expected, factors=factors, settings=settings))
    return tuple(result)


def ordered(settings: Sequence[Setting], *, repeats: int, seed: int) -> list[Trial]:
    """The trials: one block per repeat, each a random order of all settings, given by the seed alone.

    Blocks spread a drift of the machine evenly over the settings, and raising `repeats` only appends trials.
    """
    trials: list[Trial] = []
    names = _short_names(settings)
    for repeat in range(repeats):
        order = sorted(range(len(settings)), key=lambda index: _draw(seed, repeat, index))
        for index in order:
            setting = settings[index]
            number = len(trials) + 1
            trials.append(
                Trial(
                    id=f"{number:04d}-{names[index]}",
                    number=number,
                    repeat=repeat,
                    case=setting.case,
                    expected=setting.expected,
                    factors=setting.factors,
                    settings=setting.settings,
                )
            )
    return trials


def _draw(seed: int, repeat: int, index: int) -> bytes:
    # A hash, not random.shuffle: the same order on every version of Python.
    return hashlib.sha256(f"{seed}/{repeat}/{index}".encode()).digest()


def _short_names(settings: Sequence[Setting]) -> list[str]:
    """A few words for each setting: its case, and what sets it apart from others of that."""
    values: dict[tuple[str, str], set[Scalar]] = {}
    for setting in settings:
        for name, value in setting.factors.items():
            values.setdefault((setting.case, name), set()).add(value)
    names = []
    for setting in settings:
        apart = [str(value) for name, value in setting.factors.items() if len(values[setting.case, name]) > 1]
        words = " ".join([setting.case, *apart]).lower()
        names.append(re.sub(r"[^a-z0-9]+", "-", words)[:_LONGEST_NAME].strip("-") or "trial")
    return names


def _as_written(point: Document, settings: Settings, path: Keys) -> Scalar:
    """The value as the plan writes it; where it does not, the default as it would."""
    if path[0] == "migration" and _effective(settings, path)[1] is None:
        return None  # a policy's parameter that this setting's policy does not take, or the policy where there is none
    if path[0] == "guest" and path[1] in RATE_AND_PATTERN and settings.guest.trace_path is not None:
        return None  # of a guest that follows a trace
    value: Any = point
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if path == ("fabric", "schedule"):
        return "; ".join(f"{each.link}: {each.words} at {each.moment}" for each in settings.fabric.schedule) or None
    if value is not None:
        return value if isinstance(value, str | int | float | bool) else str(value)
    name, effective = _effective(settings, path)
    dimension = dimension_of(name)
    if dimension is not None and isinstance(effective, int):
        return written(effective, dimension)
    return effective if isinstance(effective, str | int | float | bool) else None


def _effective(settings: BaseModel, path: Keys) -> tuple[str, Any]:
    """The field's name and value in the settings, by the plan's path."""
    value: Any = settings
    name = ""
    for key in path:
        if value is None:
            return name, None
        if isinstance(value, Mapping):  # tables by a name of the user's
            value = value.get(key)
            continue
        name = next(field for field, info in type(value).model_fields.items() if key in (field, info.alias))
        value = getattr(value, name)
    return name, value
