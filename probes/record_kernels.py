"""Where each record of a capture file is: loops over the bytes of pcap and pcapng files, compiled.

Formats: draft-ietf-opsawg-pcap-04 and draft-ietf-opsawg-pcapng-02. Each function fills the columns it is given and
returns (records found, position, state); the caller goes on from there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unnoticed.compiled import compiled
from unnoticed.probes.capture_file import LONGEST_BLOCK, NO_STAMP
from unnoticed.probes.columns import I64, U8, U16, U32

DONE, FULL, CUT, DAMAGED, STRUCTURE = range(5)  # at the end; no room left; within a record; nonsense; a block to read

BLOCK_SECTION = 0x0A0D0D0A
BLOCK_INTERFACE = 1
BLOCK_PACKET = 2  # obsolete
BLOCK_SIMPLE = 3
BLOCK_STATISTICS = 5
BLOCK_ENHANCED = 6
_OPTION_FLAGS = 2  # of an enhanced packet block: bits 0 and 1 are the direction


@compiled
def _u32(data: U8, at: int, big: bool) -> Any:
    if big:
        return (
            (np.int64(data[at]) << 24)
            | (np.int64(data[at + 1]) << 16)
            | (np.int64(data[at + 2]) << 8)
            | np.int64(data[at + 3])
        )
    return (
        np.int64(data[at])
        | (np.int64(data[at + 1]) << 8)
        | (np.int64(data[at + 2]) << 16)
        | (np.int64(data[at + 3]) << 24)
    )


@compiled
def _u16(data: U8, at: int, big: bool) -> Any:
    if big:
        return (np.int64(data[at]) << 8) | np.int64(data[at + 1])
    return np.int64(data[at]) | (np.int64(data[at + 1]) << 8)


@compiled
def walk_pcap(
    data: U8, at: int, big: bool, scale: int, longest: int, time_ns: I64, start: I64, captured: U32, length: U32
) -> tuple[int, int, int]:
    """The records from `at` on. `scale`: nanoseconds per unit of the stamps' second word."""
    found, room, end = 0, len(start), len(data)
    while True:
        if at + 16 > end:
            return found, at, DONE if at == end else CUT
        size = _u32(data, at + 8, big)
        if size > longest:
            return found, at, DAMAGED
        if at + 16 + size > end:
            return found, at, CUT
        if found == room:
            return found, at, FULL
        time_ns[found] = _u32(data, at, big) * 1_000_000_000 + _u32(data, at + 4, big) * scale
        start[found] = at + 16
        captured[found] = size
        length[found] = _u32(data, at + 12, big)
        found += 1
        at += 16 + size


@compiled
def walk_pcapng(
    data: U8,
    at: int,
    big: bool,
    interfaces: I64,
    time_ns: I64,
    start: I64,
    captured: U32,
    length: U32,
    link: U16,
    interface: U32,
    direction: U8,
    before: int,
) -> tuple[int, int, int]:
    """The packets from the block at `at` on, until a block that says something of a section or an interface.

    `interfaces`: a row each, of link type, snap length (0: none), number, and how to make nanoseconds of a stamp:
    factor, divisor, bits of a binary fraction (0: decimal), seconds to add. A packet without a stamp gets that of the
    one before (`before`), and direction NO_STAMP.
    """
    found, room, end = 0, len(start), len(data)
    while True:
        if at + 12 > end:
            return found, at, DONE if at == end else CUT
        kind = _u32(data, at, big)
        if kind == BLOCK_SECTION or kind == BLOCK_INTERFACE or kind == BLOCK_STATISTICS:
            return found, at, STRUCTURE
        size = _u32(data, at + 4, big)
        if size < 12 or size % 4 != 0 or size > LONGEST_BLOCK:
            return found, at, DAMAGED
        if at + size > end:
            return found, at, CUT
        if found == room:
            return found, at, FULL
        if kind == BLOCK_ENHANCED or kind == BLOCK_PACKET:
            if size < 32:
                return found, at, DAMAGED
            which = _u32(data, at + 8, big) if kind == BLOCK_ENHANCED else _u16(data, at + 8, big)
            held = _u32(data, at + 20, big)
            if which >= len(interfaces) or held > size - 32:
                return found, at, DAMAGED
            high, low = _u32(data, at + 12, big), _u32(data, at + 16, big)
            bits = interfaces[which, 5]
            if bits == 0:
                stamp = ((high << 32) | low) * interfaces[which, 3] // interfaces[which, 4]
            else:
                whole = (high << 32) | low
                part = whole & ((1 << bits) - 1)
                stamp = (whole >> bits) * 1_000_000_000
                if bits > 32:
                    stamp += ((part >> (bits - 32)) * 1_000_000_000) >> 32
                else:
                    stamp += (part * 1_000_000_000) >> bits
            before = stamp + interfaces[which, 6] * 1_000_000_000
            start[found] = at + 28
            captured[found] = held
            length[found] = _u32(data, at + 24, big)
            link[found] = interfaces[which, 0]
            interface[found] = interfaces[which, 2]
            direction[found] = 0
            option = at + 28 + ((held + 3) & ~3)
            while option + 8 <= at + size - 4:
                code, long = _u16(data, option, big), _u16(data, option + 2, big)
                if code == 0:
                    break
                if code == _OPTION_FLAGS and long == 4:
                    direction[found] = _u32(data, option + 4, big) & 3
                option += 4 + ((long + 3) & ~3)
        elif kind == BLOCK_SIMPLE:
            if size < 16 or len(interfaces) == 0:
                return found, at, DAMAGED
            held = min(_u32(data, at + 8, big), size - 16)
            if interfaces[0, 1] > 0:
                held = min(held, interfaces[0, 1])
            start[found] = at + 12
            captured[found] = held
            length[found] = _u32(data, at + 8, big)
            link[found] = interfaces[0, 0]
            interface[found] = interfaces[0, 2]
            direction[found] = NO_STAMP
        else:
            at += size
            continue
        time_ns[found] = before
        found += 1
        at += size
