"""The fields of a plan's sections: a field's name ends in its unit, and a plan writes it without, as a quantity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from unnoticed.experiments.planning.quantities import (
    BIT_RATE,
    BYTE_RATE,
    DURATION,
    FREQUENCY,
    SHARE,
    SIZE,
    Dimension,
    QuantityError,
    parse,
)


def _reader(dimension: Dimension) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        try:
            return parse(value, dimension)
        except QuantityError as error:
            # A curly brace in the user's text must not be taken for a template's.
            raise PydanticCustomError("quantity", "{sentence}", {"sentence": str(error)}) from error

    return read


DurationNs = Annotated[int, BeforeValidator(_reader(DURATION))]
BitRate = Annotated[int, BeforeValidator(_reader(BIT_RATE))]
SizeBytes = Annotated[int, BeforeValidator(_reader(SIZE))]
ByteRate = Annotated[int, BeforeValidator(_reader(BYTE_RATE))]
Frequency = Annotated[int, BeforeValidator(_reader(FREQUENCY))]
SharePpm = Annotated[int, BeforeValidator(_reader(SHARE)), Field(le=1_000_000)]

_SUFFIXES: tuple[tuple[str, Dimension, Any], ...] = (
    ("_ns", DURATION, DurationNs),
    ("_bit_per_s", BIT_RATE, BitRate),
    ("_bytes_per_s", BYTE_RATE, ByteRate),
    ("_bytes", SIZE, SizeBytes),
    ("_hz", FREQUENCY, Frequency),
    ("_ppm", SHARE, SharePpm),
)


def dimension_of(name: str) -> Dimension | None:
    """What a field or a column measures, by the unit in its name; None for a plain number or word."""
    return next((dimension for suffix, dimension, _ in _SUFFIXES if name.endswith(suffix)), None)


def key_of(name: str) -> str:
    """How a plan writes the name of a field: without its unit."""
    return next((name.removesuffix(suffix) for suffix, _, _ in _SUFFIXES if name.endswith(suffix)), name)


def annotation_of(name: str) -> Any:
    """The type of a field by the unit in its name: a quantity, or a plain whole number."""
    return next((annotation for suffix, _, annotation in _SUFFIXES if name.endswith(suffix)), int)
