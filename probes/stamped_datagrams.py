"""Datagrams with the kernel's time of arrival: SO_TIMESTAMPNS (include/uapi/asm-generic/socket.h).

The kernel stamps a datagram when it leaves the device, long before a process gets round to reading it; so a prober
need not be awake when an answer comes.
"""

from __future__ import annotations

import socket
import struct

from unnoticed.endpoints import family_of

_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)


def open_stamped(address: tuple[str, int]) -> socket.socket:
    """A non-blocking UDP socket connected to `address` whose datagrams are stamped. Raises OSError.

    Being connected, it takes datagrams from there only, and learns of ICMP errors (as OSError of a later call).
    """
    datagrams = socket.socket(family_of(address[0]), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        datagrams.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        datagrams.connect(address)
    except OSError:
        datagrams.close()
        raise
    return datagrams


def receive_stamped(datagrams: socket.socket, buffer: bytearray) -> tuple[int, int]:
    """Read one datagram into `buffer`: its length, and its arrival in CLOCK_REALTIME ns (0 if it has no stamp).

    Raises BlockingIOError if there is none, OSError for a pending ICMP error.
    """
    length, ancillary, _flags, _address = datagrams.recvmsg_into([buffer], _ANCILLARY_BYTES)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return length, seconds * 1_000_000_000 + nanoseconds
    return length, 0
