"""Capture files of any origin: which bytes of the file are which frame, without touching the frames.

Read: pcap (microseconds, nanoseconds) and pcapng (several sections and interfaces, all kinds of packet blocks), in
either byte order, plain or compressed as `compressed` reads it.
Formats: draft-ietf-opsawg-pcap-04, draft-ietf-opsawg-pcapng-02, https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unnoticed.errors import RecordError
from unnoticed.probes.columns import I64, U8, U16, U32
from unnoticed.probes.compressed import read_content

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
    damage: str = ""  # why nothing behind these frames could be read, as a sentence
    untimed: int = 0  # frames without a stamp of their own, which have that of the one before
    interface_names: tuple[str, ...] = ()  # by number; empty texts where the file does not say
    dropped: int = 0  # frames that the capturing program says it lost (pcapng only)

    def __len__(self) -> int:
        return len(self.start)


_SECTION_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_IF_NAME, _IF_TSRESOL, _IF_TSOFFSET = 2, 9, 14
_ISB_IFDROP = 5
LONGEST_BLOCK = 1 << 28
_SECTION = b"\x0a\x0d\x0d\x0a"
_BLOCK_INTERFACE = 1

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

    A file that ends within a record, or is damaged behind its first one, raises RecordError; with truncated="flag"
    what comes before is returned, with `Records.truncated` or `Records.damage`. Raises RecordError with one sentence
    if the file cannot be read, is no capture, or is of a kind that cannot be read.
    """
    content = read_content(path)
    buffer: U8 = np.frombuffer(content.data, np.uint8)
    buffer.flags.writeable = False
    if content.damage and len(buffer) < FILE_HEADER_BYTES:
        raise RecordError(f"{path} cannot be read: {content.damage}.")
    order, magic = _magic(path, content.data)
    if magic == MAGIC_PCAPNG:
        records = _read_pcapng(path, buffer)
    else:
        records = _read_pcap(path, buffer, order=order, scale=1 if magic == MAGIC_NS else 1000)
    damage = f"{path} is damaged: {content.damage}." if content.damage else records.damage
    cut = (records.truncated or content.truncated) and not damage
    if damage and (truncated == "raise" or len(records) == 0):
        raise RecordError(damage)
    if cut and truncated == "raise":
        raise RecordError(f"{path} ends within a record, after {len(records)} whole ones.")
    return replace(records, truncated=cut, damage=damage)


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


def _joined(buffer: U8, pieces: list[dict[str, Any]], *, truncated: bool, damage: str = "", **known: Any) -> Records:
    columns: dict[str, Any] = {
        name: np.concatenate([piece[name] for piece in pieces] or [np.empty(0, kind)]).astype(kind, copy=False)
        for name, kind in _KINDS.items()
    }
    unstamped = columns["direction"] == NO_STAMP
    columns["direction"][unstamped] = 0
    untimed = int(unstamped.sum())
    return Records(buffer=buffer, truncated=truncated, damage=damage, untimed=untimed, **known, **columns)


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
    damage = ""
    if state == kernels.DAMAGED:
        (size,) = struct.unpack(order + "I", buffer[at + 8 : at + 12].tobytes())
        damage = f"{path} is damaged: record {before + 1} says it holds {size} bytes."
    return _joined(buffer, pieces, truncated=state == kernels.CUT, damage=damage)


class _Sections:
    """What the blocks of a pcapng file that are no packets have said so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = np.zeros((8, 7), np.int64)
        self._known = 0  # interfaces of this section
        self._first = 0  # the number of its first one
        self._dropped: dict[int, int] = {}
        self.order = "<"
        self.names: list[str] = []

    @property
    def interfaces(self) -> I64:
        """A row for each interface of the section, as `walk_pcapng` wants it."""
        return self._table[: self._known]

    @property
    def dropped(self) -> int:
        return sum(self._dropped.values())

    def read(self, buffer: U8, at: int) -> int | None:
        """Take in the block at `at`; its length in bytes, or None if the file ends within it. Raises RecordError."""
        kind = bytes(buffer[at : at + 4])
        is_section = kind == _SECTION  # the same in either byte order
        if at + 12 > len(buffer):
            return None
        if is_section:
            byte_order_magic = bytes(buffer[at + 8 : at + 12])
            if byte_order_magic not in _SECTION_ORDERS:
                raise RecordError(f"{self._path} is damaged: the section at byte {at} has no byte-order magic.")
            self.order = _SECTION_ORDERS[byte_order_magic]
        (size,) = struct.unpack(self.order + "I", buffer[at + 4 : at + 8].tobytes())
        if size < (28 if is_section else 20) or size % 4 or size > LONGEST_BLOCK:
            raise RecordError(f"{self._path} is damaged: the block at byte {at} says it is {size} bytes long.")
        if at + size > len(buffer):
            return None
        body = bytes(buffer[at + 8 : at + size - 4])
        if is_section:
            (major,) = struct.unpack_from(self.order + "H", body, 4)
            if major != 1:
                raise RecordError(f"{self._path} is pcapng of version {major}, which cannot be read.")
            self._known, self._first = 0, len(self.names)
        elif struct.unpack(self.order + "I", kind)[0] == _BLOCK_INTERFACE:
            self._describe(body)
        else:
            self._count(body)
        return int(size)

    def _describe(self, body: bytes) -> None:
        """An interface. Raises RecordError if its stamps cannot be read."""
        link, _, snap = struct.unpack_from(self.order + "HHI", body)
        resolution, offset_s, name = 6, 0, ""
        for code, value in self._options(body, 8):
            if code == _IF_TSRESOL and len(value) == 1:
                resolution = value[0]
            elif code == _IF_TSOFFSET and len(value) == 8:
                (offset_s,) = struct.unpack(self.order + "q", value)
            elif code == _IF_NAME:
                name = "".join(letter for letter in value.decode(errors="replace") if letter.isprintable())
        digits, is_binary = resolution & 0x7F, bool(resolution & 0x80)
        number = len(self.names)
        if digits > (63 if is_binary else 27):
            unit = f"{'2' if is_binary else '10'} to the power of -{digits}"
            raise RecordError(f"{self._path} is damaged: interface {number} counts time in units of {unit} s.")
        if is_binary and digits:
            time = (1, 1, digits)
        else:
            digits = 0 if is_binary else digits
            time = (10 ** max(_NS_DIGITS - digits, 0), 10 ** max(digits - _NS_DIGITS, 0), 0)
        link = LINKTYPE_RAW if link in _RAW_AS_WELL else link
        if self._known == len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        self._table[self._known] = (link, min(snap, _LONGEST_SNAP), number, *time, offset_s)
        self._known += 1
        self.names.append(name)

    def _count(self, body: bytes) -> None:
        """An interface's statistics: its counter runs from the beginning of the capture, so the last one holds."""
        (which,) = struct.unpack_from(self.order + "I", body)
        for code, value in self._options(body, 12):
            if code == _ISB_IFDROP and len(value) == 8:
                self._dropped[self._first + which] = struct.unpack(self.order + "Q", value)[0]

    def _options(self, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        while at + 4 <= len(body):
            code, size = struct.unpack_from(self.order + "HH", body, at)
            value = body[at + 4 : at + 4 + size]
            if code == 0 or len(value) < size:
                return
            yield code, value
            at += 4 + (size + 3 & ~3)


def _read_pcapng(path: Path, buffer: U8) -> Records:
    from unnoticed.probes import record_kernels as kernels

    sections = _Sections(path)
    pieces: list[dict[str, Any]] = []
    room, used = _room(buffer, 0), 0
    at, last_ns, count, damage = 0, 0, 0, ""
    state = kernels.STRUCTURE
    while state in (kernels.STRUCTURE, kernels.FULL):
        if state == kernels.STRUCTURE:
            try:
                size = sections.read(buffer, at)
            except RecordError as error:
                damage = str(error)
                break
            if size is None:
                state = kernels.CUT
                break
            at += size
        elif used:
            pieces.append({name: column[:used] for name, column in room.items()})
            room, used = _room(buffer, at), 0
        found, at, state = kernels.walk_pcapng(
            buffer,
            at,
            sections.order == ">",
            sections.interfaces,
            *(room[name][used:] for name in _KINDS),
            last_ns,
        )
        if found:
            used += found
            count += found
            last_ns = int(room["time_ns"][used - 1])
    pieces.append({name: column[:used] for name, column in room.items()})
    if state == kernels.DAMAGED:
        damage = f"{path} is damaged: the block at byte {at}, after {count} packets, makes no sense."
    return _joined(
        buffer,
        pieces,
        truncated=state == kernels.CUT,
        damage=damage,
        interface_names=tuple(sections.names),
        dropped=sections.dropped,
    )
