"""Which connection each TCP segment belongs to, and the segments of each in order: compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from unnoticed.probes.columns import I64, U8, U16, U32, U64, Bool
from unnoticed.probes.compiled import compiled

_SYN, _ACK = 0x02, 0x10
_EMPTY = -1


@compiled
def _mixed(a: Any, b: Any) -> Any:
    """A hash of two 64-bit words (the finaliser of splitmix64)."""
    z = a * np.uint64(0x9E3779B97F4A7C15) + b
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def _grown(slots: I64, hashes: U64) -> I64:
    """A table of twice the size with the same connections, whose hashes are given by number."""
    bigger = np.full(2 * len(slots), _EMPTY, np.int64)
    mask = len(bigger) - 1
    for number in slots:
        if number != _EMPTY:
            at = np.int64(hashes[number]) & mask
            while bigger[at] != _EMPTY:
                at = (at + 1) & mask
            bigger[at] = number
    return bigger


@compiled
def assign(
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
) -> tuple[I64, I64, I64, I64]:
    """Number the connections in the order they appear, and put the flow of each chosen row into `flow` (else -1).

    A flow is twice its connection's number, plus 1 for segments in the direction against the first one's. A SYN with
    another initial sequence number starts another connection; a repeated one does not.

    Returns, by connection: its first row, its incarnation (how many of this four-tuple were before it), and how many
    segments it has in the direction of the first one and against it.
    """
    count = len(chosen)
    room = 64
    slots = np.full(4 * room, _EMPTY, np.int64)
    # By four-tuple: first row, hash, the connection it is now, initial sequence numbers (-1 unknown; SYN, SYN and ACK).
    first = np.empty(room, np.int64)
    hashes = np.empty(room, np.uint64)
    current = np.empty(room, np.int64)
    known = np.empty((room, 2), np.int64)
    tuples = 0
    # By connection:
    row_of = np.empty(room, np.int64)
    incarnation = np.empty(room, np.int64)
    along = np.empty(room, np.int64)
    against = np.empty(room, np.int64)
    connections = 0
    last_number, last_row = np.int64(-1), np.int64(-1)
    for i in range(count):
        if not chosen[i]:
            flow[i] = -1
            continue
        ports = (np.uint64(source_port[i]) << np.uint64(16)) | np.uint64(destination_port[i])
        turned = (np.uint64(destination_port[i]) << np.uint64(16)) | np.uint64(source_port[i])
        number: Any = -1
        if last_number >= 0:  # trains of segments: the same four-tuple as before, or its other direction
            j = last_row
            if (
                source[i] == source[j]
                and destination[i] == destination[j]
                and source_port[i] == source_port[j]
                and destination_port[i] == destination_port[j]
                and source_high[i] == source_high[j]
                and destination_high[i] == destination_high[j]
            ):
                number = last_number
        if number < 0:
            one = _mixed(_mixed(source[i], source_high[i]), ports >> np.uint64(16))
            other = _mixed(_mixed(destination[i], destination_high[i]), turned >> np.uint64(16))
            code = one ^ other  # the same for both directions
            mask = len(slots) - 1
            at = np.int64(code) & mask
            while True:
                number = slots[at]
                if number == _EMPTY:
                    break
                j = first[number]
                if hashes[number] == code and (
                    (
                        source[i] == source[j]
                        and destination[i] == destination[j]
                        and source_port[i] == source_port[j]
                        and destination_port[i] == destination_port[j]
                        and source_high[i] == source_high[j]
                        and destination_high[i] == destination_high[j]
                    )
                    or (
                        source[i] == destination[j]
                        and destination[i] == source[j]
                        and source_port[i] == destination_port[j]
                        and destination_port[i] == source_port[j]
                        and source_high[i] == destination_high[j]
                        and destination_high[i] == source_high[j]
                    )
                ):
                    break
                at = (at + 1) & mask
            if number == _EMPTY:
                number = tuples
                if tuples == len(first):
                    first, hashes = _longer(first), _longer(hashes)
                    current, known = _longer(current), _taller(known)
                if 4 * (tuples + 1) > 2 * len(slots):
                    slots = _grown(slots, hashes)
                    mask = len(slots) - 1
                    at = np.int64(code) & mask
                    while slots[at] != _EMPTY:
                        at = (at + 1) & mask
                slots[at] = number
                first[number], hashes[number], current[number] = i, code, -1
                known[number, 0] = known[number, 1] = -1
                tuples += 1
        j = first[number]
        forward = (
            source[i] == source[j]
            and source_port[i] == source_port[j]
            and source_high[i] == source_high[j]
            and destination[i] == destination[j]
            and destination_port[i] == destination_port[j]
            and destination_high[i] == destination_high[j]
        )
        last_number, last_row = number, np.int64(i)
        another = current[number] < 0
        if flags[i] & _SYN:
            answer = 1 if flags[i] & _ACK else 0
            said = np.int64(sequence[i])
            if known[number, answer] >= 0 and known[number, answer] != said:
                another = True
                if not answer:
                    known[number, 0] = known[number, 1] = -1
            elif not answer and known[number, 0] < 0 and known[number, 1] < 0 and i != j:
                another = True  # the capture began within an earlier connection
            known[number, answer] = said
        if another:
            if connections == len(row_of):
                row_of, incarnation = _longer(row_of), _longer(incarnation)
                along, against = _longer(along), _longer(against)
            row_of[connections] = j
            incarnation[connections] = 0 if current[number] < 0 else incarnation[current[number]] + 1
            along[connections] = against[connections] = 0
            current[number] = connections
            connections += 1
        mine = current[number]
        if forward:
            along[mine] += 1
            flow[i] = 2 * mine
        else:
            against[mine] += 1
            flow[i] = 2 * mine + 1
    return row_of[:connections], incarnation[:connections], along[:connections], against[:connections]


@compiled
def _longer(column: Any) -> Any:
    longer = np.empty(2 * len(column), column.dtype)
    longer[: len(column)] = column
    return longer


@compiled
def _taller(matrix: Any) -> Any:
    taller = np.empty((2 * matrix.shape[0], matrix.shape[1]), matrix.dtype)
    taller[: matrix.shape[0]] = matrix
    return taller


@compiled
def sort_rows(flow: I64, place: I64, out: I64) -> None:
    """Put the rows of each flow, ascending, into `out`; `place` has where each flow's begin, and is used up."""
    for i in range(len(flow)):
        if flow[i] >= 0:
            out[place[flow[i]]] = i
            place[flow[i]] += 1
