"""Which TCP handshakes are under way in a network namespace (include/uapi/linux/sock_diag.h, inet_diag.h)."""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SYN_RECV = 3  # include/net/tcp_states.h

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI48s")  # struct inet_diag_req_v2


class HandshakeMonitor:
    """Counts half-open connections, in the namespace where it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        body = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 1 << _SYN_RECV, bytes(48))
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        self._request = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, flags, 0, 0) + body

    def half_open(self) -> int:
        """How many connections have sent a SYN-ACK and wait for its acknowledgement. Raises OSError."""
        self._socket.send(self._request)
        count = 0
        while True:
            data = self._socket.recv(1 << 16)
            position = 0
            while position < len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, position)
                if kind == _NLMSG_DONE:
                    return count
                if kind == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", data, position + _HEADER.size)[0]
                    raise OSError(error, f"socket diagnosis: {os.strerror(error)}")
                count += 1
                position += (length + 3) & ~3

    def close(self) -> None:
        self._socket.close()
