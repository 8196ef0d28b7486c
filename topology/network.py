"""The Mininet network of a fabric: a topology of the user's, plus what a migration needs at its two hosts.

`Network` is a Mininet, so whatever works on one (its CLI, its look-ups by name) works on a fabric. It differs in that
nothing is configured by node shells, and in that host-wide settings are left as they are.
"""

from __future__ import annotations

from typing import Any

from unnoticed.errors import FabricError
from unnoticed.topology import addresses, emulator
from unnoticed.topology.addresses import Address
from unnoticed.topology.bridge import GUEST_PORT, BridgeSwitch
from unnoticed.topology.link import PlainHost, PlainIntf, VethLink
from unnoticed.topology.quietly import Mininet, Node, Topo
from unnoticed.topology.shapes import Roles

GUEST_INTERFACE = "eth0"
GUEST_SOURCE, GUEST_DESTINATION = "guest-a", "guest-b"  # the guest's own network stack at source and destination


class Network(Mininet):  # type: ignore[misc]  # mininet has no types
    """Mininet over our own switches, links and hosts, with the guest's two namespaces attached."""

    def __init__(self, topo: Topo, roles: Roles) -> None:
        self.roles = roles
        hosts = topo.hosts()
        roles.check(hosts)
        self.places: dict[str, Address] = {roles.source: addresses.SOURCE, roles.destination: addresses.DESTINATION}
        if roles.control is not None:
            self.places[roles.control] = addresses.CONTROL
        self.clients = roles.clients(hosts)
        self.places |= {name: addresses.client(number) for number, name in enumerate(self.clients, start=1)}
        self._ports = 0
        self._emulator: Any = None
        # Mininet.init raises sysctls and limits of the whole machine (fixLimits) and never puts them back.
        initialised, Mininet.inited = Mininet.inited, True
        try:
            super().__init__(
                topo=topo, build=False, switch=BridgeSwitch, host=PlainHost, controller=None, link=VethLink,
                intf=PlainIntf, ipBase=str(addresses.SUBNET),
            )  # fmt: skip
        finally:
            Mininet.inited = initialised

    @property
    def bridged(self) -> dict[str, str]:
        """The hosts with a bridge inside: by name, the guest's namespace that is attached to it."""
        return {self.roles.source: GUEST_SOURCE, self.roles.destination: GUEST_DESTINATION}

    def add_guests(self) -> None:
        """Attach the guest's two namespaces, with the same addresses, to source and destination."""
        for host, guest in self.bridged.items():
            self.places[guest] = addresses.GUEST
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

    def kinds(self) -> dict[str, str]:
        """What each node is, for names of links such as "clients-switches"."""
        kinds = {switch.name: "switches" for switch in self.switches} | dict.fromkeys(self.clients, "clients")
        kinds |= dict.fromkeys((self.roles.source, self.roles.destination), "hosts")
        return kinds | ({self.roles.control: "control"} if self.roles.control is not None else {})

    def addSwitch(self, name: str, cls: Any = None, **params: Any) -> Any:  # noqa: N802  # Mininet's name
        """Add a switch, with a bridge address of its own."""
        params.setdefault("bridge_mac", self.port_mac())
        return super().addSwitch(name, cls=cls, **params)

    def addLink(self, node1: Any, node2: Any, *args: Any, **params: Any) -> Any:  # noqa: N802  # Mininet's name
        """Add a link with addresses that are the same in every run. Raises FabricError if it is not one of ours."""
        for key, node in (("addr1", node1), ("addr2", node2)):
            params.setdefault(key, self._mac(node if isinstance(node, str) else node.name))
        link = super().addLink(node1, node2, *args, **params)
        if not isinstance(link, VethLink):
            raise FabricError(f"The link {link} is a {type(link).__name__}: a fabric makes its links itself.")
        return link

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
