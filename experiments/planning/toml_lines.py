"""Where each value of a TOML document stands: `tomllib` reads values but tells no line.

The document must have been accepted by `tomllib` first: this scanner follows the structure of TOML 1.0 (tables, arrays
of tables, dotted keys, inline tables, arrays, four kinds of strings, comments) and checks nothing.
"""

from __future__ import annotations

import json
import re

Path = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPE = re.compile(r"\\(?:U([0-9A-Fa-f]{8})|.)")
_SCALAR = re.compile(r"[^,\]}\n#]*")


def locate(text: str) -> dict[Path, int]:
    """The line (from 1) of every key, table and array element, by its path, e.g. ("case", 0, "migration", "gap")."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n") + "\n"
        self._at = 0
        self._lines: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}  # number of [[tables]] seen so far, by path

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_blank():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _header(self) -> Path:
        line = self._line()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        path: Path = ()
        keys = self._keys()
        for position, key in enumerate(keys):
            path = (*path, key)
            self._lines.setdefault(path, line)
            last = position == len(keys) - 1
            if last and is_array:
                self._arrays[path] = self._arrays.get(path, 0) + 1
            if path in self._arrays:  # a key that names an array of tables means its last element
                path = (*path, self._arrays[path] - 1)
                self._lines.setdefault(path, line)
        self._at = self._text.index("\n", self._at)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._skip_spaces()
        self._at += 1  # the equals sign
        self._skip_spaces()
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip_spaces()
            if self._text[self._at] in "\"'":
                keys.append(self._string())
            else:
                match = _BARE_KEY.match(self._text, self._at)
                assert match is not None, "tomllib accepted what this scanner cannot read"
                self._at = match.end()
                keys.append(match.group())
            self._skip_spaces()
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: Path) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            match = _SCALAR.match(self._text, self._at)
            assert match is not None
            self._at = match.end()

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip_blank() and self._text[self._at] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip_blank() and self._text[self._at] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._pair(path)
        self._at += 1

    def _string(self) -> str:
        """Step over a string and give its value (of a key: one without line breaks)."""
        quote = self._text[self._at]
        long = self._text.startswith(quote * 3, self._at)
        end_mark = quote * (3 if long else 1)
        start = self._at + len(end_mark)
        at = start
        while not self._text.startswith(end_mark, at):
            at += 2 if quote == '"' and self._text[at] == "\\" else 1
        while long and self._text.startswith(quote, at + 3):
            at += 1  # a long string may end in one or two quotes of its own
        self._at = at + len(end_mark)
        raw = self._text[start:at]
        if quote == "'" or long or "\\" not in raw:
            return raw
        return str(json.loads(f'"{_ESCAPE.sub(_json_escape, raw)}"', strict=False))

    def _skip_spaces(self) -> None:
        while self._text[self._at] in " \t":
            self._at += 1

    def _skip_blank(self) -> bool:
        """Skip spaces, line ends and comments; False at the end of the document."""
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "#":
                self._at = self._text.index("\n", self._at)
            elif character in " \t\n\r":
                self._at += 1
            else:
                return True
        return False

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1


def _json_escape(match: re.Match[str]) -> str:
    return json.dumps(chr(int(match.group(1), 16)))[1:-1] if match.group(1) else match.group()
