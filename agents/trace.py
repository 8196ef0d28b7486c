"""A trace: which pages a real program wrote in each interval of time, as it was recorded, to be replayed by a guest.

Pages have dense numbers: those that were ever written, in the order of their addresses. In memory and in the file a
trace is a matrix of bits, one row for each interval and one bit for each page, which is small once it is compressed.

The file, all of it bounded when it is read:

    unnoticed trace 1\\n        the format's version
    {...}\\n                    JSON: interval_ns, intervals, pages, tracker, and `about`, what else is known of it
    ...                        the matrix, row by row, each row XORed with the one before, compressed (xz)
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.errors import PlanError

_MAGIC = b"unnoticed trace "
VERSION = 1
_HEADER_BYTES = 1 << 14
_FILE_BYTES = 64 << 20
MOST_PAGES, MOST_INTERVALS, MOST_BYTES = 1 << 24, 100_000, 256 << 20  # MOST_BYTES: of the matrix
SHORTEST_NS, LONGEST_NS = 1_000_000, 60_000_000_000  # of an interval
_DECODER_BYTES = 64 << 20

Bits = npt.NDArray[np.uint8]
Pages = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """`bits`: shape (intervals, bytes that hold a bit for each page), the lowest bit of a byte first."""

    interval_ns: int
    pages: int
    bits: Bits
    tracker: str
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def intervals(self) -> int:
        return len(self.bits)

    @property
    def matrix_bytes(self) -> int:
        return self.bits.nbytes

    def counts(self) -> Pages:
        """How many pages were written in each interval."""
        return counts(self.bits)

    @property
    def bytes_per_s(self) -> float:
        """What was written per second on the average, each page once in each interval."""
        return float(self.counts().sum()) * PAGE_BYTES * 1e9 / (self.intervals * self.interval_ns)


def counts(bits: Bits) -> Pages:
    """How many bits are set in each row."""
    found: Pages = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    return found


def pages_of(row: Bits, *, pages: int) -> Pages:
    """The numbers of the bits that are set in a row."""
    return np.flatnonzero(np.unpackbits(row, count=pages, bitorder="little"))


def condensed(
    intervals: Sequence[npt.NDArray[np.uint64]], *, interval_ns: int, tracker: str, about: Mapping[str, Any]
) -> Trace:
    """A trace of what was found written in each interval: page numbers of any kind, each once, in any order.

    Raises ValueError where nothing was written at all, or where there is more than a trace can hold.
    """
    known = np.unique(np.concatenate([np.empty(0, np.uint64), *intervals]))
    row_bytes = -(-len(known) // 8)
    if not len(known):
        raise ValueError("no page was written")
    if len(known) > MOST_PAGES or len(intervals) > MOST_INTERVALS or row_bytes * len(intervals) > MOST_BYTES:
        raise ValueError(f"{len(known)} pages in {len(intervals)} intervals are more than a trace can hold")
    bits = np.zeros((len(intervals), row_bytes), dtype=np.uint8)
    for row, written in zip(bits, intervals, strict=True):
        flags = np.zeros(len(known), dtype=np.bool_)
        flags[np.searchsorted(known, written)] = True
        row[:] = np.packbits(flags, bitorder="little")
    return Trace(interval_ns=interval_ns, pages=len(known), bits=bits, tracker=tracker, about=about)


def packed(trace: Trace) -> bytes:
    """The trace as a file holds it."""
    header = {
        "interval_ns": trace.interval_ns,
        "intervals": trace.intervals,
        "pages": trace.pages,
        "tracker": trace.tracker,
        "about": dict(trace.about),
    }
    changes = trace.bits.copy()
    changes[1:] ^= trace.bits[:-1]
    head = _MAGIC + f"{VERSION}\n{json.dumps(header)}\n".encode()
    return head + lzma.compress(changes.tobytes(), preset=6 | lzma.PRESET_EXTREME)


def unpacked(data: bytes, *, source: str) -> Trace:
    """The trace in a file's content. Raises PlanError with one sentence where it is none, damaged or hostile."""
    first, _, rest = data.partition(b"\n")
    if not first.startswith(_MAGIC):
        raise PlanError(f"{source}: this is no trace; unnoticed record makes one.")
    if first != _MAGIC + str(VERSION).encode():
        written = first[len(_MAGIC) :][:20].decode(errors="replace")
        raise PlanError(f"{source}: a trace of version {written}; this release reads version {VERSION}.")
    line, _, body = rest.partition(b"\n")
    header = _header(line, source)
    interval_ns, intervals, pages = (header[name] for name in ("interval_ns", "intervals", "pages"))
    row_bytes = -(-pages // 8)
    matrix = _decompressed(body, intervals * row_bytes, source)
    bits = np.bitwise_xor.accumulate(np.frombuffer(matrix, np.uint8).reshape(intervals, row_bytes), axis=0)
    spare = row_bytes * 8 - pages
    if bool((bits[:, -1] >> np.uint8(8 - spare)).any()) if spare else False:
        raise PlanError(f"{source}: this trace is damaged: it names pages beyond the last one.")
    if not bits.any():
        raise PlanError(f"{source}: in this trace no page is ever written.")
    return Trace(
        interval_ns=interval_ns, pages=pages, bits=bits, tracker=header["tracker"], about=header.get("about", {})
    )


def read_trace(path: Path) -> Trace:
    """The trace in a file. Raises PlanError with one sentence."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise PlanError(f"{path}: this trace cannot be read ({error.strerror}).") from error
    if len(data) > _FILE_BYTES:
        raise PlanError(f"{path}: this is larger than a trace may be ({_FILE_BYTES >> 20} MiB).")
    return unpacked(data, source=str(path))


def _header(line: bytes, source: str) -> dict[str, Any]:
    """The JSON line, with every number within its bounds."""
    try:
        header = json.loads(line[:_HEADER_BYTES])
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{source}: this trace is damaged: its header is not JSON.") from error
    limits = {"interval_ns": (SHORTEST_NS, LONGEST_NS), "intervals": (1, MOST_INTERVALS), "pages": (1, MOST_PAGES)}
    for name, (least, most) in limits.items():
        value = header.get(name) if isinstance(header, dict) else None
        if type(value) is not int or not least <= value <= most:
            raise PlanError(f"{source}: this trace is damaged: {name} is not a number from {least} to {most}.")
    if header["intervals"] * -(-header["pages"] // 8) > MOST_BYTES:
        raise PlanError(f"{source}: this trace is larger than {MOST_BYTES >> 20} MiB when it is unpacked.")
    if not isinstance(header.get("tracker"), str) or not isinstance(header.get("about", {}), dict):
        raise PlanError(f"{source}: this trace is damaged: it does not say how it was made.")
    found: dict[str, Any] = header
    return found


def _decompressed(body: bytes, length: int, source: str) -> bytes:
    """Exactly `length` bytes, and nothing behind them; no more is ever unpacked."""
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_DECODER_BYTES)
    try:
        matrix = decoder.decompress(body, max_length=length + 1)
    except lzma.LZMAError as error:
        raise PlanError(f"{source}: this trace is damaged: {str(error).lower()}.") from error
    if len(matrix) < length:
        raise PlanError(f"{source}: this trace is cut off: {len(matrix)} of {length} bytes are there.")
    if len(matrix) > length or not decoder.eof or decoder.unused_data:
        raise PlanError(f"{source}: this trace is damaged: more follows than it should hold.")
    return matrix
