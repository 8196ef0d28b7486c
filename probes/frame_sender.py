"""Frames of our own, sent into one end of a link: one at a time, or as fast as the link takes them.

They go to an address that no bridge forwards (01:80:c2:00:00:0e, IEEE 802.1Q-2022, 8.6.3) with an EtherType for
experiments (0x88B5, IEEE Std 802), so they end where the link does. Source: packet(7), sendmmsg(2).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from unnoticed.errors import FabricError

ETHERTYPE = 0x88B5
_ADDRESSES = bytes.fromhex("0180c200000e") + bytes.fromhex("027700ffffff")
HEADER = _ADDRESSES + struct.pack(">H", ETHERTYPE)
_NUMBER = struct.Struct("=Q")
NUMBER_AT = len(HEADER)
SMALL_BYTES, LARGE_BYTES = 60, 1514
_BATCH = 32
SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h

_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):  # struct iovec
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):  # struct mmsghdr: struct msghdr and the length that was sent
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


class FrameSender:
    """A socket at an interface of the calling thread's namespace; frames pass the interface's queue as any other."""

    def __init__(self, interface: str, *, buffer_bytes: int) -> None:
        """`buffer_bytes`: how much may be on its way to the link's queue, as the kernel counts. Raises FabricError."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, buffer_bytes // 2)  # the kernel doubles it
            self._socket.bind((interface, 0))
        except OSError as error:
            self._socket.close()
            raise FabricError(f"Frames cannot be sent at {interface}: {error}.") from error
        frame = HEADER + bytes(LARGE_BYTES - len(HEADER))
        self._frame = ctypes.create_string_buffer(frame, len(frame))
        self._vector = _Vector(ctypes.addressof(self._frame), len(frame))
        self._messages = (_Message * _BATCH)()
        for message in self._messages:
            message.vectors, message.vector_count = ctypes.pointer(self._vector), 1

    def send(self, number: int) -> None:
        """One small frame with a number. Raises OSError where the queue is full."""
        self._socket.send(HEADER + _NUMBER.pack(number) + bytes(SMALL_BYTES - NUMBER_AT - _NUMBER.size))

    def flood(self) -> int:
        """Some large frames at once, waiting until the link has taken them; how many there were. Raises OSError."""
        sent = int(_libc.sendmmsg(self._socket.fileno(), self._messages, _BATCH, 0))
        if sent < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return sent

    def close(self) -> None:
        self._socket.close()
