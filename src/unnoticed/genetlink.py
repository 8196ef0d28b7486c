"""Whether the kernel has a generic netlink family: asking for one loads the module that has it.

Source: include/uapi/linux/genetlink.h, net/netlink/genetlink.c (ctrl_getfamily).
"""

from __future__ import annotations

import os
import socket
import struct

GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_NAME = 2
NETLINK_GENERIC = 16
NLM_F_REQUEST = 1
NLMSG_ERROR = 2

_TIMEOUT_S = 3.0


def find_family(name: str) -> None:
    """Ask for a family, in the calling thread's network namespace. Raises OSError where there is none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC) as netlink:
        netlink.bind((0, 0))
        netlink.settimeout(_TIMEOUT_S)
        word = name.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(word), CTRL_ATTR_FAMILY_NAME) + word
        body = struct.pack("=BBH", CTRL_CMD_GETFAMILY, 1, 0) + attribute.ljust(-(-len(attribute) // 4) * 4, b"\0")
        netlink.send(struct.pack("=IHHII", 16 + len(body), GENL_ID_CTRL, NLM_F_REQUEST, 1, 0) + body)
        answer = netlink.recv(8192)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == NLMSG_ERROR:
        number = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(number, os.strerror(number))
