"""Physical quantities as plans write them: a number and a unit, read by exact tables into integers of a base unit.

Generic parsers guess: `1 Gbit/s` read as a size, `100mbit` as milli-bits. Here a unit is in the table or it is refused,
and the refusal says how to write what was probably meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(.*?)\s*", re.DOTALL)


class QuantityError(ValueError):
    """A text is not a quantity of the dimension asked for; the message says how to write it."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A kind of quantity: its name in a sentence, its base unit, its units in base units, and what people misspell."""

    name: str
    base: str
    units: Mapping[str, int]
    misspelt: Mapping[str, str]
    example: str


_NS, _US, _MS, _S = 1, 1_000, 1_000_000, 1_000_000_000
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30

DURATION = Dimension(
    name="a duration",
    base="ns",
    units={"ns": _NS, "us": _US, "µs": _US, "μs": _US, "ms": _MS, "s": _S, "min": 60 * _S},
    misspelt={
        **dict.fromkeys(("nsec", "nanosecond", "nanoseconds"), "ns"),
        **dict.fromkeys(("usec", "microsecond", "microseconds", "mcs"), "us"),
        **dict.fromkeys(("msec", "msecs", "millis", "millisecond", "milliseconds"), "ms"),
        **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
        **dict.fromkeys(("m", "mins", "minute", "minutes"), "min"),
    },
    example="250 ms",
)

BIT_RATE = Dimension(
    name="a data rate in bits",
    base="bit/s",
    units={"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9},
    misspelt={
        **dict.fromkeys(("bps", "bit", "bits", "bits/s", "b/s"), "bit/s"),
        **dict.fromkeys(("k", "kbps", "kbit", "kbits", "kbits/s", "kb/s", "kbit/sec"), "kbit/s"),
        **dict.fromkeys(("m", "mbps", "mbit", "mbits", "mbits/s", "mb/s", "mbit/sec"), "Mbit/s"),
        **dict.fromkeys(("g", "gbps", "gbit", "gbits", "gbits/s", "gb/s", "gbit/sec"), "Gbit/s"),
    },
    example="1 Gbit/s",
)

SIZE = Dimension(
    name="a size",
    base="B",
    units={"B": 1, "KiB": _KIB, "MiB": _MIB, "GiB": _GIB},
    misspelt={
        **dict.fromkeys(("byte", "bytes"), "B"),
        **dict.fromkeys(("k", "kb", "kbyte", "kbytes"), "KiB"),
        **dict.fromkeys(("m", "mb", "mbyte", "mbytes"), "MiB"),
        **dict.fromkeys(("g", "gb", "gbyte", "gbytes"), "GiB"),
    },
    example="256 MiB",
)

BYTE_RATE = Dimension(
    name="a data rate in bytes",
    base="B/s",
    units={"B/s": 1, "KiB/s": _KIB, "MiB/s": _MIB, "GiB/s": _GIB},
    misspelt={
        **dict.fromkeys(("b", "bytes/s"), "B/s"),
        **dict.fromkeys(("k", "kb/s", "kbps", "kib"), "KiB/s"),
        **dict.fromkeys(("m", "mb/s", "mbps", "mib"), "MiB/s"),
        **dict.fromkeys(("g", "gb/s", "gbps", "gib"), "GiB/s"),
    },
    example="20 MiB/s",
)

FREQUENCY = Dimension(
    name="a frequency",
    base="Hz",
    units={"Hz": 1, "kHz": 10**3},
    misspelt={
        **dict.fromkeys(("hertz", "/s", "1/s", "per second", "rps", "qps", "req/s", "pps"), "Hz"),
        **dict.fromkeys(("k", "kilohertz", "krps"), "kHz"),
    },
    example="1 kHz",
)

SHARE = Dimension(
    name="a share",
    base="ppm",
    units={"ppm": 1, "%": 10**4},
    misspelt=dict.fromkeys(("percent", "per cent", "pct", "pc"), "%"),
    example="1 %",
)

DIMENSIONS = (DURATION, BIT_RATE, SIZE, BYTE_RATE, FREQUENCY, SHARE)


def parse(text: object, dimension: Dimension) -> int:
    """Read a quantity, e.g. `parse("1.5 s", DURATION) == 1_500_000_000`, exactly, in base units of its dimension.

    Raises QuantityError, whose message says what is wrong and how to write it.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise QuantityError(f"{text} has no unit; write {_meant(str(text), dimension)}.")
    if not isinstance(text, str):
        raise QuantityError(f'{_shown(text)} is not {dimension.name}; write it as text, like "{dimension.example}".')
    match = _NUMBER.fullmatch(text)
    if match is None:
        if text.strip().startswith("-") and _NUMBER.fullmatch(text.strip()[1:]):
            raise QuantityError(f'"{text}" is negative; {dimension.name} must be 0 or more.')
        raise QuantityError(
            f'"{text}" is not {dimension.name}; write a number and a unit, like "{dimension.example}" '
            f"(units: {_units(dimension)})."
        )
    number, unit = match.groups()
    if not unit:
        raise QuantityError(f'"{text}" has no unit; write {_meant(number, dimension)}.')
    if unit not in dimension.units:
        raise QuantityError(_wrong_unit(text, number, unit, dimension))
    value = Fraction(number) * dimension.units[unit]
    if value.denominator != 1:
        raise QuantityError(f'"{text}" is not a whole number of {dimension.base}; use a coarser value.')
    return int(value)


def written(value: int, dimension: Dimension) -> str:
    """The shortest exact text of a value in base units: the inverse of `parse`."""
    best = dimension.base
    for unit, factor in dimension.units.items():
        if value and value % factor == 0 and factor > dimension.units[best]:
            best = unit
    return f"{value // dimension.units[best]} {best}"


def _wrong_unit(text: str, number: str, unit: str, dimension: Dimension) -> str:
    for other in DIMENSIONS:
        if other is not dimension and unit in other.units:
            return f'"{text}" is {other.name}, not {dimension.name}; write it like "{dimension.example}".'
    lower = unit.lower()
    right = {name.lower(): name for name in dimension.units} | dict(dimension.misspelt)
    if lower in right:
        also = ""
        if dimension in (SIZE, BYTE_RATE) and lower.startswith(("kb", "mb", "gb")):
            also = f" (1 {right[lower].split('/', maxsplit=1)[0]} is {_of_two(right[lower])} bytes)"
        return f'"{unit}" in "{text}" is not a unit here; write "{number} {right[lower]}"{also}.'
    for other in DIMENSIONS:
        if lower in other.misspelt and lower not in ("k", "m", "g"):
            return f'"{text}" looks like {other.name}, not {dimension.name}; write it like "{dimension.example}".'
    return f'"{unit}" in "{text}" is not a unit of {dimension.name}; use one of {_units(dimension)}.'


def _of_two(unit: str) -> str:
    return {"K": "2^10", "M": "2^20", "G": "2^30"}[unit[0]]


def _meant(number: str, dimension: Dimension) -> str:
    if float(number) == 0:  # which some quantities cannot be
        return f'a number and a unit, like "{dimension.example}"'
    unit = dimension.example.split(" ")[1]
    return f'"{number} {unit}" if that is what you mean'


def _units(dimension: Dimension) -> str:
    return ", ".join(unit for unit in dimension.units if unit not in ("µs", "μs"))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value)
