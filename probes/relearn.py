"""When a switch (a Linux bridge in its own namespace) learned at which port the guest's MAC is.

Source: rtnetlink(7), include/uapi/linux/neighbour.h, net/bridge/br_fdb.c (fdb_notify). A bridge announces a forwarding
entry that is new, has moved to another port, or was removed, to the multicast group RTNLGRP_NEIGH; one listener per
namespace, on a socket that stays in it.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from unnoticed.clock import now_ns
from unnoticed.errors import MachineError, RecordError

RTNLGRP_NEIGH = 3
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
SO_RCVBUFFORCE = 33
SIOCGIFNAME = 0x8910

NLMSG_ERROR = 2
NLMSG_DONE = 3
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30
NLM_F_REQUEST = 0x001
NLM_F_DUMP = 0x300
AF_BRIDGE = 7
NDA_LLADDR = 2
NUD_PERMANENT = 0x80

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NDMSG = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type
_RTATTR = struct.Struct("=HH")  # length, type


@dataclass(frozen=True, kw_only=True)
class ForwardingEntry:
    """One message about a bridge's forwarding table."""

    mac: str  # lower case, with colons
    ifindex: int  # of the port, in the bridge's namespace
    state: int  # NUD_*
    removed: bool


def forwarding_entries(data: bytes) -> Iterator[ForwardingEntry]:
    """The bridge forwarding entries in a netlink datagram; other messages are skipped.

    Raises RecordError if the datagram is malformed.
    """
    position = 0
    while position + _NLMSGHDR.size <= len(data):
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, position)
        if length < _NLMSGHDR.size or position + length > len(data):
            raise RecordError(f"A netlink message says it is {length} bytes long, of {len(data) - position} there.")
        body, end = position + _NLMSGHDR.size, position + length
        position += (length + 3) & ~3
        if kind not in (RTM_NEWNEIGH, RTM_DELNEIGH) or end - body < _NDMSG.size:
            continue
        family, ifindex, state, _, _ = _NDMSG.unpack_from(data, body)
        if family != AF_BRIDGE:
            continue
        attribute = body + _NDMSG.size
        while attribute + _RTATTR.size <= end:
            size, name = _RTATTR.unpack_from(data, attribute)
            if size < _RTATTR.size or attribute + size > end:
                raise RecordError(f"A netlink attribute says it is {size} bytes long, of {end - attribute} there.")
            if name == NDA_LLADDR:
                mac = data[attribute + _RTATTR.size : attribute + size].hex(":")
                yield ForwardingEntry(mac=mac, ifindex=ifindex, state=state, removed=kind == RTM_DELNEIGH)
            attribute += (size + 3) & ~3


@dataclass(frozen=True, kw_only=True)
class Relearned:
    """The guest's MAC was seen at a port that is not the one known before."""

    switch: str
    port: str
    previous: str | None  # None: it was known at none
    mac: str
    state: int
    time_ns: int  # when we were told: the kernel does not stamp netlink messages


class RelearnListener:
    """Listens in the network namespace it is created in. `fileno()` makes it usable in select, poll and epoll."""

    def __init__(self, switch: str, *, mac: str) -> None:
        """Raises MachineError if the kernel refuses the group."""
        self.switch = switch
        self._mac = mac.lower()
        self._port: str | None = None
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
            self._socket.bind((0, 0))
            # First listen, then ask what is known: nothing can come between.
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NEIGH)
            self._dump()
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise MachineError(f"Cannot listen to the forwarding table of {switch}: {error}.") from error

    def _dump(self) -> None:
        request = _NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0)
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(request), RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
        self._socket.send(header + request)
        while True:
            data = self._socket.recv(1 << 18)
            for entry in forwarding_entries(data):
                if entry.mac == self._mac and not entry.removed:
                    self._port = self._port_name(entry.ifindex)
            kind = _NLMSGHDR.unpack_from(data)[1]
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", data, _NLMSGHDR.size)[0]
                raise OSError(code, errno.errorcode.get(code, "netlink error"))
            if kind == NLMSG_DONE or _ends_dump(data):
                return

    def _port_name(self, ifindex: int) -> str:
        """The port's name, asked through our own socket, so that the namespace need not be entered again."""
        request = struct.pack("16si20x", b"", ifindex)  # struct ifreq
        try:
            answer = fcntl.ioctl(self._socket, SIOCGIFNAME, request)
        except OSError:
            return f"ifindex {ifindex}"
        return answer[:16].split(b"\0", 1)[0].decode()

    @property
    def port(self) -> str | None:
        """The port at which the guest is known."""
        return self._port

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[Relearned]:
        """What has been re-learned since the last call; does not block.

        Raises RecordError if the kernel had to throw messages away.
        """
        found: list[Relearned] = []
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise RecordError(f"Switch {self.switch}: forwarding-table messages were lost.") from error
                raise
            time_ns = now_ns()
            for entry in forwarding_entries(data):
                # An entry that was removed, and comes back at the same port, has not moved: the port stays known.
                # Permanent entries are the addresses of the bridge's own ports, not learned ones.
                if entry.mac != self._mac or entry.removed or entry.state & NUD_PERMANENT:
                    continue
                port = self._port_name(entry.ifindex)
                if port != self._port:
                    found.append(
                        Relearned(
                            switch=self.switch,
                            port=port,
                            previous=self._port,
                            mac=entry.mac,
                            state=entry.state,
                            time_ns=time_ns,
                        )
                    )
                    self._port = port

    def close(self) -> None:
        self._socket.close()


def _ends_dump(data: bytes) -> bool:
    """Whether the last message of a datagram is NLMSG_DONE."""
    position, kind = 0, 0
    while position + _NLMSGHDR.size <= len(data):
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, position)
        if length < _NLMSGHDR.size:
            break
        position += (length + 3) & ~3
    return kind == NLMSG_DONE
