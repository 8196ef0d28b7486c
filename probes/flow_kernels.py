"""Which connection each TCP segment belongs to, and the segments of each in order: compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from unnoticed.compiled import compiled
from unnoticed.probes.columns import I64, U8, U16, U32, U64, Bool

_SYN, _ACK = 0x02, 0x10
EMPTY = -1

# Columns of what is kept by four-tuple: the connection it is now, the initial sequence numbers known of that one (by
# SYN, by SYN and ACK; -1: unknown), whether its ends are turned, the first row.
NOW, BY_SYN, BY_ANSWER, TURNED, FIRST = range(5)
# And by connection: the first row of its four-tuple, how many of that were before, segments along the first, and
# against it.
ROW, INCARNATION, ALONG, AGAINST = range(4)


@compiled
def _mixed(a: Any, b: Any) -> Any:
    """A hash of two 64-bit words (the finaliser of splitmix64)."""
    z = a * np.uint64(0x9E3779B97F4A7C15) + b
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def fill_slots(slots: I64, keys: U64, tuples: int) -> None:
    """Put the four-tuples that are known into an empty table of slots, whose length is a power of two."""
    mask = len(slots) - 1
    for number in range(tuples):
        code = _mixed(_mixed(keys[number, 0], keys[number, 1]), _mixed(keys[number, 2], keys[number, 3]))
        at = np.int64(_mixed(code, keys[number, 4])) & mask
        while slots[at] != EMPTY:
            at = (at + 1) & mask
        slots[at] = number


@compiled
def assign(
    row: int,
    tuples: int,
    connections: int,
    slots: I64,
    keys: U64,
    by_tuple: I64,
    by_connection: I64,
    chosen: Bool,
    source: U64,
    source_high: U64,
    destination: U64,
    destination_high: U64,
    source_port: U16,
    destination_port: U16,
    flags: U8,
    sequence: U32,
    flow: I64,
) -> tuple[int, int, int]:
    """Number the connections in the order they appear, and put the flow of each chosen row into `flow` (else -1).

    A flow is twice its connection's number, plus 1 for segments in the direction against the first one's. A SYN with
    another initial sequence number starts another connection; a repeated one does not.

    Returns (the next row, four-tuples, connections); stops early where `by_tuple` or `by_connection` is full.
    """
    mask = len(slots) - 1
    for i in range(row, len(chosen)):
        if not chosen[i]:
            flow[i] = -1
            continue
        if tuples == len(by_tuple) or connections == len(by_connection):
            return i, tuples, connections
        # The ends in an order that is the same for both directions.
        turned = source[i] > destination[i]
        if source[i] == destination[i]:
            turned = source_high[i] > destination_high[i]
            if source_high[i] == destination_high[i]:
                turned = source_port[i] > destination_port[i]
        if turned:
            a, a_high, b, b_high = destination[i], destination_high[i], source[i], source_high[i]
            ports = (np.uint64(destination_port[i]) << np.uint64(16)) | np.uint64(source_port[i])
        else:
            a, a_high, b, b_high = source[i], source_high[i], destination[i], destination_high[i]
            ports = (np.uint64(source_port[i]) << np.uint64(16)) | np.uint64(destination_port[i])
        at = np.int64(_mixed(_mixed(_mixed(a, a_high), _mixed(b, b_high)), ports)) & mask
        number = slots[at]
        while number != EMPTY and not (
            keys[number, 0] == a
            and keys[number, 2] == b
            and keys[number, 4] == ports
            and keys[number, 1] == a_high
            and keys[number, 3] == b_high
        ):
            at = (at + 1) & mask
            number = slots[at]
        if number == EMPTY:
            number = np.int64(tuples)
            slots[at] = number
            keys[number, 0], keys[number, 1] = a, a_high
            keys[number, 2], keys[number, 3] = b, b_high
            keys[number, 4] = ports
            by_tuple[number, NOW] = by_tuple[number, BY_SYN] = by_tuple[number, BY_ANSWER] = -1
            by_tuple[number, TURNED], by_tuple[number, FIRST] = turned, i
            tuples += 1
        another = by_tuple[number, NOW] < 0
        if flags[i] & _SYN:
            said = np.int64(sequence[i])
            if flags[i] & _ACK:
                another |= by_tuple[number, BY_ANSWER] >= 0 and by_tuple[number, BY_ANSWER] != said
                by_tuple[number, BY_ANSWER] = said
            else:
                if by_tuple[number, BY_SYN] >= 0 and by_tuple[number, BY_SYN] != said:
                    another = True
                    by_tuple[number, BY_ANSWER] = -1
                elif by_tuple[number, BY_SYN] < 0 and by_tuple[number, BY_ANSWER] < 0:
                    another = True  # the first of all, or the capture began within an earlier connection
                by_tuple[number, BY_SYN] = said
        if another:
            before = by_tuple[number, NOW]
            by_connection[connections, ROW] = by_tuple[number, FIRST]
            by_connection[connections, INCARNATION] = 0 if before < 0 else by_connection[before, INCARNATION] + 1
            by_connection[connections, ALONG] = by_connection[connections, AGAINST] = 0
            by_tuple[number, NOW] = connections
            connections += 1
        mine = by_tuple[number, NOW]
        against = 1 if turned != (by_tuple[number, TURNED] != 0) else 0
        by_connection[mine, ALONG + against] += 1
        flow[i] = 2 * mine + against
    return len(chosen), tuples, connections


@compiled
def sort_rows(flow: I64, place: I64, out: I64) -> None:
    """Put the rows of each flow, ascending, into `out`; `place` has where each flow's begin, and is used up."""
    for i in range(len(flow)):
        if flow[i] >= 0:
            out[place[flow[i]]] = i
            place[flow[i]] += 1


# What `sort_segments` puts together of a segment. SEQUENCES: sequence, and from bit 32 on acknowledgement. STAMPS: time
# stamp, and from bit 32 on its echo. MARKS: flags, from bit 8 on the bytes of TCP options, from 16 the window, from 32
# the number of SACK blocks, from 40 whether it has a time stamp. INDEX: its row in the table.
TIME_NS, PAYLOAD, SEQUENCES, STAMPS, MARKS, INDEX, FIELDS = range(7)


@compiled
def sort_segments(
    flow: I64,
    place: I64,
    out: I64,
    time_ns: I64,
    payload: I64,
    sequence: U32,
    acknowledgement: U32,
    flags: U8,
    window: U16,
    options: U8,
    sack_count: U8,
    timestamps: Bool,
    timestamp: U32,
    timestamp_echo: U32,
) -> None:
    """As `sort_rows`, with the fields of each segment in one row of `out`."""
    for i in range(len(flow)):
        if flow[i] >= 0:
            at = place[flow[i]]
            place[flow[i]] += 1
            out[at, TIME_NS] = time_ns[i]
            out[at, PAYLOAD] = payload[i]
            out[at, SEQUENCES] = np.int64(sequence[i]) | (np.int64(acknowledgement[i]) << 32)
            out[at, STAMPS] = np.int64(timestamp[i]) | (np.int64(timestamp_echo[i]) << 32)
            out[at, MARKS] = (
                np.int64(flags[i])
                | (np.int64(options[i]) << 8)
                | (np.int64(window[i]) << 16)
                | (np.int64(sack_count[i]) << 32)
                | (np.int64(timestamps[i]) << 40)
            )
            out[at, INDEX] = i
