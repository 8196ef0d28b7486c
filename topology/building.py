"""Building a fabric: namespaces, veth pairs, bridges, addresses, rates and gates, in that order, each read back."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unnoticed.topology import addresses
from unnoticed.topology.addresses import Address
from unnoticed.topology.bridge import port_state, set_gate, wait_until
from unnoticed.topology.design import design
from unnoticed.topology.host import HostSetup
from unnoticed.topology.interfaces import MIGRATION_INTERFACE
from unnoticed.topology.ipv6 import silence_ipv6
from unnoticed.topology.link import End, make_veths, steer
from unnoticed.topology.links import Links
from unnoticed.topology.namespaces import read_device, run_inside
from unnoticed.topology.network import DEFAULT_PRIORITY, Network
from unnoticed.topology.quietly import Topo
from unnoticed.topology.spec import FabricSpec, Place, SwitchPlace
from unnoticed.topology.sweeper import Sweeper
from unnoticed.topology.switch import BLOCKING, BRIDGE, DISABLED, FORWARDING
from unnoticed.topology.wiring import spans

_TREE_GRACE_S = 10.0
_TREE_POLL_S = 0.05


class Building:
    """One fabric while it is built, and what it then consists of."""

    def __init__(self, spec: FabricSpec, *, topo: Topo | None = None) -> None:
        self.design = design(spec, topo=topo)
        self.network = Network(self.design, spec)
        self.places: dict[str, Place] = {}
        self.migration_places: dict[str, Place] = {}  # of the two hosts, where they have a migration network of its own
        self.switches: dict[str, SwitchPlace] = {}
        self.host_bridges: dict[str, SwitchPlace] = {}
        self.links: Links | None = None  # once the nodes are there
        self.rps_mask = sum(1 << cpu for cpu in os.sched_getaffinity(0))
        self._spec = replace(spec, links=self.design.changes)
        self._sweeper: Sweeper | None = None

    def build(self, marks: Mapping[str, str], folder: Path) -> None:
        """Build it all; its processes carry `marks` in their environment, and may have files in `folder`.

        Raises FabricError.
        """
        network = self.network
        with _marked_environment(marks):
            network.buildFromTopo(self.design.topo)
            network.add_migration_link()
            network.add_guests()
            links = self.links = Links(network, self._spec, kinds=self.design.wiring.kinds(self._spec.roles))
        links.begin(marks)
        for switch in network.switches:
            switch.begin(marks, folder)
        run_inside([(node.pid, silence_ipv6) for node in network.nodes()])
        make_veths(links.veths())
        self._name_places()
        run_inside([(switch.pid, switch.set_up) for switch in network.switches])
        run_inside([(host.pid, self._setup_of(host.name).set_up) for host in network.hosts])
        links.set_up()
        for end in self._ends():
            steer(end.pid, end.interface, mac=end.mac, mask=self.rps_mask)
        if self.design.stp:
            limit_s = self._spec.switching.convergence_ns / 1e9 + _TREE_GRACE_S
            what = "The switches of the fabric did not agree on a spanning tree"
            wait_until(self._tree_stands, what=what, timeout_s=limit_s, poll_s=_TREE_POLL_S)
            self._sweeper = Sweeper([switch.pid for switch in network.switches if switch.kind == "bridge"])
            self._sweeper.start()
        else:
            wait_until(self._is_up, what="The links of the fabric did not come up")
        gates = {network.roles.source: FORWARDING, network.roles.destination: DISABLED}
        run_inside([(network[host].pid, functools.partial(set_gate, gates[host], where=host)) for host in gates])
        if self._spec.ipv6:  # the destination's guest has reported its multicast groups while its gate was open
            for switch in network.switches:
                switch.forget_addresses()

    def release(self) -> None:
        """Leave the nodes alone from now on, and end what is not a node; before all processes are ended.

        May be repeated.
        """
        if self.links is not None:
            self.links.close()
        if self._sweeper is not None:
            self._sweeper.stop()
            self._sweeper = None
        for switch in self.network.switches:
            switch.end()

    def pairs(self) -> list[tuple[str, str]]:
        """Who must reach whom: hosts, guest and control each other; clients the guest and control.

        Not everybody everybody: the kernel has one neighbour table for all namespaces, of 1024 entries unless changed
        (net.ipv4.neigh.default.gc_thresh3), and pairs that never talk would fill it.
        """
        network, roles = self.network, self.network.roles
        served = [roles.control_name, network.bridged[roles.source]]
        servers = [*served, roles.source, roles.destination]  # control first: it may be behind a firewall
        pairs = [(one, other) for number, one in enumerate(servers) for other in servers[number + 1 :]]
        return pairs + [(client, server) for client in self.design.clients for server in served]

    def neighbours(self) -> list[str]:
        """The clients in the guest's segment, and the routers into it."""
        segments = self.design.segments
        return [client for client in self.design.clients if segments.of[client] == 0] + segments.routers_in(0)

    def _ends(self) -> Iterator[End]:
        for pair in self.links.veths() if self.links else ():
            yield from pair

    def _is_up(self) -> bool:
        bridges = self.host_bridges.values()
        return (
            all(read_device(end.pid, end.interface, "operstate") == "up" for end in self._ends())
            and all(port_state(bridge.pid, port) == FORWARDING for bridge in bridges for port in bridge.ports)
            and set(self._port_states().values()) <= {FORWARDING}
        )

    def _port_states(self) -> dict[tuple[str, str], int]:
        """The state of each port of each switch, by their names."""
        return {
            (switch.name, port): state
            for switch in self.network.switches
            for port, state in switch.port_states().items()
        }

    def spares(self) -> list[int]:
        """The numbers of the links that the spanning tree keeps out of use now."""
        states = self._port_states()
        return [
            number
            for number, link in enumerate(self.network.links[: len(self.design.wiring.links)])
            if any(states.get((end.node, end.interface), FORWARDING) != FORWARDING for end in link.ends)
        ]

    def _tree_stands(self) -> bool:
        """Whether the ports that forward make a spanning tree, and nobody speaks of a change any more."""
        states = self._port_states()
        trunks, working = [], []
        for link in self.network.links:
            nodes = tuple(end.node for end in link.ends)
            forwards = [states.get((end.node, end.interface), FORWARDING) == FORWARDING for end in link.ends]
            if set(nodes) <= set(self.switches):
                trunks.append(nodes)
                if all(forwards):
                    working.append(nodes)
            elif not all(forwards):
                return False
        settled = set(states.values()) <= {FORWARDING, BLOCKING}
        return (
            settled
            and spans(tuple(self.switches), working, of=trunks)
            and not any(switch.speaks_of_a_change() for switch in self.network.switches)
        )

    def _name_places(self) -> None:
        network = self.network
        known = {
            name: (BRIDGE if name in network.bridged else network[name].intfNames()[0], address)
            for name, address in network.places.items()
        }
        known |= {router: next(iter(network.router_ports(router).items())) for router in self.design.wiring.routers}
        for name, (interface, address) in known.items():
            self.places[name] = Place(
                name=name,
                pid=network[name].pid,
                interface=interface,
                mac=address.mac,
                ipv4=address.ipv4,
                ipv6=address.ipv6 if self._spec.ipv6 else "",
            )
        for name, address in network.migration_ports.items():
            self.migration_places[name] = replace(
                self.places[name], interface=MIGRATION_INTERFACE, mac=address.mac, ipv4=address.ipv4, ipv6=""
            )
        ports: dict[str, dict[str, str]] = {}
        for one, other in (link.ends for link in network.links):
            if one.interface == MIGRATION_INTERFACE:
                continue
            ports.setdefault(one.node, {})[one.interface] = other.node
            ports.setdefault(other.node, {})[other.interface] = one.node

        def bridge(name: str, **daemon: Any) -> SwitchPlace:
            mapping = MappingProxyType(dict(sorted(ports.get(name, {}).items())))
            return SwitchPlace(name=name, pid=network[name].pid, bridge=BRIDGE, ports=mapping, **daemon)

        self.switches = {
            switch.name: bridge(switch.name, control=switch.control, numbers=switch.numbers)
            for switch in network.switches
        }
        self.host_bridges = {name: bridge(name) for name in network.bridged}

    def _setup_of(self, name: str) -> HostSetup:
        """How a host, guest or router is to be set up."""
        interfaces = self.network[name].intfNames()
        if name in self.design.wiring.routers:
            return self._setup_of_router(name, interfaces)
        place, segments, guests = self.places[name], self.design.segments, set(self.network.bridged.values())
        here = self.network.places[name].segment
        routes = self._routes({there: (router, here) for there, router in segments.next_routers(here).items()})
        neighbours: list[Address] = []
        if name in guests and self._spec.guest_neighbours == "static":
            others = {other: each for other, each in self.network.places.items() if other not in guests}
            neighbours = [each for each in others.values() if each.segment == here]
            neighbours += [self.network.router_address(router, here) for router in segments.routers_in(here)]
        own = {MIGRATION_INTERFACE: port} if (port := self.network.migration_ports.get(name)) else {}
        speaks = here == 0 and name not in (*guests, *self.host_bridges)
        if speaks and self._spec.neighbours.knows_the_guest("hosts"):
            neighbours.append(self.design.guest)
        return HostSetup(
            name=name,
            interfaces=interfaces,
            addresses={place.interface: self.network.places[name], **own},
            routes=routes,
            neighbours=neighbours,
            arp=self._spec.neighbours.sysctls("hosts") if speaks else {},
            ndp=self._spec.neighbours.ndp_sysctls("hosts") if speaks else {},
            ipv6=self._spec.ipv6,
            bridge=self._host_bridge if name in self.host_bridges else None,
            learning=self._spec.switching.learning,
        )

    def _routes(self, next_routers: Mapping[int, tuple[str, int]]) -> dict[str, str]:
        """The next router's address by subnet, from the router by segment and the segment that is shared with it."""
        routes: dict[str, str] = {}
        for there, (router, shared) in next_routers.items():
            address = self.network.router_address(router, shared)
            routes[str(addresses.subnet(there))] = address.ipv4
            if self._spec.ipv6:
                routes[str(addresses.subnet_ipv6(there))] = address.ipv6
        return routes

    @property
    def _host_bridge(self) -> dict[str, int]:
        """The options of the bridges in the two hosts, which have one uplink and the guest, and so no loop."""
        return self._spec.switching.options(stp=False, priority=DEFAULT_PRIORITY)

    def _setup_of_router(self, name: str, interfaces: list[str]) -> HostSetup:
        segments, ports = self.design.segments, self.network.router_ports(name)
        routes = self._routes(segments.routes_of_router(name))
        inner = [interface for interface, address in ports.items() if address.segment != 0]
        knows = self._spec.neighbours.knows_the_guest("routers") and len(inner) < len(ports)
        return HostSetup(
            name=name,
            interfaces=interfaces,
            addresses=ports,
            routes=routes,
            neighbours=[self.design.guest] if knows else [],
            arp=self._spec.neighbours.sysctls("routers"),
            ndp=self._spec.neighbours.ndp_sysctls("routers"),
            ipv6=self._spec.ipv6,
            forwards=True,
            protected=inner if name in self.design.wiring.firewalls else None,
        )


_environment_lock = threading.Lock()


@contextmanager
def _marked_environment(marks: Mapping[str, str]) -> Iterator[None]:
    """Mark the environment while Mininet starts its shells, which inherit it."""
    with _environment_lock:
        before = {name: os.environ.get(name) for name in marks}
        os.environ.update(marks)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
