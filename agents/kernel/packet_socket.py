"""Packet sockets that put frames into a device, take frames out of one, or wait for a certain one (packet(7)).

Frames are passed with their struct virtio_net_hdr (include/uapi/linux/virtio_net.h) in front: large ones stay whole,
and a check sum that the kernel has put off stays put off.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct

_SOL_PACKET = 263
_PACKET_VNET_HDR, _PACKET_QDISC_BYPASS, _PACKET_IGNORE_OUTGOING = 15, 20, 23  # include/uapi/linux/if_packet.h
_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_LARGEST_FRAME_BYTES = 1 << 17
VIRTIO_HEADER_BYTES = 10

_LOAD_WORD, _LOAD_HALF, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06  # include/uapi/linux/filter.h
_PASS = 0xFFFFFFFF


def _open(interface: str, *, protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        if not protocol:
            opened.bind((interface, 0))
    except BaseException:
        opened.close()
        raise
    return opened


class Injector:
    """Sends frames out of a device, past its queueing discipline."""

    def __init__(self, interface: str) -> None:
        """Raises OSError."""
        self._socket = _open(interface, protocol=0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frames: list[bytes]) -> None:
        """Send frames, each behind its virtio header, in order. Raises OSError."""
        for frame in frames:
            self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()


class Filler:
    """Sends frames without meaning into a device's queue."""

    def __init__(self, interface: str, *, ether_type: int) -> None:
        """Raises OSError."""
        self._socket = _open(interface, protocol=0)
        nobody = bytes.fromhex("02fe000000fe")  # a locally administered address of nobody's
        self._header = nobody + nobody + struct.pack("!H", ether_type)

    def send(self, *, frames: int, length: int) -> None:
        """Send `frames` frames of `length` bytes. Raises OSError."""
        frame = self._header.ljust(length, b"\0")
        for _ in range(frames):
            self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()


class _Receiver:
    """A socket that is opened and bound beforehand, which takes some 15 ms, and lets nothing in until it is told to."""

    def __init__(self, interface: str) -> None:
        """Raises OSError."""
        self._socket = _open(interface, protocol=_ETH_P_ALL)
        self._filter((_RETURN, 0, 0, 0))
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)

    def forget(self) -> None:
        """Let nothing in any more, and drop what has come."""
        self._filter((_RETURN, 0, 0, 0))
        try:
            while True:
                self._socket.recv(_LARGEST_FRAME_BYTES)
        except BlockingIOError:
            return

    def close(self) -> None:
        self._socket.close()

    def _filter(self, *instructions: tuple[int, int, int, int]) -> None:
        code = b"".join(struct.pack("=HBBI", *each) for each in instructions)
        program = ctypes.create_string_buffer(code, len(code))
        description = struct.pack("HL", len(instructions), ctypes.addressof(program))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, description)


class Collector(_Receiver):
    """Takes a copy of every frame that a device receives, between `watch` and `forget`."""

    def watch(self, *, buffer_bytes: int) -> None:
        """From here on, as many as find room. Raises OSError."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
        self._filter((_RETURN, 0, 0, _PASS))

    def receive(self, *, patience_s: float) -> bytes | None:
        """The next frame, behind its virtio header; None if none comes in time."""
        if not select.select([self._socket], [], [], patience_s)[0]:
            return None
        return self._socket.recv(_LARGEST_FRAME_BYTES)


class Lookout(_Receiver):
    """Waits for a frame from a certain source address to come in at a device."""

    def fileno(self) -> int:
        """Readable when a frame has come."""
        return self._socket.fileno()

    def watch(self, mac: bytes) -> None:
        """From here on frames from this address count. Raises OSError."""
        self.forget()
        self._filter(
            (_LOAD_WORD, 0, 0, 6),
            (_JUMP_IF_EQUAL, 0, 3, int.from_bytes(mac[:4], "big")),
            (_LOAD_HALF, 0, 0, 10),
            (_JUMP_IF_EQUAL, 0, 1, int.from_bytes(mac[4:], "big")),
            (_RETURN, 0, 0, _PASS),
            (_RETURN, 0, 0, 0),
        )
