"""The most addresses that a Linux bridge learns, which the iproute2 of Debian 12 cannot set.

Source: rtnetlink(7), include/uapi/linux/if_link.h (IFLA_BR_FDB_MAX_LEARNED, since Linux 6.7), net/bridge/br_fdb.c. A
bridge that knows so many goes on moving those it knows, and floods frames to all others.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from unnoticed.errors import FabricError, MachineError

RTM_NEWLINK = 16
RTM_GETLINK = 18
NLMSG_ERROR = 2
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLA_F_NESTED = 0x8000
IFLA_LINKINFO = 18
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_BR_FDB_MAX_LEARNED = 49

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_RTATTR = struct.Struct("=HH")  # length, type
_ANSWER_BYTES = 1 << 16


def limit_learning(bridge: str, most: int) -> None:
    """Let a bridge of the calling thread's network namespace learn at most so many addresses, and read that back.

    Raises MachineError where the kernel knows no such limit, and FabricError where it refuses.
    """
    index = socket.if_nametoindex(bridge)
    data = _attribute(IFLA_BR_FDB_MAX_LEARNED, struct.pack("=I", most))
    kind = _attribute(IFLA_INFO_KIND, b"bridge\0")
    asked = _attribute(IFLA_LINKINFO | NLA_F_NESTED, kind + _attribute(IFLA_INFO_DATA | NLA_F_NESTED, data))
    _ask(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + asked)
    answer = _ask(RTM_GETLINK, NLM_F_REQUEST, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0))
    read = limit_in(answer)
    if read is None:
        raise MachineError(
            "fabric.switch.learning_limit: this kernel's bridge has no limit on the addresses it learns; "
            "that takes Linux 6.7."
        )
    if read != most:
        raise FabricError(f"The bridge was asked to learn at most {most} addresses, but its limit is {read}.")


def limit_in(message: bytes) -> int | None:
    """The limit that an RTM_NEWLINK message of a bridge tells; None if it tells none."""
    body = message[_NLMSGHDR.size + _IFINFOMSG.size :]
    for name in (IFLA_LINKINFO, IFLA_INFO_DATA, IFLA_BR_FDB_MAX_LEARNED):
        found = _find(body, name)
        if found is None:
            return None
        body = found
    (limit,) = struct.unpack("=I", body)
    return int(limit)


def _attribute(name: int, value: bytes) -> bytes:
    return _RTATTR.pack(_RTATTR.size + len(value), name) + value + bytes(-len(value) % 4)


def _find(attributes: bytes, name: int) -> bytes | None:
    position = 0
    while position + _RTATTR.size <= len(attributes):
        length, kind = _RTATTR.unpack_from(attributes, position)
        if length < _RTATTR.size:
            return None
        if kind & ~NLA_F_NESTED == name:
            return attributes[position + _RTATTR.size : position + length]
        position += (length + 3) & ~3
    return None


def _ask(kind: int, flags: int, body: bytes) -> bytes:
    """Send a request and return the answer's first message. Raises FabricError where the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as channel:
        channel.bind((0, 0))
        channel.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, flags, 1, 0) + body)
        answer = channel.recv(_ANSWER_BYTES)
    if _NLMSGHDR.unpack_from(answer)[1] == NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _NLMSGHDR.size)
        if code:
            name = errno.errorcode.get(-code, str(code))
            raise FabricError(f"The kernel refused a limit on what a bridge learns: {os.strerror(-code)} ({name}).")
    return answer
