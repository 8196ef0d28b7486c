"""Addresses of a fabric: which IPv4, IPv6 and MAC address each place has. Pure; the same in every run.

The guest's segment is 10.77.0.0/16: source 10.77.0.1, destination 10.77.0.2, control 10.77.0.3, guest 10.77.0.100,
clients from 10.77.1.1 on, routers from 10.77.255.1 on. Segments beyond routers are 10.78.0.0/16, 10.79.0.0/16 and so
on; whoever is there has the same last two bytes there. The IPv6 address of a place has the same two bytes, in fd77::/64
or, beyond routers, in fd77:0:0:1::/64 and so on (unique local addresses, RFC 4193). The MAC address of a place ends in
the number of its segment and the last two bytes of its addresses (02:77:00:ss:xx:xx; 02 marks a locally administered
address, RFC 9542); ports without an address of their own are numbered from 02:77:01:00:00:00.
A migration network of its own is 10.76.0.0/16, without IPv6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

SUBNET = IPv4Network("10.77.0.0/16")
PREFIX_LENGTH = SUBNET.prefixlen
SUBNET_IPV6 = IPv6Network("fd77::/64")
PREFIX_LENGTH_IPV6 = SUBNET_IPV6.prefixlen
CLIENTS_MAXIMUM = 254 * 254
SEGMENTS_MAXIMUM = 100
ROUTERS_MAXIMUM = 254


@dataclass(frozen=True, kw_only=True)
class Address:
    """The addresses of one place, as the tools write them, and the segment of the network that it is in."""

    ipv4: str
    mac: str
    segment: int = 0

    @property
    def ipv6(self) -> str:
        """The IPv6 address; "" in the migration network, which has none."""
        if IPv4Address(self.ipv4) not in subnet(self.segment):
            return ""
        offset = int(IPv4Address(self.ipv4)) & 0xFFFF
        return str(subnet_ipv6(self.segment).network_address + offset)


def subnet(segment: int) -> IPv4Network:
    """The subnet of a segment. Raises ValueError outside 0 to SEGMENTS_MAXIMUM - 1."""
    if not 0 <= segment < SEGMENTS_MAXIMUM:
        raise ValueError(f"A fabric has segments 0 to {SEGMENTS_MAXIMUM - 1}, not {segment}.")
    return IPv4Network((int(SUBNET.network_address) + (segment << 16), PREFIX_LENGTH))


def subnet_ipv6(segment: int) -> IPv6Network:
    """The IPv6 subnet of a segment, which is one of `subnet`'s."""
    first = int(SUBNET_IPV6.network_address) + (segment << (128 - PREFIX_LENGTH_IPV6))
    return IPv6Network((first, PREFIX_LENGTH_IPV6))


def _address(offset: int, segment: int = 0) -> Address:
    mac = f"02:77:00:{segment:02x}:{offset >> 8:02x}:{offset & 0xFF:02x}"
    return Address(ipv4=str(subnet(segment).network_address + offset), mac=mac, segment=segment)


SOURCE = _address(1)
DESTINATION = _address(2)
GUEST = _address(100)
MIGRATION_NETWORK = IPv4Network("10.76.0.0/16")
GUEST_ELSEWHERE = replace(GUEST, mac=_address(101).mac)  # at the destination, where the guest does not keep its MAC


def control(segment: int = 0) -> Address:
    """The address of the control server."""
    return _address(3, segment)


def client(number: int, segment: int = 0) -> Address:
    """The address of the `number`-th client, counted from 1. Raises ValueError outside 1 to CLIENTS_MAXIMUM."""
    if not 1 <= number <= CLIENTS_MAXIMUM:
        raise ValueError(f"A fabric has clients 1 to {CLIENTS_MAXIMUM}, not {number}.")
    third, fourth = divmod(number - 1, 254)
    return _address((third + 1 << 8) + fourth + 1, segment)


def router(number: int, segment: int) -> Address:
    """The address of the `number`-th router in a segment, counted from 1. Raises ValueError outside 1 to 254."""
    if not 1 <= number <= ROUTERS_MAXIMUM:
        raise ValueError(f"A fabric has routers 1 to {ROUTERS_MAXIMUM}, not {number}.")
    return _address((255 << 8) + number, segment)


def migration(number: int, *, mac: str) -> Address:
    """The address in the migration network of the source (1) or the destination (2), at an interface that has a MAC."""
    return Address(ipv4=str(MIGRATION_NETWORK.network_address + number), mac=mac)


def port_mac(number: int) -> str:
    """The MAC address of the `number`-th port that is no place of its own (switch ports, uplinks), counted from 0."""
    return f"02:77:01:{number >> 16 & 0xFF:02x}:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}"
