"""One address in a bridge's forwarding table, pinned to a port (include/uapi/linux/neighbour.h; net/bridge/br_fdb.c).

A pinned (sticky) address stays where it is though frames from it come in by another port.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from unnoticed.rtnetlink import NLM_F_CREATE, NLM_F_REPLACE, Rtnetlink, attribute, message

_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_AF_BRIDGE = 7
_NUD_REACHABLE, _NUD_NOARP = 0x02, 0x40  # together: static, it does not age
_NTF_MASTER, _NTF_STICKY = 0x04, 0x40
_NDA_LLADDR = 2
_NDMSG = struct.Struct("=BxxxiHBB")  # struct ndmsg


class PinnedAddress:
    """An address and the port that it can be pinned to."""

    def __init__(self, interface: str, *, mac: bytes) -> None:
        """The port is of the network namespace of the calling thread; nothing is pinned yet. Raises OSError."""
        index = socket.if_nametoindex(interface)
        self._netlink = Rtnetlink()
        address = attribute(_NDA_LLADDR, mac)

        def body(flags: int) -> bytes:
            return _NDMSG.pack(_AF_BRIDGE, index, _NUD_REACHABLE | _NUD_NOARP, flags, 0) + address

        self._pin = message(_RTM_NEWNEIGH, body(_NTF_MASTER | _NTF_STICKY), flags=NLM_F_CREATE | NLM_F_REPLACE)
        self._unpin = message(_RTM_DELNEIGH, body(_NTF_MASTER))

    def pin(self) -> None:
        """Raises OSError."""
        self._netlink.request(self._pin, what="pinning an address to a bridge port")

    def unpin(self) -> None:
        """Forget the address; the next frame from it teaches the bridge again."""
        with contextlib.suppress(OSError):  # the bridge does not know it
            self._netlink.request(self._unpin, what="unpinning an address")

    def close(self) -> None:
        self._netlink.close()
