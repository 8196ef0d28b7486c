"""The bytes of a file that may be compressed: mapped into memory where it is plain, taken into memory where not.

gzip (RFC 1952) and zstd (RFC 8878), as one piece or several that follow one another. Of a file that was cut off, or is
damaged on the way, everything up to there.
"""

from __future__ import annotations

import gzip
import io
import mmap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unnoticed.errors import RecordError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))  # RFC 8878 section 3.1.2
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Content:
    """`data` is bytes, or what behaves like them."""

    data: Any
    truncated: bool = False  # the compressed data ended too early
    damage: str = ""  # what a decoder said, in words; the data ends before it


def read_content(path: Path) -> Content:
    """Read a file whole. Raises RecordError if it cannot be read at all."""
    try:
        with path.open("rb") as file:
            try:
                raw: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (ValueError, OSError):  # an empty file, or a pipe
                raw = file.read()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}.") from error
    if raw[:2] == _GZIP:
        return _unpacked(_gunzip, raw, "gzip")
    if raw[:4] == _ZSTD or raw[:4] in _SKIPPABLE:
        return _unpacked(_unzstd, raw, "zstd")
    return Content(data=raw)


class _CutError(Exception):
    """The compressed data ends too early."""


class _DamagedError(Exception):
    """The compressed data is not what it should be."""


def _unpacked(pieces: Callable[[Any], Iterator[bytes]], raw: Any, name: str) -> Content:
    out = bytearray()
    try:
        for piece in pieces(raw):
            out += piece
    except _CutError:
        return Content(data=bytes(out), truncated=True)
    except _DamagedError as error:
        return Content(data=bytes(out), damage=f"its {name} data is damaged after {len(out)} unpacked bytes ({error})")
    return Content(data=bytes(out))


def _gunzip(raw: Any) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
            # read1 gives out what there is before it meets the end.
            while piece := packed.read1(_PIECE_BYTES):
                yield piece
    except EOFError as error:
        raise _CutError from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise _DamagedError(str(error)) from error


def _unzstd(raw: Any) -> Iterator[bytes]:
    import pyarrow

    try:
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(pyarrow.py_buffer(raw)), "zstd") as packed:
            while piece := packed.read(_PIECE_BYTES >> 4):
                yield piece
    except OSError as error:  # so pyarrow says both
        if "truncated" in str(error).lower():
            raise _CutError from error
        raise _DamagedError(str(error)) from error
