"""Announcements: the frames that re-teach switches and neighbours where the guest is.

Built by scapy beforehand, by whoever starts the agents; sent from the guest's own vNIC, so that they enter the host's
bridge by the guest's port.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unnoticed.clock import now_ns

NONE = "none"
KINDS = ("garp", "garp-reply", "rarp", "na")  # several are joined by +
_EVERYBODY = "ff:ff:ff:ff:ff:ff"
_ALL_NODES, _ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"  # RFC 4291, section 2.7.1; RFC 2464, section 7


def gratuitous_arp(*, mac: str, ipv4: str) -> bytes:
    """A gratuitous ARP request: broadcast, sender and target are the guest (RFC 826; RFC 5227, section 3)."""
    from scapy.layers.l2 import ARP, Ether  # half a second: not at start-up

    arp = ARP(op="who-has", hwsrc=mac, psrc=ipv4, hwdst="00:00:00:00:00:00", pdst=ipv4)
    return bytes(Ether(src=mac, dst=_EVERYBODY) / arp)


def gratuitous_arp_reply(*, mac: str, ipv4: str) -> bytes:
    """The same as a reply, to everybody, that nobody asked for; RFC 5944, section 4.6, has both hardware addresses."""
    from scapy.layers.l2 import ARP, Ether

    return bytes(Ether(src=mac, dst=_EVERYBODY) / ARP(op="is-at", hwsrc=mac, psrc=ipv4, hwdst=mac, pdst=ipv4))


def reverse_arp(*, mac: str) -> bytes:
    """A RARP request for the guest's own address (RFC 903), as QEMU sends: only switches learn from it."""
    from scapy.layers.l2 import ARP, Ether

    arp = ARP(op=3, hwsrc=mac, psrc="0.0.0.0", hwdst=mac, pdst="0.0.0.0")
    return bytes(Ether(src=mac, dst=_EVERYBODY, type=0x8035) / arp)


def neighbour_advertisement(*, mac: str, ipv6: str) -> bytes:
    """An unsolicited neighbour advertisement: to all nodes, overriding what they know (RFC 4861, 4.4 and 7.2.6)."""
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
    from scapy.layers.l2 import Ether

    advertisement = ICMPv6ND_NA(R=0, S=0, O=1, tgt=ipv6) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    return bytes(Ether(src=mac, dst=_ALL_NODES_MAC) / IPv6(src=ipv6, dst=_ALL_NODES, hlim=255) / advertisement)


def kinds_of(announce: str) -> tuple[str, ...]:
    """The frames that an announcement of this name consists of. Raises ValueError for one that is not known."""
    if announce == NONE:
        return ()
    kinds = tuple(announce.split("+"))
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown announcement {kind!r}")
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"the announcement {announce!r} names a frame twice")
    return kinds


def frames_for(announce: str, *, mac: str, ipv4: str, ipv6: str = "") -> tuple[bytes, ...]:
    """The frames that an announcement of this name sends, in order. Raises ValueError for one that cannot be."""
    frames: list[bytes] = []
    for kind in kinds_of(announce):
        match kind:
            case "garp":
                frames.append(gratuitous_arp(mac=mac, ipv4=ipv4))
            case "garp-reply":
                frames.append(gratuitous_arp_reply(mac=mac, ipv4=ipv4))
            case "rarp":
                frames.append(reverse_arp(mac=mac))
            case "na":
                if not ipv6:
                    raise ValueError("a guest without an IPv6 address cannot be announced by na")
                frames.append(neighbour_advertisement(mac=mac, ipv6=ipv6))
    return tuple(frames)


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What is sent, and when: so long after the gate at the destination opened; `early`: before it opens as well."""

    frames: tuple[bytes, ...]
    after_ns: tuple[int, ...] = (0,)
    early: bool = False

    @property
    def at_once(self) -> tuple[bytes, ...]:
        """The frames to be sent as soon as the gate is open."""
        return self.frames if 0 in self.after_ns else ()

    @property
    def later_ns(self) -> tuple[int, ...]:
        """When else, in order; nothing for an announcement without frames."""
        return tuple(sorted(each for each in self.after_ns if each)) if self.frames else ()

    def packed(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"frames": [frame.hex() for frame in self.frames], "after_ns": list(self.after_ns), "early": self.early}

    @classmethod
    def unpacked(cls, fields: Mapping[str, Any]) -> Announcement:
        """What `packed` gave."""
        return cls(
            frames=tuple(bytes.fromhex(frame) for frame in fields["frames"]),
            after_ns=tuple(fields.get("after_ns", (0,))),
            early=fields.get("early", False),
        )


class Announcer:
    """A packet socket on the guest's vNIC."""

    def __init__(self, interface: str) -> None:
        """Open it in the network namespace of the calling thread.

        Protocol 0: the socket never receives. Binding it to a real protocol would cost some 15 ms here.
        """
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((interface, 0))
        self._forgotten = threading.Event()
        self._repeating: threading.Thread | None = None

    def send(self, frames: tuple[bytes, ...]) -> None:
        """Send them now. Raises OSError."""
        for frame in frames:
            self._socket.send(frame)

    def repeat(self, frames: tuple[bytes, ...], *, at_ns: Sequence[int], sent: Callable[[int], None]) -> None:
        """Send them at these times too (CLOCK_MONOTONIC, ascending), in a thread, which then tells `sent` when it did.

        What is due already goes at once.
        """
        self.forget()
        self._forgotten = threading.Event()
        arguments = (frames, tuple(at_ns), sent, self._forgotten)
        self._repeating = threading.Thread(target=self._repeat, args=arguments, name="announcer", daemon=True)
        self._repeating.start()

    def forget(self) -> None:
        """Send nothing more that was to be repeated: the guest is about to leave."""
        self._forgotten.set()
        if self._repeating is not None:
            self._repeating.join()
            self._repeating = None

    def _repeat(
        self,
        frames: tuple[bytes, ...],
        at_ns: tuple[int, ...],
        sent: Callable[[int], None],
        forgotten: threading.Event,
    ) -> None:
        for time_ns in at_ns:
            if forgotten.wait(max(time_ns - now_ns(), 0) / 1e9):
                return
            with contextlib.suppress(OSError):  # as lost as a frame on the wire
                began_ns = now_ns()
                self.send(frames)
                sent(began_ns)

    def close(self) -> None:
        self.forget()
        self._socket.close()
