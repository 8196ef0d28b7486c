"""A socket filter that drops SYNs (classic BPF, include/uapi/linux/filter.h; SO_ATTACH_FILTER).

On a listening socket it makes attempts at new connections disappear unanswered; the segments that finish a handshake
already begun pass, since they go through the same filter (net/ipv4/tcp_ipv4.c, tcp_v4_rcv).
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LOAD_BYTE, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
_FLAGS_OFFSET, _SYN, _ACK = 13, 0x02, 0x10  # RFC 9293, section 3.1; the filter sees the segment from its TCP header on
_PASS = 0xFFFFFFFF

_PROGRAM = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (_LOAD_BYTE, 0, 0, _FLAGS_OFFSET),
        (_AND, 0, 0, _SYN | _ACK),
        (_JUMP_IF_EQUAL, 0, 1, _SYN),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, _PASS),
    )
)


def drop_new_connections(listener: socket.socket) -> None:
    """From here on a SYN to this socket is lost on it."""
    program = ctypes.create_string_buffer(_PROGRAM, len(_PROGRAM))
    description = struct.pack("HL", len(_PROGRAM) // 8, ctypes.addressof(program))  # struct sock_fprog
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, description)


def accept_new_connections(listener: socket.socket) -> None:
    """Take the filter away, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
