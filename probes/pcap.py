"""Classic pcap files as matrices: reading and writing without per-packet objects.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html. Written: nanosecond stamps, Ethernet, this
machine's byte order. Read: microseconds or nanoseconds, either byte order, Ethernet.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from unnoticed.errors import RecordError

MAGIC_NS = 0xA1B23C4D
MAGIC_US = 0xA1B2C3D4
MAGIC_PCAPNG = 0x0A0D0D0A
LINKTYPE_ETHERNET = 1
FILE_HEADER_BYTES = 24
RECORD_HEADER_BYTES = 16
_CHUNK = 1 << 12
_LONGEST_RECORD = 1 << 18  # what libpcap takes for damaged, too (MAXIMUM_SNAPLEN)

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The records of a capture, in file order. n records, arrays of shape (n,) unless said."""

    time_ns: npt.NDArray[np.int64]  # CLOCK_REALTIME
    length: npt.NDArray[np.uint32]  # bytes of the frame on the wire
    captured: npt.NDArray[np.uint32]  # bytes of it in the file
    data: U8  # (n, width): the first bytes of each frame; zero after `captured`
    truncated: bool = False  # the file ended within a record, which is left out

    def __len__(self) -> int:
        return len(self.time_ns)


def file_header(*, snap: int) -> bytes:
    """The 24 bytes at the start of a file whose records hold at most `snap` bytes."""
    return struct.pack("=IHHiIII", MAGIC_NS, 2, 4, 0, 0, snap, LINKTYPE_ETHERNET)


def flatten_records(
    seconds: npt.NDArray[np.uint32],
    nanoseconds: npt.NDArray[np.uint32],
    captured: npt.NDArray[np.uint32],
    length: npt.NDArray[np.uint32],
    data: U8,
) -> U8:
    """The bytes of n records: `data` is (n, width), of which each row's first `captured` (at most width) are kept."""
    count, width = data.shape
    records = np.empty((count, RECORD_HEADER_BYTES + width), np.uint8)
    header = records[:, :RECORD_HEADER_BYTES].view(np.uint32)
    header[:, 0], header[:, 1], header[:, 2], header[:, 3] = seconds, nanoseconds, captured, length
    records[:, RECORD_HEADER_BYTES:] = data
    kept = (
        np.arange(RECORD_HEADER_BYTES + width, dtype=np.uint32) < (captured + np.uint32(RECORD_HEADER_BYTES))[:, None]
    )
    flat: U8 = records[kept]
    return flat


def write_pcap(path: Path, frames: Frames, *, snap: int) -> None:
    """Write all of `frames` to a new file, each cut to `snap` bytes."""
    captured = np.minimum(frames.captured, min(snap, frames.data.shape[1])).astype(np.uint32)
    seconds, nanoseconds = np.divmod(frames.time_ns, 1_000_000_000)
    with path.open("wb") as file:
        file.write(file_header(snap=snap))
        file.write(
            flatten_records(
                seconds.astype(np.uint32), nanoseconds.astype(np.uint32), captured, frames.length, frames.data
            ).data
        )


def read_pcap(path: Path, *, width: int = 128, truncated: Literal["raise", "flag"] = "raise") -> Frames:
    """Read a whole file; of each frame the first `width` bytes.

    A file that ends within a record raises RecordError, or with truncated="flag" sets `Frames.truncated`.
    Raises RecordError with one sentence if the file is not such a pcap, or is damaged.
    """
    data = path.read_bytes()
    if len(data) < FILE_HEADER_BYTES:
        raise RecordError(f"{path} holds {len(data)} bytes, which is no pcap file.")
    order, scale = _byte_order(path, data)
    link = struct.unpack_from(order + "I", data, 20)[0] & 0x0FFFFFFF
    if link != LINKTYPE_ETHERNET:
        raise RecordError(f"{path} has link type {link}; only Ethernet (1) can be read.")
    offsets = _walk(path, data, order)
    end = len(data)
    cut = False
    if len(offsets) and _record_end(data, int(offsets[-1]), order) > end:
        offsets, cut = offsets[:-1], True
    elif len(offsets) == 0:
        cut = len(data) > FILE_HEADER_BYTES
    else:
        cut = _record_end(data, int(offsets[-1]), order) != end
    if cut and truncated == "raise":
        raise RecordError(f"{path} ends within a record, after {len(offsets)} whole ones.")
    header = np.empty((len(offsets), RECORD_HEADER_BYTES // 4), np.uint32)
    body = np.empty((len(offsets), width), np.uint8)
    columns = np.arange(width, dtype=np.uint32)
    padded = np.frombuffer(data + bytes(RECORD_HEADER_BYTES + width), np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(padded, RECORD_HEADER_BYTES + width)
    for first in range(0, len(offsets), _CHUNK):  # pieces that stay in the processor's cache
        piece = slice(first, first + _CHUNK)
        rows = windows[offsets[piece]]
        header[piece] = rows[:, :RECORD_HEADER_BYTES].view(order + "u4")
        # What follows the captured bytes in a row is the next record.
        np.multiply(rows[:, RECORD_HEADER_BYTES:], columns < header[piece, 2, None], out=body[piece])
    captured = header[:, 2].copy()
    return Frames(
        time_ns=header[:, 0].astype(np.int64) * 1_000_000_000 + header[:, 1].astype(np.int64) * scale,
        length=header[:, 3].copy(),
        captured=captured,
        data=body,
        truncated=cut,
    )


def _byte_order(path: Path, data: bytes) -> tuple[str, int]:
    """(struct's byte order, nanoseconds per unit of the sub-second field)."""
    native = "<" if sys.byteorder == "little" else ">"
    for order in (native, "<", ">"):
        magic = struct.unpack_from(order + "I", data)[0]
        if magic in (MAGIC_NS, MAGIC_US):
            return order, 1 if magic == MAGIC_NS else 1000
    if magic == MAGIC_PCAPNG:
        raise RecordError(f"{path} is pcapng, which cannot be read yet: convert it with `editcap -F nsecpcap`.")
    raise RecordError(f"{path} does not start like a pcap file.")


def _record_end(data: bytes, offset: int, order: str) -> int:
    captured: int = struct.unpack_from(order + "I", data, offset + 8)[0]
    return offset + RECORD_HEADER_BYTES + captured


def _walk(path: Path, data: bytes, order: str) -> npt.NDArray[np.int64]:
    """The offset of every record whose header is whole: each is found only through the one before."""
    captured_at = struct.Struct(order + "I").unpack_from
    offsets: list[int] = []
    append = offsets.append
    position, end = FILE_HEADER_BYTES, len(data) - RECORD_HEADER_BYTES
    while position <= end:
        append(position)
        (captured,) = captured_at(data, position + 8)
        if captured > _LONGEST_RECORD:
            raise RecordError(f"{path} is damaged: record {len(offsets)} says it holds {captured} bytes.")
        position += RECORD_HEADER_BYTES + captured
    return np.array(offsets, np.int64)
