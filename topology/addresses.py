"""Addresses of a fabric: which IPv4 and MAC address each place has. Pure; the same in every run.

One subnet, 10.77.0.0/16: source 10.77.0.1, destination 10.77.0.2, control 10.77.0.3, guest 10.77.0.100, clients from
10.77.1.1 on. The MAC address of a place ends in the last two bytes of its IPv4 address (02:77:00:00:xx:xx; 02 marks a
locally administered address, RFC 9542); ports without an address of their own are numbered from 02:77:01:00:00:00.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

SUBNET = IPv4Network("10.77.0.0/16")
PREFIX_LENGTH = SUBNET.prefixlen
CLIENTS_MAXIMUM = 254 * 254


@dataclass(frozen=True, kw_only=True)
class Address:
    """The two addresses of one place, as the tools write them."""

    ipv4: str
    mac: str


def _address(offset: int) -> Address:
    return Address(ipv4=str(SUBNET.network_address + offset), mac=f"02:77:00:00:{offset >> 8:02x}:{offset & 0xFF:02x}")


SOURCE = _address(1)
DESTINATION = _address(2)
CONTROL = _address(3)
GUEST = _address(100)


def client(number: int) -> Address:
    """The address of the `number`-th client, counted from 1. Raises ValueError outside 1 to CLIENTS_MAXIMUM."""
    if not 1 <= number <= CLIENTS_MAXIMUM:
        raise ValueError(f"A fabric has clients 1 to {CLIENTS_MAXIMUM}, not {number}.")
    third, fourth = divmod(number - 1, 254)
    return _address((third + 1 << 8) + fourth + 1)


def port_mac(number: int) -> str:
    """The MAC address of the `number`-th port that is no place of its own (switch ports, uplinks), counted from 0."""
    return f"02:77:01:{number >> 16 & 0xFF:02x}:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}"


def is_in_fabric(address: str) -> bool:
    """Whether an IPv4 address belongs to the fabric's subnet."""
    return IPv4Address(address) in SUBNET
