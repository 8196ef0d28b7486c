"""Mistakes of a plan as sentences: what is wrong, in which field, on which line, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from unnoticed.experiments.planning.quantities import Dimension, written
from unnoticed.experiments.planning.toml_lines import Path


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake. `path` is where its value stands in the document; `sentence` follows the name of the field."""

    path: Path
    sentence: str


def dotted(path: Path) -> str:
    """A path as a user writes it: `guest.memory`, `[[case]] 2 migration.gap` (from 1; list elements are not shown)."""
    if len(path) >= 2 and isinstance(path[1], int):
        rest = dotted(path[2:])
        return f"[[{path[0]}]] {path[1] + 1}" + (f" {rest}" if rest else "")
    return ".".join(str(part) for part in path if isinstance(part, str))


def shown(value: Any) -> str:
    """A TOML value in a sentence."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value)


_LEAST_BEGINNING = 3  # letters: with fewer a word is the beginning of too much


def near_word(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` misspells, or is the beginning of; None where it is more likely another word.

    A misspelling begins with the right letter and is one slip away from what was meant (a letter too many, too few,
    wrong, or exchanged with its neighbour), or two in words of more than five letters.
    """
    lower, choices = word.lower(), list(known)
    begun = [choice for choice in choices if len(lower) >= _LEAST_BEGINNING and choice.startswith(lower)]
    found = [
        (slips, choice)
        for choice in choices
        if lower[:1] == choice[:1] and (slips := _slips(lower, choice)) <= (1 if len(lower) <= 5 else 2)
    ]
    return min(found)[1] if found else begun[0] if begun else None


def _slips(word: str, other: str) -> int:
    """The optimal string alignment distance: Levenshtein's, with exchanged neighbours for one (Damerau 1964)."""
    above: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(word):
        older, above, row = above, row, [at + 1]
        for place, wanted in enumerate(other):
            least = min(above[place + 1] + 1, row[place] + 1, above[place] + (letter != wanted))
            if at and place and letter == other[place - 1] and word[at - 1] == wanted:
                least = min(least, older[place - 1] + 1)
            row.append(least)
    return row[-1]


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean "memory"?` or, where nothing is near, the words there are."""
    choices = list(known)
    near = near_word(word, choices)
    return f"; known here: {', '.join(choices)}." if near is None else f'; did you mean "{near}"?'


def one_of(words: Iterable[str]) -> str:
    """`"a", "b" or "c"`."""
    *head, last = [f'"{word}"' for word in words]
    return f"{', '.join(head)} or {last}" if head else last


def sentence_of(error: ErrorDetails, *, known: Iterable[str], dimension: Dimension | None) -> str:
    """One sentence for one error of pydantic. `known` are the keys of the table that an unknown key stands in."""
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    key = str(error["loc"][-1]) if error["loc"] else ""
    match kind:
        case "extra_forbidden":
            return f'there is no key "{key}" here{suggestion(key, known)}'
        case "quantity":
            return str(context["sentence"])
        case "missing":
            return "is missing; every plan must have it."
        case "literal_error":
            choices = [word for word in re.findall(r"'([^']*)'", context["expected"]) if word]
            if not isinstance(value, str):
                return f"{shown(value)} is none of {one_of(choices)}."
            if near_word(value, choices) is None:
                return f"{shown(value)} is not supported; write {one_of(choices)}."
            return f"{shown(value)} is none of {one_of(choices)}{suggestion(value, choices)}"
        case "string_type":
            return f"{shown(value)} is not text; write it in quotes."
        case "string_too_short":
            return "is empty; write at least one character."
        case "string_pattern_mismatch":
            return f"{shown(value)} cannot be a name here; use lower-case letters, digits and underscores."
        case "bool_type":
            return f"{shown(value)} is neither true nor false (write it without quotes)."
        case "model_type" | "dict_type":
            return f"{shown(value)} is not a table; write {{ key = value, ... }}."
        case "list_type":
            return f"{shown(value)} is not a list of tables; write [[{key}]] above each of them."
        case "multiple_of":
            return f"{shown(value)} is not a whole number of pages of {context['multiple_of']} bytes."
    bound = _bound(kind, context, dimension)
    if bound:
        return f"{shown(value)} is out of range: it must be {bound}."
    if kind.startswith(("int_", "float_", "finite_")):
        return (
            f"{shown(value)} is not {'a whole' if kind.startswith('int_') else 'a'} number (write it without quotes)."
        )
    return f"{shown(value)}: {error['msg']}."


_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _bound(kind: str, context: Mapping[str, Any], dimension: Dimension | None) -> str:
    if kind not in _BOUNDS:
        return ""
    key, words = _BOUNDS[kind]
    limit = context[key]
    return f"{words} {limit if dimension is None or limit == 0 else written(limit, dimension)}"
