"""Classic pcap files as matrices: written, and read back, without per-packet objects.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html. Written: nanosecond stamps, Ethernet, this
machine's byte order. What other programs wrote is read by `capture_file`, too; a matrix holds Ethernet frames only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from unnoticed.errors import RecordError
from unnoticed.probes.capture_file import FILE_HEADER_BYTES as FILE_HEADER_BYTES
from unnoticed.probes.capture_file import LINKTYPE_ETHERNET, MAGIC_NS, open_capture

RECORD_HEADER_BYTES = 16
_CHUNK = 1 << 12

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
    """Read a whole file of Ethernet frames; of each frame the first `width` bytes.

    A file that ends within a record raises RecordError, or with truncated="flag" sets `Frames.truncated`.
    Raises RecordError as `open_capture` does, and if there are other frames in it.
    """
    records = open_capture(path, truncated=truncated)
    if (records.link != LINKTYPE_ETHERNET).any():
        raise RecordError(f"{path} has frames of link type {int(records.link.max())}; only Ethernet (1) is expected.")
    body = np.empty((len(records), width), np.uint8)
    columns = np.arange(width, dtype=np.uint32)
    padded = np.concatenate([records.buffer, np.zeros(width, np.uint8)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    for first in range(0, len(records), _CHUNK):  # pieces that stay in the processor's cache
        piece = slice(first, first + _CHUNK)
        # What follows the captured bytes in a row is the next record.
        np.multiply(windows[records.start[piece]], columns < records.captured[piece, None], out=body[piece])
    return Frames(
        time_ns=records.time_ns,
        length=records.length,
        captured=records.captured,
        data=body,
        truncated=records.truncated,
    )
