"""A plan as the nested dictionaries that TOML gives: look up, merge, set, cut into slices, and write again."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

Document = dict[str, Any]
Keys = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def leaves(document: Mapping[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every value that is not a table, with its path, in the order written."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def holds(document: Mapping[str, Any], path: Keys) -> bool:
    """Whether something stands at this path."""
    return value_at(document, path) is not None  # TOML has no null


def value_at(document: Mapping[str, Any], path: Keys) -> Any:
    """What stands at this path, or None."""
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return None
        document = document[key]
    return document


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Document:
    """`base` with the values of `over` laid over it, table by table. Neither is changed."""
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = result.get(key)
        result[key] = (
            merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else copy.deepcopy(value)
        )
    return result


def put(document: Document, path: Keys, value: Any) -> None:
    """Set one value in place, making the tables above it. Raises KeyError with the path of a value that is no table."""
    for depth, key in enumerate(path[:-1], start=1):
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise KeyError(".".join(path[:depth]))
    document[path[-1]] = value


def remove(document: Document, path: Keys) -> None:
    """Take out what stands at this path, in place; nothing happens where nothing stands."""
    if holds(document, path):
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]


def is_factor(value: Any) -> bool:
    """Whether a value of a plan is a list of alternatives; a list of tables is one value."""
    return isinstance(value, list) and not is_table_list(value)


def slices(document: Document) -> Iterator[tuple[int, Document]]:
    """Copies of the document with one element in place of each list, such that each element of each list comes up."""
    lists = [(path, value) for path, value in leaves(document) if is_factor(value) and value]
    for index in range(max((len(value) for _, value in lists), default=1)):
        piece = copy.deepcopy(document)
        for path, value in lists:
            put(piece, path, value[min(index, len(value) - 1)])
        yield index, piece


def toml_text(document: Mapping[str, Any]) -> str:
    """The document as TOML, such that reading it gives the same document."""
    return "\n".join(_table_lines(document, ())).strip("\n") + "\n"


def _table_lines(table: Mapping[str, Any], path: Keys) -> Iterator[str]:
    for key, value in table.items():
        if not isinstance(value, dict) and not is_table_list(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        name = ".".join(_key(part) for part in (*path, key))
        if isinstance(value, dict):
            yield from ("", f"[{name}]")
            yield from _table_lines(value, (*path, key))
        elif is_table_list(value):
            for element in value:
                yield from ("", f"[[{name}]]")
                yield from _table_lines(element, (*path, key))


def is_table_list(value: Any) -> bool:
    """Whether a value is what [[...]] makes."""
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case float():
            return repr(value)
        case list():
            return f"[{', '.join(_value(element) for element in value)}]"
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
        case _:
            return str(value)  # integers, dates and times


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for the surrogate pairs, which TOML does not have, and DEL, which it wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
