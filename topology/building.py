"""Building a fabric: namespaces, veth pairs, bridges, addresses, rates and gates, in that order, each read back."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from unnoticed.errors import FabricError, PlanError
from unnoticed.topology.addresses import PREFIX_LENGTH
from unnoticed.topology.bridge import (
    BLOCKING,
    BRIDGE,
    DISABLED,
    FORWARDING,
    bridge_lines,
    check_bridge,
    has_detected_a_change,
    port_state,
    prepare_bridging,
    set_gate,
    topology_changes,
    wait_until,
)
from unnoticed.topology.direction import directions
from unnoticed.topology.link import End, make_veths, steer
from unnoticed.topology.links import Links
from unnoticed.topology.namespaces import json_documents, read_device, run_batch, run_inside, set_sysctl
from unnoticed.topology.network import DEFAULT_PRIORITY, Network
from unnoticed.topology.quietly import Topo
from unnoticed.topology.requirements import fit, wants_tree
from unnoticed.topology.shapes import make_topo
from unnoticed.topology.spec import FabricSpec, Place, SwitchPlace
from unnoticed.topology.sweeper import Sweeper
from unnoticed.topology.switching import Switching
from unnoticed.topology.wiring import Wiring, spans

_TREE_GRACE_S = 10.0
_TREE_POLL_S = 0.05
_HOST_BRIDGE = Switching().options(stp=False, priority=DEFAULT_PRIORITY)  # one uplink, and the guest: no loop


def design(spec: FabricSpec, *, topo: Topo | None = None) -> tuple[Topo, Wiring]:
    """The topology that is asked for, seen to be one that a fabric can be made of. Raises PlanError."""
    name = f"the topology {spec.shape}" if topo is None else type(topo).__name__
    topo = topo or make_topo(spec.shape, clients=spec.clients or 1)
    wiring = fit(topo, spec.roles, topology=name)
    clients = len(spec.roles.clients(wiring.hosts))
    if spec.clients is not None and spec.clients > clients:
        raise PlanError(f"clients.count: {name} has {clients} hosts that can be clients, fewer than {spec.clients}.")
    has_tree(spec, topo, wiring)
    directions(wiring.links, base=spec.direction, changes=spec.links, kinds=wiring.kinds(spec.roles))
    return topo, wiring


def has_tree(spec: FabricSpec, topo: Topo, wiring: Wiring) -> bool:
    """Whether the switches are to run a spanning tree. Raises PlanError where a loop would have none."""
    asked = spec.switching.stp
    if asked is False and wiring.loop:
        way = " - ".join((*wiring.loop, wiring.loop[0]))
        raise PlanError(
            f"fabric.switch.stp: without a spanning tree a broadcast would go round and round over {way}; leave it out."
        )
    return bool(wiring.loop) or wants_tree(topo) if asked is None else asked


class Building:
    """One fabric while it is built, and what it then consists of."""

    def __init__(self, spec: FabricSpec, *, topo: Topo | None = None) -> None:
        self.topo, self.wiring = design(spec, topo=topo)
        self.has_tree = has_tree(spec, self.topo, self.wiring)
        self.network = Network(self.topo, spec.roles, switching=spec.switching, stp=self.has_tree)
        self.clients = self.network.clients[: spec.clients]
        self.places: dict[str, Place] = {}
        self.switches: dict[str, SwitchPlace] = {}
        self.host_bridges: dict[str, SwitchPlace] = {}
        self.links: Links | None = None  # once the nodes are there
        self.rps_mask = sum(1 << cpu for cpu in os.sched_getaffinity(0))
        self._spec = spec
        self._sweeper: Sweeper | None = None

    def build(self, marks: Mapping[str, str]) -> None:
        """Build it all; the node shells carry `marks` in their environment. Raises FabricError."""
        network = self.network
        with _marked_environment(marks):
            network.buildFromTopo(self.topo)
            network.add_guests()
            links = self.links = Links(network, self._spec, kinds=self.wiring.kinds(self._spec.roles))
        links.begin(marks)
        run_inside([(node.pid, _silence) for node in network.nodes()])
        make_veths(links.veths())
        self._name_places()
        run_inside([(switch.pid, switch.set_up) for switch in network.switches])
        run_inside([(host.pid, functools.partial(self._set_up_host, host.name)) for host in network.hosts])
        links.set_up()
        for end in self._ends():
            steer(end.pid, end.interface, mac=end.mac, mask=self.rps_mask)
        if self.has_tree:
            limit_s = self._spec.switching.convergence_ns / 1e9 + _TREE_GRACE_S
            what = "The switches of the fabric did not agree on a spanning tree"
            wait_until(self._tree_stands, what=what, timeout_s=limit_s, poll_s=_TREE_POLL_S)
            self._sweeper = Sweeper([switch.pid for switch in self.switches.values()])
            self._sweeper.start()
        else:
            wait_until(self._is_up, what="The links of the fabric did not come up")
        gates = {network.roles.source: FORWARDING, network.roles.destination: DISABLED}
        run_inside([(network[host].pid, functools.partial(set_gate, gates[host], where=host)) for host in gates])

    def release(self) -> None:
        """Leave the nodes alone from now on, and end the relays; before all processes are ended. May be repeated."""
        if self.links is not None:
            self.links.close()
        if self._sweeper is not None:
            self._sweeper.stop()
            self._sweeper = None

    def pairs(self) -> list[tuple[str, str]]:
        """Who must reach whom: hosts, guest and control each other; clients the guest and control.

        Not everybody everybody: the kernel has one neighbour table for all namespaces, of 1024 entries unless changed
        (net.ipv4.neigh.default.gc_thresh3), and pairs that never talk would fill it.
        """
        network, roles = self.network, self.network.roles
        served = [network.bridged[roles.source], roles.control_name]
        servers = [*served, roles.source, roles.destination]
        pairs = [(one, other) for number, one in enumerate(servers) for other in servers[number + 1 :]]
        return pairs + [(client, server) for client in self.clients for server in served]

    def _ends(self) -> Iterator[End]:
        for pair in self.links.veths() if self.links else ():
            yield from pair

    def _is_up(self) -> bool:
        bridges = (*self.switches.values(), *self.host_bridges.values())
        return all(read_device(end.pid, end.interface, "operstate") == "up" for end in self._ends()) and all(
            port_state(bridge.pid, port) == FORWARDING for bridge in bridges for port in bridge.ports
        )

    def _tree_stands(self) -> bool:
        """Whether the ports that forward make a spanning tree, and nobody speaks of a change any more."""
        states = {
            (switch.name, port): port_state(switch.pid, port)
            for switch in self.switches.values()
            for port in switch.ports
        }
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
            and not any(
                topology_changes(switch.pid) or has_detected_a_change(switch.pid) for switch in self.switches.values()
            )
        )

    def _name_places(self) -> None:
        network = self.network
        for name, address in network.places.items():
            interface = BRIDGE if name in network.bridged else network[name].intfNames()[0]
            self.places[name] = Place(
                name=name, pid=network[name].pid, interface=interface, mac=address.mac, ipv4=address.ipv4
            )
        ports: dict[str, dict[str, str]] = {}
        for one, other in (link.ends for link in network.links):
            ports.setdefault(one.node, {})[one.interface] = other.node
            ports.setdefault(other.node, {})[other.interface] = one.node

        def bridge(name: str) -> SwitchPlace:
            mapping = MappingProxyType(dict(sorted(ports.get(name, {}).items())))
            return SwitchPlace(name=name, pid=network[name].pid, bridge=BRIDGE, ports=mapping)

        self.switches = {switch.name: bridge(switch.name) for switch in network.switches}
        self.host_bridges = {name: bridge(name) for name in network.bridged}

    def _set_up_host(self, name: str) -> None:
        """Bring a host's interfaces up and give it its address; inside its namespace."""
        place, interfaces = self.places[name], self.network[name].intfNames()
        lines = ["link set dev lo up"]
        if name in self.host_bridges:
            prepare_bridging()
            lines += bridge_lines(mac=place.mac, ports=interfaces, options=_HOST_BRIDGE)
        else:
            lines += [f"link set dev {interface} up" for interface in interfaces]
        lines.append(f"address add {place.ipv4}/{PREFIX_LENGTH} broadcast + dev {place.interface}")
        guests = set(self.network.bridged.values())
        if name in guests and self._spec.guest_neighbours == "static":
            lines += [
                f"neighbour add {other.ipv4} lladdr {other.mac} nud permanent dev {place.interface}"
                for other in self.places.values()
                if other.name not in guests
            ]
        links = json_documents(run_batch(["ip", "-d", "-j"], [*lines, "address show"]))[-1]
        if name in self.host_bridges:
            check_bridge(links, where=name, ports=interfaces, options=_HOST_BRIDGE)
        found = [
            (link["address"], address["local"], address["prefixlen"])
            for link in links
            if link["ifname"] == place.interface
            for address in link["addr_info"]
        ]
        if found != [(place.mac, place.ipv4, PREFIX_LENGTH)]:
            raise FabricError(f"{name} should have {place.mac} and {place.ipv4}/{PREFIX_LENGTH}, but has {found}.")


def _silence() -> None:
    """No IPv6 on what is to come, so that no kernel sends what nobody asked for (MLD reports, router solicitations)."""
    for which in ("all", "default"):
        set_sysctl(f"net/ipv6/conf/{which}/disable_ipv6", "1", optional=True)


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
