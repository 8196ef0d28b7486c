"""Keys of a plan that could never take effect, and lists of values that would only repeat a setting.

What is only inherited is no mistake: a case may change the mode and leave the plan's policy standing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unnoticed.experiments.planning.checks import Conflict
from unnoticed.experiments.planning.document import Document
from unnoticed.experiments.planning.policies import DEFAULT_POLICY
from unnoticed.experiments.planning.problems import one_of
from unnoticed.experiments.planning.settings import NO_TRACE, POLICIES, RATE_AND_PATTERN, ROUNDLESS

Numbered = tuple[int | None, Conflict]  # with the number of the case, or None for what stands outside of them


def idle_conflicts(base: Document, cases: list[Document]) -> Iterator[Numbered]:
    """All of them."""
    yield from _policies(base, cases)
    yield from _beside_traces(base, cases)
    yield from _others(base, cases)


def _policies(base: Document, cases: list[Document]) -> Iterator[Numbered]:
    """Policies without rounds, and parameters of other policies."""
    tables = _tables(base, cases, "migration")
    inherited = tables[0][1]
    policies = _listed([table["policy"] for _, table in tables if "policy" in table]) or [DEFAULT_POLICY]
    for number, table in tables:
        modes = _listed([table.get("mode", inherited.get("mode", "pre-copy"))])
        roundless = [mode for mode in modes if mode in ROUNDLESS]
        for key in ("policy", *POLICIES.keys):
            path = ("migration", key)
            if key not in table:
                if roundless and _is_repeated(inherited, key, "mode", table, number):
                    yield number, Conflict(paths=(("migration", "mode"), path), sentence=_repeated(key, roundless))
                continue
            if modes and roundless == modes:
                named = " or ".join(modes)
                sentence = f'{named} has no rounds and so no policy; remove this, or set mode = "pre-copy".'
                yield number, Conflict(paths=(path, ("migration", "mode")), sentence=sentence)
            elif isinstance(table[key], list) and roundless:
                sentence = (
                    f"a list here would repeat {' or '.join(roundless)}, which has no policy, for each of its values; "
                    f"make a [[case]] of {' or '.join(roundless)}, and one of the other modes with this list."
                )
                yield number, Conflict(paths=(path, ("migration", "mode")), sentence=sentence)
            elif key != "policy":
                own = _listed([table["policy"]]) if "policy" in table and number is not None else policies
                taking = POLICIES.taking(key)
                if not set(own) & set(taking) and all(policy in POLICIES.parameters for policy in own):
                    sentence = f"the policy {one_of(own)} takes no such parameter; it belongs to {one_of(taking)}."
                    yield number, Conflict(paths=(path, ("migration", "policy")), sentence=sentence)


def _beside_traces(base: Document, cases: list[Document]) -> Iterator[Numbered]:
    """Rates and patterns beside a trace, which is replayed instead."""
    for number, table in _tables(base, cases, "guest"):
        traces = _listed([table.get("trace", NO_TRACE)])
        if NO_TRACE in traces:
            continue
        for key in RATE_AND_PATTERN:
            if key in table:
                sentence = "means nothing beside guest.trace, which says what is written when; remove one of the two."
                yield number, Conflict(paths=(("guest", key), ("guest", "trace")), sentence=sentence)


@dataclass(frozen=True)
class _Dependent:
    """A key of [migration] that some values of another one give an effect. `idle`: what to say where it has none."""

    key: str
    other: str
    default: str  # of the other
    effective: frozenset[str]
    idle: str


_NOTHING_HELD = 'means nothing where no frame is held; set gap = "hold".'
_DEPENDENTS = (
    _Dependent("hold_limit", "gap", "drop", frozenset({"hold"}), _NOTHING_HELD),
    _Dependent("hold_time", "gap", "drop", frozenset({"hold"}), _NOTHING_HELD),
    _Dependent(
        *("tracking", "mode", "pre-copy", frozenset({"pre-copy", "hybrid"})),
        "means nothing without rounds, between which pages are tracked; remove it.",
    ),
    _Dependent(
        *("codec", "mode", "pre-copy", frozenset({"pre-copy", "hybrid", "stop-and-copy"})),
        "means nothing in a post-copy, whose pages follow the guest as they are; remove it.",
    ),
)


def _others(base: Document, cases: list[Document]) -> Iterator[Numbered]:
    """Keys that depend on another one."""
    tables = _tables(base, cases, "migration")
    (_, inherited), *own_tables = tables
    for number, table in tables:
        for each in _DEPENDENTS:
            path, other = ("migration", each.key), ("migration", each.other)
            values = _listed([table.get(each.other, inherited.get(each.other, each.default))])
            idle = [value for value in values if value not in each.effective]
            if each.key not in table:
                if idle and _is_repeated(inherited, each.key, each.other, table, number):
                    yield number, Conflict(paths=(other, path), sentence=_repeated(each.key, idle))
                continue
            if _listed([table[each.key]]) == ["none"]:
                continue
            elsewhere = [case[each.other] for _, case in own_tables if each.other in case] if number is None else []
            inheriting = [case for _, case in own_tables if not {each.key, each.other} & set(case)]
            if not each.effective & {*values, *_listed(elsewhere)}:
                yield number, Conflict(paths=(path, other), sentence=each.idle)
            elif idle and isinstance(table[each.key], list) and (number is not None or inheriting):
                yield number, Conflict(paths=(path, other), sentence=_repeating(idle))


def _tables(base: Document, cases: list[Document], section: str) -> list[tuple[int | None, dict[str, Any]]]:
    """A section as it stands outside of the cases, and in each of them, with their numbers."""
    return [(number, _table(document, section)) for number, document in [(None, base), *enumerate(cases)]]


def _is_repeated(inherited: dict[str, Any], key: str, other: str, table: dict[str, Any], number: int | None) -> bool:
    """Whether a case that says for itself that a key means nothing has it as a list from the plan."""
    return number is not None and other in table and isinstance(inherited.get(key), list)


def _repeating(values: list[str]) -> str:
    named = " or ".join(values)
    return (
        f"a list here would repeat {named}, for which it means nothing, for each of its values; make a [[case]] of "
        f"{named}, and one of what takes it with this list."
    )


def _repeated(key: str, values: list[str]) -> str:
    return (
        f"{' or '.join(values)} would be repeated for each value of migration.{key}, which means nothing for it; move "
        "that list into the [[case]] that it is for."
    )


def _table(document: Document, section: str) -> dict[str, Any]:
    table = document.get(section, {})
    return table if isinstance(table, dict) else {}


def _listed(values: list[Any]) -> list[str]:
    """The words among the values, with lists taken apart, each once."""
    flat = [inner for value in values for inner in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(value for value in flat if isinstance(value, str)))
