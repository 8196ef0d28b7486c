"""Numbers for people: nanoseconds, bytes and bit rates written with three significant digits and an exact unit.

Writing only. What a user types is read by the plans' own `quantities`, which accepts the same spellings.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

NOTHING = "–"  # what a table shows where there is no number: never 0, never an empty cell
AT_LEAST = "≥\u202f"  # before a number that is only a lower bound
MINUS = "−"  # U+2212, as wide as a digit and never broken from its number
_THIN = "\u202f"  # narrow no-break space between groups of three digits

_NS_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
_BYTE_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))
_BIT_UNITS = ((10**9, "Gbit/s"), (10**6, "Mbit/s"), (10**3, "kbit/s"), (1, "bit/s"))


def marked(text: str, *, is_bound: bool) -> str:
    """A number with a mark where it is only a lower bound."""
    return f"{AT_LEAST}{text}" if is_bound else text


def is_missing(value: Any) -> bool:
    """Whether a cell of a table holds no number: None, NaN or pandas NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def format_number(value: float, *, digits: int = 3) -> str:
    """`digits` significant digits, whole numbers in full with thin spaces: 0.0512, 12.6, 204, 65 536."""
    if math.isinf(value):
        return (MINUS if value < 0 else "") + "∞"
    sign = MINUS if value < 0 else ""
    value = abs(value)
    if value == int(value) or value >= 10**digits:
        return sign + f"{round(value):,}".replace(",", _THIN)
    magnitude = math.floor(math.log10(value))
    return sign + f"{value:.{max(digits - 1 - magnitude, 0)}f}"


def _scaled(value: float, units: tuple[tuple[int, str], ...], zero: str) -> str:
    if value == 0:
        return zero
    for size, unit in units:
        # 999.96 ms must become 1.00 s, not 1000 ms: compare after rounding to three digits.
        if abs(value) >= size * 0.9995 or size == 1:
            scaled = value / size
            rounded = float(f"{scaled:.3g}") if abs(scaled) < 1000 else scaled
            text = format_number(rounded)
            if "." not in text and abs(rounded) < 100 and size != 1:
                text = f"{abs(rounded):.{1 if abs(rounded) >= 10 else 2}f}"
                text = (MINUS if rounded < 0 else "") + text
            return f"{text} {unit}"
    raise AssertionError("the smallest unit has size 1")


def format_ns(value_ns: float) -> str:
    """A duration: `130 µs`, `12.6 ms`, `1.04 s`."""
    return _scaled(value_ns, _NS_UNITS, "0 ms")


def format_bytes(value_bytes: float) -> str:
    """A size in binary units: `96 bytes`, `4.00 KiB`, `256 MiB`."""
    return _scaled(value_bytes, _BYTE_UNITS, "0 bytes")


def format_bit_per_s(value_bit_per_s: float) -> str:
    """A rate in decimal units: `914 Mbit/s`."""
    return _scaled(value_bit_per_s, _BIT_UNITS, "0 bit/s")


def format_share(value: float) -> str:
    """A share from 0 to 1 in per cent: `95 %`. Never rounds up to 100 % or down to 0 %."""
    per_cent = 100 * value
    if 0 < per_cent < 0.1:
        return "< 0.1 %"
    if 99.9 < per_cent < 100:
        return "> 99.9 %"
    return f"{per_cent:.1f}".removesuffix(".0") + " %"


def format_quantity(value: Any, unit: str) -> str:
    """Any number with the unit a schema gives its column (`ns`, `bytes`, `bit/s`, `share`, ... or a plain count)."""
    if is_missing(value):
        return NOTHING
    if unit == "yes/no":
        return "yes" if value else "no"
    number = float(value)
    match unit:
        case "ns":
            return format_ns(number)
        case "bytes":
            return format_bytes(number)
        case "bit/s":
            return format_bit_per_s(number)
        case "share":
            return format_share(number)
        case "1/s":
            return f"{format_number(number)}/s"
    text = format_number(number)
    return text.rstrip("0").rstrip(".") if "." in text else text  # half a segment is 0.5, not a measured 0.500


def unbroken(text: str) -> str:
    """The same with a no-break space between each number and its unit."""
    return re.sub(r"(?<=[\d∞]) (?=(?:%|[nµm]?s|bytes|[KMGT]iB|[kMG]?bit/s|trials?|values?)(?!\w))", "\u00a0", text)


def fixed_ms(value_ns: Any, *, digits: int = 2) -> str:
    """Milliseconds with a fixed number of decimals and no unit, for the columns of a table."""
    if is_missing(value_ns):
        return NOTHING
    text = f"{abs(float(value_ns)) / 1e6:,.{digits}f}".replace(",", _THIN)
    return (MINUS if float(value_ns) < 0 else "") + text
