"""The Mininet network of a fabric: a topology of the user's, plus what a migration needs at its two hosts.

`Network` is a Mininet, so whatever works on one (its CLI, its look-ups by name) works on a fabric. It differs in that
nothing is configured by node shells, and in that host-wide settings are left as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unnoticed.topology import addresses, emulator
from unnoticed.topology.addresses import Address
from unnoticed.topology.bridge import GUEST_PORT, BridgeSwitch
from unnoticed.topology.design import Design
from unnoticed.topology.interfaces import MIGRATION_INTERFACE
from unnoticed.topology.link import PlainHost, PlainIntf, VethLink
from unnoticed.topology.open_vswitch import OpenVSwitch
from unnoticed.topology.quietly import Mininet, Node
from unnoticed.topology.roles import GUEST_DESTINATION, GUEST_SOURCE
from unnoticed.topology.spec import FabricSpec
from unnoticed.topology.switch import FabricSwitch
from unnoticed.topology.switching import Kind

GUEST_INTERFACE = "eth0"
DEFAULT_PRIORITY = 32768  # IEEE 802.1D
_SWITCHES: dict[Kind, type[FabricSwitch]] = {"bridge": BridgeSwitch, "ovs": OpenVSwitch}
_LINK_NAMES = ("port1", "port2", "intfName1", "intfName2")  # all that is taken of what a topology says of a link


class Network(Mininet):  # type: ignore[misc]  # mininet has no types
    """Mininet over our own switches, links and hosts, with the guest's two namespaces attached."""

    def __init__(self, design: Design, spec: FabricSpec) -> None:
        self.roles = spec.roles
        self._design, self._spec = design, spec
        self.places: dict[str, Address] = {
            name: own[0] for name, own in design.addresses.items() if name not in design.wiring.routers
        }
        self.migration_ports: dict[str, Address] = {}  # by host, if there is a migration network of its own
        self._ports = 0
        self._emulator: Any = None
        # Mininet.init raises sysctls and limits of the whole machine (fixLimits) and never puts them back.
        initialised, Mininet.inited = Mininet.inited, True
        try:
            super().__init__(
                topo=design.topo, build=False, switch=BridgeSwitch, host=PlainHost, controller=None, link=VethLink,
                intf=PlainIntf, ipBase=str(addresses.SUBNET),
            )  # fmt: skip
        finally:
            Mininet.inited = initialised

    @property
    def bridged(self) -> dict[str, str]:
        """The hosts with a bridge inside: by name, the guest's namespace that is attached to it."""
        return {self.roles.source: GUEST_SOURCE, self.roles.destination: GUEST_DESTINATION}

    def router_ports(self, router: str) -> dict[str, Address]:
        """The addresses of a router, by interface, in order of their segments."""
        by_segment = {address.segment: address for address in self._design.addresses[router]}
        ports: list[tuple[str, Address]] = []
        for index, link in enumerate(self.links[: len(self._design.wiring.links)]):
            for end in link.ends:
                if end.node == router:
                    address = by_segment[self._design.segments.ports[router, index]]
                    ports.append((end.interface, replace(address, mac=end.mac)))
        return dict(sorted(ports, key=lambda port: port[1].segment))

    def router_address(self, router: str, segment: int) -> Address:
        """The address of a router in a segment that it has a link into."""
        return next(each for each in self.router_ports(router).values() if each.segment == segment)

    def add_migration_link(self) -> None:
        """Join source and destination by a link of its own, if they are to migrate over one."""
        if self._design.migration_link is None:
            return
        link = self.addLink(*self._design.migration_link, intfName1=MIGRATION_INTERFACE, intfName2=MIGRATION_INTERFACE)
        for number, end in enumerate(link.ends, start=1):
            self.migration_ports[end.node] = addresses.migration(number, mac=end.mac)

    def add_guests(self) -> None:
        """Attach the guest's two namespaces, with the same addresses, to source and destination."""
        for host, guest in self.bridged.items():
            moves = guest == GUEST_DESTINATION and self._spec.guest_mac == "new"
            self.places[guest] = addresses.GUEST_ELSEWHERE if moves else self._design.guest
            self.addHost(guest)
            self.addLink(guest, host, intfName1=GUEST_INTERFACE, intfName2=GUEST_PORT)

    def add_emulator(self) -> int:
        """Make the emulator's namespace, which is no node of the topology; the pid of the shell that holds it."""
        self._emulator = PlainHost(emulator.NAME, inNamespace=True)
        pid: int = self._emulator.pid
        return pid

    def nodes(self) -> list[Any]:
        """Every node that has a shell: switches, hosts, and the emulator if there is one."""
        return [*self.switches, *self.hosts, *([self._emulator] if self._emulator is not None else [])]

    def addSwitch(self, name: str, cls: Any = None, **params: Any) -> Any:  # noqa: ARG002, N802  # Mininet's
        """Add a switch of ours, whatever class the topology gives it, with a bridge address of its own."""
        mine = {
            "bridge_mac": self.port_mac(),
            "switching": self._spec.switching,
            "guest": self._design.guest,
            "stp": self._design.stp,
            "priority": DEFAULT_PRIORITY if params.get("prio") is None else params["prio"],
        }
        return super().addSwitch(name, cls=_SWITCHES[self._spec.switching.kind], **mine)

    def addHost(self, name: str, cls: Any = None, **params: Any) -> Any:  # noqa: ARG002, N802  # Mininet's
        """Add a host of ours; the fabric gives it its addresses."""
        return super().addHost(name, cls=PlainHost)

    def addLink(self, node1: Any, node2: Any, *args: Any, **params: Any) -> Any:  # noqa: N802  # Mininet's name
        """Add a link of ours, whatever class the topology gives it, with addresses that are the same in every run."""
        mine = {key: params[key] for key in _LINK_NAMES if key in params}
        for key, node in (("addr1", node1), ("addr2", node2)):
            mine[key] = self._mac(node if isinstance(node, str) else node.name)
        return super().addLink(node1, node2, *args, **mine)

    def cleanup_nodes(self) -> None:
        """Let go of the node shells, which must have ended: close their terminals and wait for them."""
        for node in self.nodes():
            descriptors = [stream.fileno() for stream in (node.stdin,) if stream and not stream.closed]
            Node.cleanup(node)
            for descriptor in descriptors:  # or these tables would name a dead node for a number that is used again
                Node.inToNode.pop(descriptor, None)
                Node.outToNode.pop(descriptor, None)

    def _mac(self, node: str) -> str:
        """The address of a node's next interface: its place's own for its first, unless its bridge has that."""
        if node in self.places and node not in self.bridged and not self[node].intfs:
            return self.places[node].mac
        return self.port_mac()

    def port_mac(self) -> str:
        """The address of a port that is no place of its own; another one each time."""
        self._ports += 1
        return addresses.port_mac(self._ports - 1)
