"""Requests to rtnetlink (include/uapi/linux/netlink.h, rtnetlink.h): messages built by hand, so that they cost nothing.

A message can be made beforehand and be sent when it counts; the kernel's answer is waited for, and an error raised.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_CREATE = 1, 4, 0x300, 0x100, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLA_F_NESTED = 1 << 15
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr


def attribute(kind: int, data: bytes, *, nested: bool = False) -> bytes:
    """One attribute, padded."""
    padding = bytes(-len(data) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind | (_NLA_F_NESTED if nested else 0)) + data + padding


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`, as type and content."""
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        yield kind & ~_NLA_F_NESTED, data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3


def message(kind: int, body: bytes, *, flags: int = 0) -> bytes:
    """A request that the kernel acknowledges."""
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 0, 0) + body


def dump_request(kind: int, body: bytes) -> bytes:
    """A request for all objects of a kind."""
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body


class Rtnetlink:
    """A socket to the routing side of the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def request(self, data: bytes, *, what: str) -> None:
        """Send a `message` and wait for its acknowledgement; raises OSError that says what failed."""
        self._socket.send(data)
        answer = self._socket.recv(1 << 16)
        kind = _HEADER.unpack_from(answer)[1]
        error: int = struct.unpack_from("=i", answer, _HEADER.size)[0] if kind == _NLMSG_ERROR else -1
        if error != 0:
            raise OSError(-error, f"{what}: {os.strerror(-error)}")

    def dump(self, data: bytes, *, what: str) -> list[bytes]:
        """Send a `dump_request`; returns the bodies of the answers. Raises OSError."""
        self._socket.send(data)
        found: list[bytes] = []
        while True:
            answer, position = self._socket.recv(1 << 16), 0
            while position < len(answer):
                length, kind, _, _, _ = _HEADER.unpack_from(answer, position)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", answer, position + _HEADER.size)[0]
                    raise OSError(error, f"{what}: {os.strerror(error)}")
                found.append(answer[position + _HEADER.size : position + length])
                position += (length + 3) & ~3

    def close(self) -> None:
        self._socket.close()
