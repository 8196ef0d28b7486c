"""The fabric: a network of namespaces that is up, checked, and gone without a trace when it is stopped."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Literal

from unnoticed.errors import FabricError, MachineError, PlanError
from unnoticed.topology.bridge import (
    BRIDGE, DISABLED, FORWARDING, GUEST_PORT, bridge_lines, check_bridge, port_state, prepare_bridging, set_gate, wait_until,
)  # fmt: skip
from unnoticed.topology.namespaces import device_folder, json_documents, run_batch, run_inside, set_sysctl
from unnoticed.topology.processes import end_processes, marked_processes
from unnoticed.topology.runs import FABRIC_MARK, RUN_MARK, RUNNER_MARK, Runner, new_id
from unnoticed.topology.shaping import Shaping

_MNEXEC_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class FabricSpec:
    """What a fabric is asked to be. Raises PlanError where a value cannot be."""

    shape: str = "tree"
    clients: int = 1
    rate_bit_per_s: int | None = 1_000_000_000  # of each direction of each link, in Ethernet frames; None: unshaped
    queue_ns: int = 10_000_000  # length of each link's queue, as time at its rate; not used when unshaped
    # The guest's neighbour table is part of a real guest's RAM, so it is known at the destination already: "static" puts
    # every place into both guest namespaces. "dynamic" lets the guest's kernel ask, which re-teaches switches unasked.
    guest_neighbours: Literal["static", "dynamic"] = "static"

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise PlanError(f"A fabric needs at least one client, not {self.clients}.")
        _ = self.shaping

    @property
    def shaping(self) -> Shaping | None:
        """What is put on every end of every link between the fabric's nodes."""
        if self.rate_bit_per_s is None:
            return None
        return Shaping(rate_bit_per_s=self.rate_bit_per_s, queue_ns=self.queue_ns)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A network namespace in which processes can be started, by the pid of the shell that holds it."""

    name: str
    pid: int
    interface: str  # the one with the addresses
    mac: str
    ipv4: str


@dataclass(frozen=True, kw_only=True)
class SwitchPlace:
    """A namespace with a bridge in it, and what is at the other end of each of its ports."""

    name: str
    pid: int
    bridge: str
    ports: Mapping[str, str] = field(default_factory=dict)


@functools.cache
def check_machine() -> None:
    """Raise MachineError unless fabrics can be made here.

    A mnexec that fails would make Mininet wait for its node's shell for ever, so it is tried first.
    """
    if os.geteuid() != 0:
        raise MachineError("Making network namespaces needs root: run it again as root.")
    for command, package in (("mnexec", "mininet"), ("ip", "iproute2"), ("tc", "iproute2"), ("bash", "bash")):
        if shutil.which(command) is None:
            raise MachineError(f"There is no {command} on this machine: install Debian's package {package}.")
    try:
        done = subprocess.run(
            ["mnexec", "-n", "true"], capture_output=True, text=True, timeout=_MNEXEC_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"mnexec did not make a namespace within {_MNEXEC_TIMEOUT_S:g} s.") from error
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        raise MachineError(
            f"mnexec cannot make a network namespace here ({said}): a container needs to be privileged for it."
        )


class Fabric:
    """A network of one shape, from `start` to `stop`; a context manager.

    Every process in it carries the run's id (`runs`), so that `clean` can remove what is left if this process is
    killed. `topo` and `roles` replace the stock shape by any Mininet topology with two hosts named.
    """

    def __init__(self, spec: FabricSpec, *, run_id: str, topo: Any = None, roles: Any = None) -> None:
        self.spec = spec
        self.run_id = run_id
        self.id = new_id()
        self._topo, self._roles = topo, roles
        self._network: Any = None
        self._places: dict[str, Place] = {}
        self._switches: dict[str, SwitchPlace] = {}
        self._host_bridges: dict[str, SwitchPlace] = {}
        self._links: list[dict[str, Any]] = []
        self._rps_mask = 0
        self.start_s = 0.0

    @property
    def places(self) -> Mapping[str, Place]:
        """Every place by name: hosts, guests, control, clients."""
        return MappingProxyType(self._places)

    @property
    def switches(self) -> Mapping[str, SwitchPlace]:
        """The switches of the topology by name."""
        return MappingProxyType(self._switches)

    @property
    def host_bridges(self) -> Mapping[str, SwitchPlace]:
        """The bridges inside the two hosts, by the host's name."""
        return MappingProxyType(self._host_bridges)

    @property
    def clients(self) -> tuple[str, ...]:
        """The names of the clients, in natural order."""
        return tuple(self._network.clients)

    def start(self) -> None:
        """Build the network, check it, and see that everybody reaches everybody.

        Raises MachineError, FabricError or PlanError; whatever it raises, nothing is left.
        """
        check_machine()
        began = time.monotonic()
        try:
            self._build()
            self._connect()
            self.check_reachability()
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - began

    def stop(self) -> None:
        """End every process of the fabric; its namespaces go with them. May be repeated. Raises FabricError if some stay."""
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while processes := [each for each in marked_processes(FABRIC_MARK) if each.marks[FABRIC_MARK] == self.id]:
            if time.monotonic() > deadline:
                names = ", ".join(f"{each.name} ({each.pid})" for each in processes)
                raise FabricError(f"Processes of the fabric do not end: {names}.")
            end_processes(processes)
        if self._network is not None:
            self._network.cleanup_nodes()
            self._network = None
        self._places, self._switches, self._host_bridges = {}, {}, {}

    def __enter__(self) -> Fabric:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def popen(self, place: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `argv` in the namespaces of a place or switch, with subprocess.Popen's options; no shell is involved.

        The process is `argv` itself (mnexec replaces itself by it), and it carries the run's marks even if `env` is given.
        """
        pid = self._pid(place)
        environment = {**(options.pop("env", None) or os.environ), **self._marks()}
        return subprocess.Popen(["mnexec", "-a", str(pid), *argv], env=environment, **options)

    def gate(self, host: str) -> int:
        """The state of the gate at source or destination: 3 forwarding, 0 disabled."""
        return port_state(self._pid(host), GUEST_PORT)

    def check_reachability(self) -> float:
        """See that hosts, guest, control and clients reach one another. Returns seconds. Raises FabricError.

        Clients are not tried with each other, since they never talk.
        """
        from unnoticed.topology.reachability import check_reachability

        network = self._network
        guest = network.bridged[network.roles.source]
        servers = [guest, *(name for name in network.places if name not in (*network.clients, *network.bridged.values()))]
        pairs = [(one, other) for number, one in enumerate(servers) for other in servers[number + 1 :]]
        pairs += [(client, server) for client in network.clients for server in servers]
        return check_reachability(
            {name: place.pid for name, place in self._places.items()},
            {name: place.ipv4 for name, place in self._places.items()},
            pairs,
        )

    def describe(self) -> dict[str, Any]:
        """What was asked for and what was read back, for a trial's records; it holds only what JSON can."""
        return {
            "run": self.run_id,
            "fabric": self.id,
            "asked": asdict(self.spec),
            "start_s": self.start_s,
            "rps_cpus": f"{self._rps_mask:x}",
            "places": {name: asdict(place) for name, place in self._places.items()},
            "switches": {name: {**vars(place), "ports": dict(place.ports)} for name, place in self._switches.items()},
            "host_bridges": {
                name: {**vars(place), "ports": dict(place.ports)} for name, place in self._host_bridges.items()
            },
            "gates": {name: self.gate(name) for name in self._host_bridges},
            "links": self._links,
        }

    def _pid(self, name: str) -> int:
        place = self._places.get(name) or self._switches.get(name)
        if place is None:
            known = ", ".join((*self._places, *self._switches))
            raise FabricError(f"The fabric has no place {name!r}; it has {known or 'none, because it is not up'}.")
        return place.pid

    def _marks(self) -> dict[str, str]:
        return {RUN_MARK: self.run_id, RUNNER_MARK: str(Runner.this()), FABRIC_MARK: self.id}

    def _build(self) -> None:
        """Namespaces and their shells, by Mininet; its links are only noted."""
        from unnoticed.topology.network import Network
        from unnoticed.topology.shapes import Roles, make_topo

        topo = self._topo or make_topo(self.spec.shape, clients=self.spec.clients)
        with _marked_environment(self._marks()):
            self._network = Network(topo, self._roles or Roles())
            self._network.buildFromTopo(topo)
            self._network.add_guests()

    def _connect(self) -> None:
        """Interfaces, bridges, addresses and rates; each read back."""
        from unnoticed.topology.link import make_veths

        network = self._network
        nodes = [*network.switches, *network.hosts]
        ends = [end for link in network.links for end in link.ends]
        run_inside([(node.pid, _prepare_namespace) for node in nodes])
        make_veths(link.ends for link in network.links)
        self._name_places()
        run_inside([(switch.pid, switch.set_up) for switch in network.switches])
        run_inside([(node.pid, functools.partial(self._set_up_host, node.name)) for node in network.hosts])
        self._shape()
        self._steer(ends)
        network.configHosts()  # for hosts of a user's own class

        def all_up() -> bool:
            return all((device_folder(e.pid, e.interface) / "operstate").read_text().strip() == "up" for e in ends) and all(
                port_state(place.pid, port) == FORWARDING
                for place in (*self._switches.values(), *self._host_bridges.values())
                for port in place.ports
            )

        wait_until(all_up, what="The links of the fabric did not come up")
        gates = {network.roles.source: FORWARDING, network.roles.destination: DISABLED}
        run_inside([(network[n].pid, functools.partial(set_gate, s, where=n)) for n, s in gates.items()])

    def _name_places(self) -> None:
        network = self._network
        for name, address in network.places.items():
            interface = BRIDGE if name in network.bridged else network[name].intfNames()[0]
            self._places[name] = Place(
                name=name, pid=network[name].pid, interface=interface, mac=address.mac, ipv4=address.ipv4
            )
        ports: dict[str, dict[str, str]] = {}
        for link in network.links:
            for near, far in (link.ends, reversed(link.ends)):
                ports.setdefault(near.node, {})[near.interface] = far.node
        for node in network.switches:
            self._switches[node.name] = SwitchPlace(
                name=node.name, pid=node.pid, bridge=BRIDGE, ports=MappingProxyType(ports.get(node.name, {}))
            )
        for name in network.bridged:
            self._host_bridges[name] = SwitchPlace(
                name=name, pid=network[name].pid, bridge=BRIDGE, ports=MappingProxyType(ports[name])
            )

    def _set_up_host(self, name: str) -> None:
        """Bring a host's interfaces up and give it its address; inside its namespace."""
        from unnoticed.topology.addresses import PREFIX_LENGTH

        place, interfaces = self._places[name], self._network[name].intfNames()
        lines = ["link set dev lo up"]
        if name in self._host_bridges:
            prepare_bridging()
            lines += bridge_lines(mac=place.mac, ports=interfaces)
        else:
            lines += [f"link set dev {interface} up" for interface in interfaces]
        lines.append(f"address add {place.ipv4}/{PREFIX_LENGTH} broadcast + dev {place.interface}")
        guests = set(self._network.bridged.values())
        if name in guests and self.spec.guest_neighbours == "static":
            lines += [
                f"neighbour add {other.ipv4} lladdr {other.mac} nud permanent dev {place.interface}"
                for other in self._places.values()
                if other.name not in guests
            ]
        output = run_batch(["ip", "-d", "-j"], [*lines, "address show"])
        links = json_documents(output)[-1]
        if name in self._host_bridges:
            check_bridge(links, where=name, ports=interfaces)
        found = [
            (link["address"], address["local"])
            for link in links
            if link["ifname"] == place.interface
            for address in link["addr_info"]
        ]
        if found != [(place.mac, place.ipv4)]:
            raise FabricError(f"{name} should have {place.mac} and {place.ipv4}, but has {found}.")

    def _shape(self) -> None:
        """Put the asked rate on both ends of every link of the topology (the guest's links have none)."""
        from unnoticed.topology.link import shape

        guests = set(self._network.bridged.values())
        links = [link.ends for link in self._network.links if not guests & {end.node for end in link.ends}]
        by_node: dict[tuple[str, int], list[str]] = {}
        for end in (end for ends in links for end in ends):
            by_node.setdefault((end.node, end.pid), []).append(end.interface)
        readings: dict[tuple[str, str], dict[str, int]] = {}
        if self.spec.shaping is not None:
            jobs = [
                (pid, functools.partial(shape, devices, shaping=self.spec.shaping, where=node))
                for (node, pid), devices in by_node.items()
            ]
            for (node, _), found in zip(by_node, run_inside(jobs), strict=True):
                readings |= {(node, device): asdict(reading) for device, reading in found.items()}
        self._links = [
            {
                "ends": [
                    {**vars(end), "read": readings.get((end.node, end.interface))} for end in link.ends
                ],
                "shaped": link.ends in links and self.spec.shaping is not None,
            }
            for link in self._network.links
        ]

    def _steer(self, ends: Sequence[Any]) -> None:
        from unnoticed.topology.link import steer

        self._rps_mask = sum(1 << cpu for cpu in os.sched_getaffinity(0))
        for end in ends:
            steer(end.pid, [(end.interface, end.mac)], mask=self._rps_mask)


def _prepare_namespace() -> None:
    """Before there is any interface: no IPv6, so that no kernel sends what nobody asked for (MLD, router solicitations)."""
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
