"""What clients and guest say to each other: four workloads over one TCP port, and an echo over one UDP port.

Every byte can be checked by its position. A connection starts with a Hello; then, by its kind:

- REQUEST: the client sends Requests, the guest answers each one. The guest keeps, in its RAM, how many requests of this
  connection it has answered and the last value it was given. Its answer carries both, so a client sees at once when
  the guest's memory went back in time, or a request was lost or served twice.
- DOWNLOAD: the guest sends the connection's pattern, at the rate asked for, until the client ends its direction; then
  the guest closes.
- UPLOAD: the client sends the connection's pattern and ends its direction; the guest answers with a Receipt and closes.
- CONNECT: the guest answers the Hello with one Answer (sequence 0); the client closes.

Integers are little-endian. The UDP probe is echoed as it came.
"""

from __future__ import annotations

import functools
import random
import struct
from enum import IntEnum
from typing import NamedTuple

TCP_PORT = 7000  # and UDP: the datagrams of iperf3, which sends them to the port that it connects to
PROBE_PORT = 7001
SOCKPERF_PORT = 7002  # UDP: the ping-pong of sockperf, for whom it is worth comparing with

MAGIC = 0x554E4E31  # "UNN1"
_MASK = (1 << 64) - 1


class Kind(IntEnum):
    """What a connection is for."""

    REQUEST = 1
    DOWNLOAD = 2
    UPLOAD = 3
    CONNECT = 4
    FOREIGN = 5  # of a tool that is not ours, which sends no Hello: HTTP or RESP
    IPERF3 = 6  # the control connection of iperf3, which sends none either


def mix(a: int, b: int) -> int:
    """A 64-bit hash of two 64-bit integers (the finaliser of splitmix64); what a value must be, by its position."""
    z = (a * 0x9E3779B97F4A7C15 + b) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Hello(NamedTuple):
    """First bytes of every connection, from the client. A rate of 0 leaves a download unpaced."""

    kind: int
    connection: int
    rate_bytes_per_s: int = 0
    magic: int = MAGIC

    def pack(self) -> bytes:
        return HELLO.pack(self.magic, self.kind, self.connection, self.rate_bytes_per_s)


HELLO = struct.Struct("<IIQQ")  # magic, kind, connection, rate of a download
REQUEST = struct.Struct("<QQ")  # sequence (from 1), value = mix(connection, sequence)
ANSWER = struct.Struct("<QQQQ")  # sequence, requests answered so far, value before this one, mix(connection, sequence)
RECEIPT = struct.Struct("<QQ")  # bytes received, bytes that were wrong
PROBE = struct.Struct("<IIQQ")  # magic, stream, sequence, intended send time in ns


class Answer(NamedTuple):
    """The guest's answer to a Request."""

    sequence: int
    answered: int
    previous: int
    value: int

    def is_right(self, *, connection: int, sequence: int) -> bool:
        """Whether this is the answer that the `sequence`-th request of `connection` must get."""
        previous = mix(connection, sequence - 1) if sequence > 1 else 0
        return self == (sequence, sequence, previous, mix(connection, sequence))


PATTERN_PERIOD = 1_048_583  # prime, so that no segment or page size divides it
PATTERN_CHUNK = 1 << 18  # the longest piece `pattern` can give, in bytes


@functools.cache
def _table() -> bytes:
    base = random.Random(MAGIC).randbytes(PATTERN_PERIOD)
    return base + base[:PATTERN_CHUNK]


def pattern(connection: int, position: int, length: int) -> memoryview:
    """The `length` bytes (at most PATTERN_CHUNK) that stand at `position` of a connection's bulk stream."""
    start = (mix(connection, 0) + position) % PATTERN_PERIOD
    return memoryview(_table())[start : start + length]


def wrong_bytes(connection: int, position: int, data: bytes | bytearray | memoryview) -> int:
    """How many bytes of `data`, received at `position` of a bulk stream, are not what was sent there."""
    wrong = 0
    for offset in range(0, len(data), PATTERN_CHUNK):
        piece = bytes(data[offset : offset + PATTERN_CHUNK])
        right = bytes(pattern(connection, position + offset, len(piece)))
        if piece != right:
            wrong += sum(a != b for a, b in zip(piece, right, strict=True))
    return wrong
