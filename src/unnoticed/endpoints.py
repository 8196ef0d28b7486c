"""Ends of connections: an address and a port, of IPv4 or IPv6, as text and as bytes. Pure.

As bytes every address has 16; one of IPv4 is the IPv6 address that it is mapped to (RFC 4291, section 2.5.5.2).
"""

from __future__ import annotations

import socket

ADDRESS_BYTES = 16
_MAPPED = bytes(10) + b"\xff\xff"


def family_of(address: str) -> socket.AddressFamily:
    """Which sockets an address belongs to."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def pack_address(address: str) -> bytes:
    """An address as 16 bytes. Raises OSError if it is none."""
    if family_of(address) == socket.AF_INET6:
        return socket.inet_pton(socket.AF_INET6, address)
    return _MAPPED + socket.inet_aton(address)


def unpack_address(data: bytes) -> str:
    """The text of an address of 16 bytes: whatever they are, they are one."""
    if data.startswith(_MAPPED):
        return socket.inet_ntoa(data[len(_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, data)


def endpoint(address: str, port: int) -> str:
    """Both as they are written: "10.77.0.100:7000", "[fd77::64]:7000" (RFC 5952, section 6)."""
    return f"[{address}]:{port}" if family_of(address) == socket.AF_INET6 else f"{address}:{port}"
