"""A socket filter that drops everything (SO_ATTACH_FILTER, include/uapi/linux/filter.h).

On a listening socket it makes SYNs disappear unanswered; connections that exist are not touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_BPF_RET_K = 0x06


def drop_everything(target: socket.socket) -> None:
    """From here on the socket receives nothing (`ret #0`)."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RET_K, 0, 0, 0))
    target.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def accept_everything(target: socket.socket) -> None:
    """Take the filter away, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        target.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
