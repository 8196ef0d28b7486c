"""What is set up inside the namespace of a host, a guest or a router: its interfaces, addresses, routes, rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unnoticed.errors import FabricError
from unnoticed.topology.addresses import PREFIX_LENGTH, PREFIX_LENGTH_IPV6, Address
from unnoticed.topology.bridge import bridge_lines, check_bridge, prepare_bridging
from unnoticed.topology.firewall import TABLE, counted, firewall_differences, firewall_lines
from unnoticed.topology.ipv6 import allow_ipv6
from unnoticed.topology.namespaces import json_documents, run_batch, set_sysctl
from unnoticed.topology.nft import read_table, run_nft
from unnoticed.topology.switch import BRIDGE


@dataclass(frozen=True, kw_only=True)
class HostSetup:
    """One host, guest or router, as it is to be."""

    name: str
    interfaces: Sequence[str]  # the ends of its links
    addresses: Mapping[str, Address]  # by interface
    routes: Mapping[str, str] = field(default_factory=dict)  # the next router's address, by subnet
    ipv6: bool = False  # whether it has the IPv6 addresses too
    neighbours: Sequence[Address] = ()  # known for good
    arp: Mapping[str, str] = field(default_factory=dict)  # sysctls below net/ipv4/conf/all
    ndp: Mapping[str, str] = field(default_factory=dict)  # of each interface with an address, below net/ipv6/conf
    bridge: Mapping[str, int] | None = None  # the options of a bridge over all interfaces without an address
    learning: bool = True  # of the bridge
    forwards: bool = False
    protected: Sequence[str] | None = None  # a firewall's interfaces to what is behind it

    def lines(self) -> list[str]:
        """Lines for `ip -batch` that make it so."""
        lines = ["link set dev lo up"]
        if self.bridge is None:
            lines += [f"link set dev {interface} up" for interface in self.interfaces]
        else:
            mac = self.addresses[BRIDGE].mac
            lines += [f"link set dev {interface} up" for interface in self.interfaces if interface in self.addresses]
            lines += bridge_lines(mac=mac, ports=self._ports, options=self.bridge, learning=self.learning)
        for interface, address in self.addresses.items():
            lines.append(f"address add {address.ipv4}/{PREFIX_LENGTH} broadcast + dev {interface}")
            if self.ipv6 and address.ipv6:
                lines.append(f"address add {address.ipv6}/{PREFIX_LENGTH_IPV6} nodad dev {interface}")
        lines += [f"route add {subnet} via {router}" for subnet, router in self.routes.items()]
        [interface, *_] = self.addresses
        known = [(address, other.mac) for other in self.neighbours for address in self._families(other)]
        return lines + [f"neighbour add {address} lladdr {mac} nud permanent dev {interface}" for address, mac in known]

    def set_up(self) -> None:
        """Make it so, in the namespace of the calling thread, and read it back. Raises FabricError."""
        if self.bridge is not None:
            prepare_bridging()
        if self.ipv6:
            speaking = [interface for interface, address in self.addresses.items() if address.ipv6]
            allow_ipv6([interface for interface in speaking if interface != BRIDGE], forwards=self.forwards)
        if self.forwards:
            set_sysctl("net/ipv4/ip_forward", "1")
            set_sysctl("net/ipv4/conf/all/send_redirects", "0")
        for name, value in self.arp.items():
            set_sysctl(f"net/ipv4/conf/all/{name}", value)
        if self.protected is not None:
            run_nft(firewall_lines(self.protected))
            self._check("firewall", firewall_differences(self.protected, read_table("inet", TABLE)))
        shown = run_batch(["ip", "-d", "-j"], [*self.lines(), "address show", "route show"])
        *_, links, routes = json_documents(shown)
        if self.bridge is not None:
            check_bridge(links, where=self.name, ports=self._ports, options=self.bridge, learning=self.learning)
        if self.ipv6:
            routes += json_documents(run_batch(["ip", "-6", "-j"], ["route show"]))[-1]
        self._check("network", [*self._address_differences(links), *self._route_differences(routes)])
        for name, value in self.ndp.items() if self.ipv6 else ():
            for interface in self.addresses:
                set_sysctl(f"net/ipv6/conf/{interface}/{name}", value)

    @property
    def _ports(self) -> list[str]:
        """The ports of its bridge."""
        return [interface for interface in self.interfaces if interface not in self.addresses]

    def _address_differences(self, links: Sequence[dict[str, Any]]) -> list[str]:
        found = {
            link["ifname"]: (
                link["address"],
                [(each["local"], each["prefixlen"]) for each in link["addr_info"] if each["scope"] != "link"],
            )
            for link in links
        }  # fmt: skip
        lengths = (PREFIX_LENGTH, PREFIX_LENGTH_IPV6)
        asked = {
            name: (each.mac, list(zip(self._families(each), lengths, strict=False)))
            for name, each in self.addresses.items()
        }
        return [
            f"{name} has {found.get(name)} instead of {value}"
            for name, value in asked.items()
            if found.get(name) != value
        ]

    def _route_differences(self, routes: Sequence[dict[str, Any]]) -> list[str]:
        found = {route["dst"]: route["gateway"] for route in routes if "gateway" in route}
        return [] if found == self.routes else [f"the routes are {found} instead of {dict(self.routes)}"]

    def _families(self, address: Address) -> list[str]:
        """Its address of each family that is in use here."""
        return [address.ipv4, address.ipv6] if self.ipv6 and address.ipv6 else [address.ipv4]

    def _check(self, what: str, wrong: Sequence[str]) -> None:
        if wrong:
            raise FabricError(f"The {what} of {self.name} is not what was asked for: {'; '.join(wrong)}.")


def firewall_counters() -> dict[str, int]:
    """What a firewall refused so far, in the calling thread's namespace, by counter."""
    return counted(read_table("inet", TABLE))
