"""Announcements: the frames that re-teach switches and neighbours where the guest is.

Built by scapy beforehand, by whoever starts the agents; sent from the guest's own vNIC, so that they enter the host's
bridge by the guest's port.
"""

from __future__ import annotations

import socket


def gratuitous_arp(*, mac: str, ipv4: str) -> bytes:
    """A gratuitous ARP request: broadcast, sender and target are the guest (RFC 826; RFC 5227, section 3)."""
    from scapy.layers.l2 import ARP, Ether  # half a second: not at start-up

    frame = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op="who-has", hwsrc=mac, psrc=ipv4, hwdst="00:00:00:00:00:00", pdst=ipv4
    )
    return bytes(frame)


def frames_for(announce: str, *, mac: str, ipv4: str) -> tuple[bytes, ...]:
    """The frames that an announcement of this name sends, in order."""
    match announce:
        case "none":
            return ()
        case "garp":
            return (gratuitous_arp(mac=mac, ipv4=ipv4),)
    raise ValueError(f"unknown announcement {announce!r}")


class Announcer:
    """A packet socket on the guest's vNIC."""

    def __init__(self, interface: str) -> None:
        """Open it in the network namespace of the calling thread.

        Protocol 0: the socket never receives. Binding it to a real protocol would cost some 15 ms here.
        """
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((interface, 0))

    def send(self, frames: tuple[bytes, ...]) -> None:
        for frame in frames:
            self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()
