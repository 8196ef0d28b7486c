"""Building a fabric: namespaces, veth pairs, bridges, addresses, rates and gates, in that order, each read back."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from unnoticed.errors import FabricError, PlanError
from unnoticed.topology import emulator
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
from unnoticed.topology.direction import Direction, directions
from unnoticed.topology.emulator import Emulator, LinkWay, Passage
from unnoticed.topology.link import End, make_veths, send_single_frames, shape, steer
from unnoticed.topology.namespaces import json_documents, read_device, run_batch, run_inside, set_sysctl
from unnoticed.topology.network import DEFAULT_PRIORITY, Network
from unnoticed.topology.offloads import compute_checksums
from unnoticed.topology.quietly import Topo
from unnoticed.topology.requirements import fit, wants_tree
from unnoticed.topology.shapes import make_topo
from unnoticed.topology.shaping import Shaping
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
    """One fabric while it is built, and what it then consists of.

    `links` has, for each link of the network, its two ends with what was read back of their shaping.
    """

    def __init__(self, spec: FabricSpec, *, topo: Topo | None = None) -> None:
        self.topo, self.wiring = design(spec, topo=topo)
        self.has_tree = has_tree(spec, self.topo, self.wiring)
        self.network = Network(self.topo, spec.roles, switching=spec.switching, stp=self.has_tree)
        self.clients = self.network.clients[: spec.clients]
        self.places: dict[str, Place] = {}
        self.switches: dict[str, SwitchPlace] = {}
        self.host_bridges: dict[str, SwitchPlace] = {}
        self.links: list[dict[str, Any]] = []
        self.emulator: Emulator | None = None  # what links that do more than hold a rate run through
        self._asked_links: list[tuple[End, End]] = []
        self._asked: dict[tuple[str, str], Direction] = {}  # by node and interface of the sending end
        self._detours: dict[tuple[End, End], tuple[End, End]] = {}
        self.rps_mask = sum(1 << cpu for cpu in os.sched_getaffinity(0))
        self._spec = spec
        self._sweeper: Sweeper | None = None

    def build(self, marks: Mapping[str, str]) -> None:
        """Build it all; the node shells carry `marks` in their environment. Raises FabricError."""
        network = self.network
        with _marked_environment(marks):
            network.buildFromTopo(self.topo)
            network.add_guests()
            self._plan_links()
        if self.emulator is not None:
            self.emulator.begin(environment=marks)
        run_inside([(node.pid, _silence) for node in network.nodes()])
        make_veths(self._veths())
        self._name_places()
        run_inside([(switch.pid, switch.set_up) for switch in network.switches])
        run_inside([(host.pid, functools.partial(self._set_up_host, host.name)) for host in network.hosts])
        self._shape()
        self._emulate()
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
        """Leave the nodes alone from now on; before their processes are ended. May be repeated."""
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

    def ways(self) -> list[LinkWay]:
        """Each direction of each link of the topology, in order; a fabric's own guests' links are none."""
        by_ports = {
            (passage.inlet, passage.outlet): self.emulator.means(passage)
            for passage in (self.emulator.passages if self.emulator else ())
            if self.emulator
        }
        ways = []
        for ends in self._asked_links:
            through = [port.interface for port in self._detours.get(ends, ())]
            for (sender, receiver), passage in zip((ends, ends[::-1]), (through, through[::-1]), strict=True):
                asked = self._asked[sender.node, sender.interface]
                words = ["HTB"] if asked.rate_bit_per_s is not None else []
                words += [by_ports[passage[0], passage[1]]] if passage else []
                ways.append(LinkWay(sender=sender, receiver=receiver, asked=asked, means=", ".join(words) or "veth"))
        return ways

    def close(self) -> None:
        """End what is no process of the fabric's own accord: the emulator's relay."""
        if self.emulator is not None:
            self.emulator.close()

    def _ends(self) -> Iterator[End]:
        for pair in self._veths():
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

    def _plan_links(self) -> None:
        """Find what each direction of each link is asked to be, and which links run through the emulator.

        The guest's own links stand for no cable: nothing is asked of them.
        """
        network, guests = self.network, set(self.network.bridged.values())
        self._asked_links = [link.ends for link in network.links if not guests & {end.node for end in link.ends}]
        pairs = [(one.node, other.node) for one, other in self._asked_links]
        asked = directions(
            pairs, base=self._spec.direction, changes=self._spec.links, kinds=self.wiring.kinds(self._spec.roles)
        )
        for ends, both in zip(self._asked_links, asked, strict=True):
            self._asked |= {(end.node, end.interface): direction for end, direction in zip(ends, both, strict=True)}
        impaired = [
            (ends, both)
            for ends, both in zip(self._asked_links, asked, strict=True)
            if any(each.is_impaired for each in both)
        ]
        if not impaired:
            return
        pid, passages = network.add_emulator(), []
        for number, ((one, other), (there, back)) in enumerate(impaired):
            macs = (network.port_mac(), network.port_mac())
            here, yonder = emulator.ports(number, pid=pid, macs=macs)
            self._detours[one, other] = (here, yonder)
            for sender, receiver, inlet, outlet, direction in (
                (one, other, here, yonder, there), (other, one, yonder, here, back)
            ):  # fmt: skip
                passages.append(
                    Passage(
                        sender=sender.node, receiver=receiver.node,
                        inlet=inlet.interface, outlet=outlet.interface, direction=direction,
                    )
                )  # fmt: skip
        self.emulator = Emulator(pid, passages)

    def _veths(self) -> Iterator[tuple[End, End]]:
        """The veth pairs that the links are made of."""
        for link in self.network.links:
            one, other = link.ends
            if (one, other) in self._detours:
                here, yonder = self._detours[one, other]
                yield one, here
                yield other, yonder
            else:
                yield one, other

    def _emulate(self) -> None:
        """Make the passages through the emulator, and let nobody send anything but single frames."""
        if self.emulator is None:
            return
        relayed = self.emulator.relayed_ports
        outer: dict[tuple[str, int], list[str]] = {}
        for ends, detour in self._detours.items():
            for end, port in zip(ends, detour, strict=True):
                if port.interface in relayed:
                    outer.setdefault((end.node, end.pid), []).append(end.interface)
        run_inside(
            [(pid, functools.partial(compute_checksums, names, where=node)) for (node, pid), names in outer.items()]
        )
        self.emulator.set_up()
        devices: dict[tuple[str, int], list[str]] = {}
        for end in (end for link in self.network.links for end in link.ends):
            devices.setdefault((end.node, end.pid), []).append(end.interface)
        for bridge in self.host_bridges.values():
            devices[bridge.name, bridge.pid].append(bridge.bridge)
        run_inside(
            [(pid, functools.partial(send_single_frames, names, where=node)) for (node, pid), names in devices.items()]
        )

    def _shape(self) -> None:
        """Put the asked rates on both ends of every link of the topology; the guest's own links have none."""
        shapings: dict[tuple[str, int], dict[str, Shaping]] = {}
        for end in (end for ends in self._asked_links for end in ends):
            shaping = self._asked[end.node, end.interface].shaping
            if shaping is not None:
                shapings.setdefault((end.node, end.pid), {})[end.interface] = shaping
        jobs = [(pid, functools.partial(shape, asked, where=node)) for (node, pid), asked in shapings.items()]
        read: dict[tuple[str, str], dict[str, int]] = {}
        for (node, _), readings in zip(shapings, run_inside(jobs), strict=True):
            read |= {(node, device): asdict(reading) for device, reading in readings.items()}
        self.links = []
        for link in self.network.links:
            asked = [self._asked.get((end.node, end.interface)) for end in link.ends]
            self.links.append({
                "asked": [asdict(each) for each in asked if each is not None] or None,  # by the end that sends
                "ends": [{**asdict(end), "read": read.get((end.node, end.interface))} for end in link.ends],
                "through": [asdict(end) for end in self._detours.get(link.ends, ())],
            })  # fmt: skip


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
