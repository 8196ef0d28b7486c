"""When a switch (a Linux bridge in its own namespace) learned at which port the guest's MAC is, and when a neighbour
(a host or router in its own namespace) learned which MAC the guest has.

Source: rtnetlink(7), include/uapi/linux/neighbour.h, net/bridge/br_fdb.c (fdb_notify), net/core/neighbour.c
(neigh_notify). A bridge announces a forwarding entry that is new, has moved to another port, or was removed, to the
multicast group RTNLGRP_NEIGH, and so does the neighbour table. One listener per namespace, on a socket that stays.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from unnoticed.clock import now_ns
from unnoticed.endpoints import family_of
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
NDA_DST = 1
NDA_LLADDR = 2
NUD_PERMANENT = 0x80

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NDMSG = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type
_ADDRESS_BYTES: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}
_RTATTR = struct.Struct("=HH")  # length, type


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message about a bridge's forwarding table, or about a neighbour table."""

    mac: str  # lower case, with colons
    ifindex: int  # of the port, in the bridge's namespace
    state: int  # NUD_*
    removed: bool
    address: str | None = None  # of a neighbour


def entries(data: bytes, family: int) -> Iterator[Entry]:
    """The entries of a family in a netlink datagram: AF_BRIDGE for forwarding tables, AF_INET and AF_INET6 for
    neighbour tables.

    Other messages are skipped, and entries without a MAC. Raises RecordError if the datagram is malformed.
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
        theirs, ifindex, state, _, _ = _NDMSG.unpack_from(data, body)
        if theirs != family:
            continue
        mac, address = "", None
        attribute = body + _NDMSG.size
        while attribute + _RTATTR.size <= end:
            size, name = _RTATTR.unpack_from(data, attribute)
            if size < _RTATTR.size or attribute + size > end:
                raise RecordError(f"A netlink attribute says it is {size} bytes long, of {end - attribute} there.")
            value = data[attribute + _RTATTR.size : attribute + size]
            if name == NDA_LLADDR:
                mac = value.hex(":")
            elif name == NDA_DST and len(value) == _ADDRESS_BYTES.get(family):
                address = socket.inet_ntop(family, value)
            attribute += (size + 3) & ~3
        if mac:
            yield Entry(mac=mac, ifindex=ifindex, state=state, removed=kind == RTM_DELNEIGH, address=address)


@dataclass(frozen=True, kw_only=True)
class Relearned:
    """The guest's MAC was seen at a port that is not the one known before; or a neighbour learned another MAC."""

    switch: str  # or the neighbour
    port: str  # of a switch; what a neighbour learned is the MAC
    previous: str | None  # None: it was known at none
    mac: str
    state: int
    time_ns: int  # when we were told: the kernel does not stamp netlink messages


class RelearnListener:
    """Listens in the network namespace it is created in. `fileno()` makes it usable in select, poll and epoll.

    For a switch: `macs` are those of the guest, wherever it is.
    """

    family: int = AF_BRIDGE

    def __init__(self, switch: str, *, macs: Iterable[str]) -> None:
        """Raises MachineError if the kernel refuses the group."""
        self.switch = switch
        self._macs = {mac.lower() for mac in macs}
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
            raise MachineError(f"Cannot listen to the tables of {switch}: {error}.") from error

    def place(self, entry: Entry) -> str | None:
        """Where an entry says that the guest is; None if it is of another, or was not learned."""
        # Permanent entries are the addresses of the bridge's own ports, not learned ones.
        return None if entry.mac not in self._macs or entry.state & NUD_PERMANENT else self._port_name(entry.ifindex)

    def _dump(self) -> None:
        request = _NDMSG.pack(self.family, 0, 0, 0, 0)
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(request), RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
        self._socket.send(header + request)
        while True:
            data = self._socket.recv(1 << 18)
            for entry in entries(data, self.family):
                if not entry.removed:
                    self._port = self.place(entry) or self._port
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
                    raise RecordError(f"{self.switch}: messages about its tables were lost.") from error
                raise
            time_ns = now_ns()
            for entry in entries(data, self.family):
                # An entry that was removed, and comes back at the same port, has not moved: the port stays known.
                port = None if entry.removed else self.place(entry)
                if port is not None and port != self._port:
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


class NeighbourListener(RelearnListener):
    """The same for a host or router, and the MAC that it takes the guest to have; `address` is the guest's."""

    def __init__(self, neighbour: str, *, address: str) -> None:
        """Raises MachineError if the kernel refuses the group."""
        self.family = family_of(address)
        self._address = address
        super().__init__(neighbour, macs=())

    def place(self, entry: Entry) -> str | None:
        """The MAC that an entry gives the guest; None if it is another's."""
        return entry.mac if entry.address == self._address else None


def _ends_dump(data: bytes) -> bool:
    """Whether the last message of a datagram is NLMSG_DONE."""
    position, kind = 0, 0
    while position + _NLMSGHDR.size <= len(data):
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, position)
        if length < _NLMSGHDR.size:
            break
        position += (length + 3) & ~3
    return kind == NLMSG_DONE
