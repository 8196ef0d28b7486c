"""The load's TCP sockets: options of include/uapi/asm-generic/socket.h and linux/tcp.h that Python does not name."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket

from unnoticed.endpoints import family_of

_SO_MAX_PACING_RATE = 47  # bytes of payload per second; TCP paces by itself, without the fq qdisc
_TCP_NOTSENT_LOWAT = 25
_SIOCOUTQ = 0x5411  # include/uapi/linux/sockios.h: TIOCOUTQ

# What waits unsent in the kernel must still leave after the stop, so it is kept short (the default is megabytes): at
# most this much, and at a set rate at most what leaves in a twentieth of a second.
_UNSENT_MAX_BYTES = 1 << 19
_UNSENT_MIN_BYTES = 1 << 14


def open_stream(
    address: tuple[str, int],
    *,
    congestion_control: str,
    pacing_byte_per_s: int | None = None,
) -> socket.socket:
    """A non-blocking socket that is connecting to `address`.

    The congestion control is chosen per socket, because a network namespace's own default cannot be set everywhere.
    Raises OSError where the connection fails at once (it is refused or has no route) or an option is refused.
    """
    stream = socket.socket(family_of(address[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        unsent_max_bytes = _UNSENT_MAX_BYTES
        if pacing_byte_per_s is not None:
            unsent_max_bytes = max(_UNSENT_MIN_BYTES, min(unsent_max_bytes, pacing_byte_per_s // 20))
            stream.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, pacing_byte_per_s.to_bytes(8, "little"))
        stream.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, unsent_max_bytes)
        failure = stream.connect_ex(address)
        if failure not in (0, errno.EINPROGRESS):
            raise OSError(failure, os.strerror(failure))
    except OSError:
        stream.close()
        raise
    return stream


def unacknowledged_bytes(stream: socket.socket) -> int:
    """What was written and is not acknowledged by the other end yet, with 1 for the end of the stream (SIOCOUTQ)."""
    answer = array.array("i", [0])
    fcntl.ioctl(stream.fileno(), _SIOCOUTQ, answer)
    return answer[0]
