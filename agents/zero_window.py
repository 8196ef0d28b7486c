"""Answers for a guest that runs nowhere: what its clients sent is safe, and they shall send no more for now. Pure.

A client that hears nothing repeats what it sent: the tail-loss probe, after two round trips or some milliseconds, the
retransmission timer after a fifth of a second. Where frames are held, what it sent is not lost, but waits. So it can be
acknowledged, with a window of zero (RFC 9293, section 3.8.6.1): the client then waits, without a timer that repeats
anything, until the guest itself opens the window again. It is what a host does whose program does not read.

What was acknowledged the client forgets. From then on the guest must get what is held, here or, if the migration fails,
where it came from; so nothing is answered that may not be held: no frame behind one that is missing, and none once
the plug may be full.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from unnoticed.agents.kernel.tcp_repair import Position
from unnoticed.checksum import checksum
from unnoticed.endpoints import unpack_address

_VIRTIO_HEADER = struct.Struct("<BBHHHH")  # flags, GSO type, header's length, segment's length (linux/virtio_net.h)
_ETHERNET_BYTES = 14
_IPV4, _IPV6, _TCP = 0x0800, 0x86DD, 6
_MAPPED = bytes(10) + b"\xff\xff"
_SYN, _FIN, _RST, _ACK = 0x02, 0x01, 0x04, 0x10
_TIMESTAMPS = struct.Struct(">BBBBII")  # two NOPs, kind 8, length 10, value, echo (RFC 7323)
_HOP_LIMIT = 64
_SAFE_SHARE = 0.9  # of the plug's limit
# Less the largest frame that the kernel makes, headers counted for each of its segments: what is seen here is a copy
# that may have been cut into segments, and the plug takes all of it or nothing.
_LARGEST_FRAME_BYTES = 70_500
_HEADERS_BYTES = 100  # of each segment, more than there are
_MASK, _HALF = 0xFFFFFFFF, 1 << 31


@dataclass(kw_only=True)
class _Flow:
    """One connection. `due`: whether the client is to be answered."""

    due_sequence: int  # what the client will send next, if all that it sent is held
    timestamp: int | None
    macs: bytes = b""  # of the client and of the guest
    echo: int = 0  # the client's latest timestamp
    acknowledged: int = 0  # what the client has of the guest
    is_heard: bool = False
    is_due: bool = False


class ZeroWindow:
    """The answers of one guest. `answered`: how many there were."""

    def __init__(self, positions: Iterable[Position], *, limit_bytes: int) -> None:
        """`positions`: where the connections stood when the guest was paused; `limit_bytes`: of the plug."""
        self._flows = {
            (*each.remote, *each.local): _Flow(due_sequence=each.receive_sequence, timestamp=each.timestamp)
            for each in positions
        }
        self._room_bytes = int(limit_bytes * _SAFE_SHARE) - _LARGEST_FRAME_BYTES
        self.answered = 0

    def take(self, frame: bytes) -> None:
        """A frame that is held from now on, behind its virtio header."""
        _, _, _, segment_bytes, _, _ = _VIRTIO_HEADER.unpack_from(frame)
        segments = -(-len(frame) // segment_bytes) if segment_bytes else 1
        self._room_bytes -= len(frame) + segments * _HEADERS_BYTES
        if self._room_bytes < 0:
            return
        try:
            self._note(frame[_VIRTIO_HEADER.size :])
        except (struct.error, IndexError):  # too short for what it says it is
            return

    def _note(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        start = _ETHERNET_BYTES
        if (
            kind == _IPV4
            and frame[start + 9] == _TCP
            and not int.from_bytes(frame[start + 6 : start + 8], "big") & 0x3FFF
        ):
            end = start + int.from_bytes(frame[start + 2 : start + 4], "big")
            source, target = _MAPPED + frame[start + 12 : start + 16], _MAPPED + frame[start + 16 : start + 20]
            start += 4 * (frame[start] & 0x0F)
        elif kind == _IPV6 and frame[start + 6] == _TCP:
            end = start + 40 + int.from_bytes(frame[start + 4 : start + 6], "big")
            source, target = frame[start + 8 : start + 24], frame[start + 24 : start + 40]
            start += 40
        else:
            return
        source_port, target_port, sequence, acknowledged, offset, flags = struct.unpack_from(">HHIIBB", frame, start)
        ends = unpack_address(source), source_port, unpack_address(target), target_port
        flow = self._flows.get(ends)
        data = start + 4 * (offset >> 4)
        if flow is None or end > len(frame) or data > end or flags & (_SYN | _RST) or not flags & _ACK:
            return
        if not flow.is_heard or _is_after(acknowledged, flow.acknowledged):
            flow.acknowledged = acknowledged
        flow.is_heard, flow.macs = True, frame[6:12] + frame[0:6]
        if flow.timestamp is not None and data - start >= 20 + _TIMESTAMPS.size:
            flow.echo = _timestamp_in(frame[start + 20 : data], flow.echo)
        self._follow(flow, sequence, end - data)

    def _follow(self, flow: _Flow, sequence: int, length: int) -> None:
        """A segment of so many bytes of data; a FIN is left for the guest to answer."""
        after = (sequence + length) & _MASK
        if not length:  # a keep-alive, or a probe of the window (RFC 9293, section 3.8.6.1), says what was said before
            flow.is_due |= after == (flow.due_sequence - 1) & _MASK
        elif not _is_after(sequence, flow.due_sequence):
            if _is_after(after, flow.due_sequence):
                flow.due_sequence = after
            flow.is_due = True

    @property
    def positions(self) -> list[Position]:
        """Where the connections will stand when the guest has got what was taken."""
        return [
            Position(
                local=(ends[2], ends[3]),
                remote=(ends[0], ends[1]),
                receive_sequence=flow.due_sequence,
                timestamp=flow.timestamp,
            )
            for ends, flow in self._flows.items()
        ]

    def answers(self) -> list[bytes]:
        """Frames from the guest that are due, each behind a virtio header."""
        due = [(ends, flow) for ends, flow in self._flows.items() if flow.is_due]
        self.answered += len(due)
        for _, flow in due:
            flow.is_due = False
        return [_answer(ends, flow) for ends, flow in due]


def positions_behind(frames: list[bytes], positions: Iterable[Position]) -> bytes:
    """Where connections will stand when the guest has got these frames as well, as `Position.pack` has it."""
    window = ZeroWindow(positions, limit_bytes=1 << 62)
    for frame in frames:
        window.take(frame)
    return b"".join(position.pack() for position in window.positions)


def _is_after(sequence: int, other: int) -> bool:
    """RFC 9293, section 3.4: in a space that wraps around."""
    return 0 < (sequence - other) & _MASK < _HALF


def _timestamp_in(options: bytes, otherwise: int) -> int:
    """The value of the timestamp among TCP options."""
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
        elif options[at] == 8:
            return int.from_bytes(options[at + 2 : at + 6], "big")
        else:
            at += max(2, options[at + 1])
    return otherwise


def _answer(ends: tuple[str, int, str, int], flow: _Flow) -> bytes:
    """An acknowledgement without data and without a window."""
    client, client_port, guest, guest_port = ends
    options = b"" if flow.timestamp is None else _TIMESTAMPS.pack(1, 1, 8, 10, flow.timestamp, flow.echo)
    length = 20 + len(options)
    ports = guest_port, client_port
    segment = struct.pack(">HHIIBBHHH", *ports, flow.acknowledged, flow.due_sequence, length // 4 << 4, _ACK, 0, 0, 0)
    segment += options
    family = socket.AF_INET6 if ":" in guest else socket.AF_INET
    addresses = socket.inet_pton(family, guest) + socket.inet_pton(family, client)
    total = checksum(addresses + struct.pack(">IHBB", length, 0, 0, _TCP) + segment)
    segment = segment[:16] + total.to_bytes(2, "big") + segment[18:]
    if family == socket.AF_INET6:
        kind, header = _IPV6, struct.pack(">IHBB", 6 << 28, length, _TCP, _HOP_LIMIT) + addresses
    else:
        kind, header = _IPV4, struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, _HOP_LIMIT, _TCP, 0) + addresses
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    return bytes(_VIRTIO_HEADER.size) + flow.macs + kind.to_bytes(2, "big") + header + segment
