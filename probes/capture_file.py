"""Capture files of any origin: which bytes of the file are which frame, without touching the frames.

Read: pcap (microseconds, nanoseconds) and pcapng (several sections and interfaces, all kinds of packet blocks), in
either byte order, plain (mapped into memory) or compressed by gzip (taken into memory).
Formats: draft-ietf-opsawg-pcap-04, draft-ietf-opsawg-pcapng-02, https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import gzip
import io
import mmap
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unnoticed.errors import RecordError
from unnoticed.probes.columns import I64, U8, U16, U32

MAGIC_NS = 0xA1B23C4D
MAGIC_US = 0xA1B2C3D4
MAGIC_PCAPNG = 0x0A0D0D0A
FILE_HEADER_BYTES = 24
LONGEST_RECORD = 1 << 18  # what libpcap takes for damaged, too (MAXIMUM_SNAPLEN)

LINKTYPE_NULL = 0
LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
LINKTYPE_LOOP = 108
LINKTYPE_LINUX_SLL = 113
LINKTYPE_IPV4 = 228
LINKTYPE_IPV6 = 229
LINKTYPE_LINUX_SLL2 = 276
LINK_TYPES = {
    LINKTYPE_ETHERNET: "Ethernet",
    LINKTYPE_LINUX_SLL: "Linux cooked",
    LINKTYPE_LINUX_SLL2: "Linux cooked 2",
    LINKTYPE_RAW: "raw IP",
    LINKTYPE_IPV4: "raw IPv4",
    LINKTYPE_IPV6: "raw IPv6",
    LINKTYPE_NULL: "loopback",
    LINKTYPE_LOOP: "OpenBSD loopback",
}
_READABLE = ", ".join(f"{name} ({number})" for number, name in LINK_TYPES.items())
# Link types whose number libpcap's files have had, too (pcap-common.c): raw IP.
_RAW_AS_WELL = (12, 14)
_OTHER_MAGICS = {
    b"\xa1\xb2\xcd\x34": "pcap as modified by Kuznetzov",
    b"\x34\xcd\xb2\xa1": "pcap as modified by Kuznetzov",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\xfd7zX": "compressed by xz",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"BZh9": "compressed by bzip2",
    b"snoo": "a snoop file",
}
OUTBOUND, INBOUND = 2, 1
NO_STAMP = 255  # a direction, of frames whose block holds no time
_LONGEST_SNAP = 1 << 27
_NS_DIGITS = 9
_PIECE = 1 << 20  # records


@dataclass(frozen=True, kw_only=True)
class Records:
    """The n frames of a capture, in file order; arrays of shape (n,) unless said."""

    buffer: U8  # (any,): the bytes that `start` counts in
    start: I64  # of the frame's first byte
    time_ns: I64  # CLOCK_REALTIME
    captured: U32  # bytes of the frame that are in the buffer
    length: U32  # bytes of the frame on the wire
    link: U16  # LINKTYPE_*
    interface: U32  # a number for each interface of the file
    direction: U8  # INBOUND, OUTBOUND, or 0 where the file does not say
    truncated: bool = False  # the file ended within a record, which is left out
    untimed: int = 0  # frames without a stamp of their own, which have that of the one before

    def __len__(self) -> int:
        return len(self.start)


_SECTION_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_IF_TSRESOL, _IF_TSOFFSET = 9, 14
LONGEST_BLOCK = 1 << 28

# The columns that are filled while the file is walked, in the order that the kernels take them.
_KINDS: dict[str, Any] = {
    "time_ns": np.int64,
    "start": np.int64,
    "captured": np.uint32,
    "length": np.uint32,
    "link": np.uint16,
    "interface": np.uint32,
    "direction": np.uint8,
}


def open_capture(path: Path, *, truncated: Literal["raise", "flag"] = "raise") -> Records:
    """Find all frames of a file.

    A file that ends within a record raises RecordError, or with truncated="flag" sets `Records.truncated`. Raises
    RecordError with one sentence if the file is no capture, is damaged, or is of a kind that cannot be read.
    """
    data, cut = _bytes_of(path)
    buffer: U8 = np.frombuffer(data, np.uint8)
    buffer.flags.writeable = False
    order, magic = _magic(path, data)
    if magic == MAGIC_PCAPNG:
        records = _read_pcapng(path, buffer)
    else:
        records = _read_pcap(path, buffer, order=order, scale=1 if magic == MAGIC_NS else 1000)
    if (records.truncated or cut) and truncated == "raise":
        raise RecordError(f"{path} ends within a record, after {len(records)} whole ones.")
    return replace(records, truncated=records.truncated or cut)


def _bytes_of(path: Path) -> tuple[Any, bool]:
    """The file's bytes (mapped where that can be), and whether a compressed one ended too early."""
    with path.open("rb") as file:
        try:
            data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):  # an empty file, or a pipe
            data = file.read()
    if data[:2] != b"\x1f\x8b":
        return data, False
    out = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            while piece := packed.read(1 << 22):
                out += piece
    except EOFError:
        return bytes(out), True
    except (zlib.error, gzip.BadGzipFile) as error:
        raise RecordError(f"{path} is compressed by gzip and damaged: {error}.") from error
    return bytes(out), False


def _magic(path: Path, data: Any) -> tuple[str, int]:
    """(struct's byte order, the magic number); pcapng tells its order later. Raises RecordError."""
    if len(data) < FILE_HEADER_BYTES:
        raise RecordError(f"{path} holds {len(data)} bytes, which is no pcap file.")
    for order in "<>":
        magic = struct.unpack_from(order + "I", data)[0]
        if magic in (MAGIC_NS, MAGIC_US, MAGIC_PCAPNG):
            return order, magic
    for start, what in _OTHER_MAGICS.items():
        if data[: len(start)] == start:
            raise RecordError(f"{path} is {what}, which cannot be read: convert it to pcap or pcapng first.")
    raise RecordError(f"{path} does not start like a pcap file.")


def _link_type(path: Path, value: int) -> int:
    """The link type in the lower bits of a header's word. Raises RecordError if its frames cannot be read."""
    link = value & 0x03FFFFFF  # above it: the length of a frame check sequence
    if link in _RAW_AS_WELL:
        return LINKTYPE_RAW
    if link not in LINK_TYPES:
        raise RecordError(f"{path} has link type {link}; what can be read is {_READABLE}.")
    return link


def _room(buffer: U8, at: int) -> dict[str, Any]:
    """Columns for some of the records that can be in the buffer from `at` on: memory is used as they are filled."""
    count = min(_PIECE, (len(buffer) - at) // 16 + 1)
    return {name: np.empty(count, kind) for name, kind in _KINDS.items()}


def _joined(buffer: U8, pieces: list[dict[str, Any]], *, truncated: bool) -> Records:
    columns: dict[str, Any] = {
        name: np.concatenate([piece[name] for piece in pieces] or [np.empty(0, kind)]).astype(kind, copy=False)
        for name, kind in _KINDS.items()
    }
    unstamped = columns["direction"] == NO_STAMP
    columns["direction"][unstamped] = 0
    return Records(buffer=buffer, truncated=truncated, untimed=int(unstamped.sum()), **columns)


def _read_pcap(path: Path, buffer: U8, *, order: str, scale: int) -> Records:
    from unnoticed.probes import record_kernels as kernels

    snap, network = struct.unpack(order + "II", buffer[16:24].tobytes())
    link = _link_type(path, network)
    longest = max(LONGEST_RECORD, min(snap, _LONGEST_SNAP))
    pieces: list[dict[str, Any]] = []
    at, state, before = FILE_HEADER_BYTES, kernels.FULL, 0
    while state == kernels.FULL:
        room = _room(buffer, at)
        found, at, state = kernels.walk_pcap(
            buffer, at, order == ">", scale, longest, room["time_ns"], room["start"], room["captured"], room["length"]
        )
        pieces.append({name: column[:found] for name, column in room.items()})
        pieces[-1]["link"][:] = link
        pieces[-1]["interface"][:] = 0
        pieces[-1]["direction"][:] = 0
        before += found
    if state == kernels.DAMAGED:
        (size,) = struct.unpack(order + "I", buffer[at + 8 : at + 12].tobytes())
        raise RecordError(f"{path} is damaged: record {before + 1} says it holds {size} bytes.")
    return _joined(buffer, pieces, truncated=state == kernels.CUT)


def _read_pcapng(path: Path, buffer: U8) -> Records:
    from unnoticed.probes import record_kernels as kernels

    pieces: list[dict[str, Any]] = []
    interfaces: list[tuple[int, ...]] = []
    table = np.zeros((0, 7), np.int64)
    at, order, described, last_ns, count = 0, "<", 0, 0, 0
    state = kernels.STRUCTURE
    while state in (kernels.STRUCTURE, kernels.FULL):
        if state == kernels.STRUCTURE:
            block = _structure(path, buffer, at, order)
            if block is None:
                state = kernels.CUT
                break
            order, body, size, is_section = block
            if is_section:
                interfaces = []
            else:
                interfaces.append(_interface(path, body, order, described))
                described += 1
            table = np.array(interfaces, np.int64).reshape(-1, 7)
            at += size
        room = _room(buffer, at)
        found, at, state = kernels.walk_pcapng(
            buffer, at, order == ">", table, *(room[name] for name in _KINDS), last_ns
        )
        if found:
            pieces.append({name: column[:found] for name, column in room.items()})
            last_ns = int(room["time_ns"][found - 1])
            count += found
    if state == kernels.DAMAGED:
        raise RecordError(f"{path} is damaged: the block at byte {at}, after {count} packets, makes no sense.")
    return _joined(buffer, pieces, truncated=state == kernels.CUT)


def _structure(path: Path, buffer: U8, at: int, order: str) -> tuple[str, bytes, int, bool] | None:
    """A section header or interface description: (byte order from here on, body, bytes, whether a section begins).

    None if the file ends within it.
    """
    if at + 12 > len(buffer):
        return None
    is_section = struct.unpack("<I", buffer[at : at + 4].tobytes())[0] == MAGIC_PCAPNG  # the same in either byte order
    if is_section:
        byte_order_magic = bytes(buffer[at + 8 : at + 12])
        if byte_order_magic not in _SECTION_ORDERS:
            raise RecordError(f"{path} is damaged: the section at byte {at} has no byte-order magic.")
        order = _SECTION_ORDERS[byte_order_magic]
    (size,) = struct.unpack(order + "I", buffer[at + 4 : at + 8].tobytes())
    if size < (28 if is_section else 20) or size % 4 or size > LONGEST_BLOCK:
        raise RecordError(f"{path} is damaged: the block at byte {at} says it is {size} bytes long.")
    if at + size > len(buffer):
        return None
    body = bytes(buffer[at + 8 : at + size - 4])
    if is_section:
        (major,) = struct.unpack_from(order + "H", body, 4)
        if major != 1:
            raise RecordError(f"{path} is pcapng of version {major}, which cannot be read.")
    return order, body, size, is_section


def _interface(path: Path, body: bytes, order: str, number: int) -> tuple[int, ...]:
    """A row of what `walk_pcapng` wants to know of interfaces. Raises RecordError if its stamps cannot be read."""
    link, _, snap = struct.unpack_from(order + "HHI", body)
    resolution, offset_s = 6, 0
    at = 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if code == 0 or len(value) < size:
            break
        if code == _IF_TSRESOL and size == 1:
            resolution = value[0]
        elif code == _IF_TSOFFSET and size == 8:
            (offset_s,) = struct.unpack(order + "q", value)
        at += 4 + (size + 3 & ~3)
    digits, is_binary = resolution & 0x7F, bool(resolution & 0x80)
    if digits > (63 if is_binary else 27):
        raise RecordError(f"{path} is damaged: interface {number} counts time in units of 1e-{digits} s.")
    if is_binary and digits:
        time = (1, 1, digits)
    else:
        digits = 0 if is_binary else digits
        time = (10 ** max(_NS_DIGITS - digits, 0), 10 ** max(digits - _NS_DIGITS, 0), 0)
    link = LINKTYPE_RAW if link in _RAW_AS_WELL else link
    return (link, min(snap, _LONGEST_SNAP), number, *time, offset_s)
