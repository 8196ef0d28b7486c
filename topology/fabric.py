"""The fabric: a network of namespaces that is up, checked, and gone without a trace when it is stopped."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from unnoticed.errors import FabricError, MachineError
from unnoticed.topology.processes import end_processes, marked_processes
from unnoticed.topology.reachability import check_reachability
from unnoticed.topology.roles import DESTINATION, GUEST_SOURCE, SOURCE
from unnoticed.topology.runs import FABRIC_MARK, REGISTRY, RUN_MARK, RUNNER_MARK, Runner, new_id
from unnoticed.topology.spec import FabricSpec, Place, SwitchPlace
from unnoticed.topology.switching import Kind

if TYPE_CHECKING:  # it imports Mininet, which is done only when a fabric starts
    from unnoticed.topology.building import Building
    from unnoticed.topology.direction import LinkChange
    from unnoticed.topology.emulator import LinkWay
    from unnoticed.topology.links import Links

_MNEXEC_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 10.0

__all__ = [
    "Fabric",
    "FabricSpec",
    "Place",
    "SwitchPlace",
    "check_design",
    "check_machine",
    "check_switches",
    "describe_design",
]


@functools.cache
def check_machine() -> None:
    """Raise MachineError unless fabrics can be made here.

    A mnexec that fails would make Mininet wait for its node's shell for ever, so it is tried first.
    """
    if os.geteuid() != 0:
        raise MachineError("Making network namespaces needs root: run it again as root.")
    for command, package in (("mnexec", "mininet"), ("ip", "iproute2"), ("tc", "iproute2"), ("bridge", "iproute2")):
        if shutil.which(command) is None:
            raise MachineError(f"There is no {command} on this machine: install Debian's package {package}.")
    try:
        done = subprocess.run(
            ["mnexec", "-n", "ip", "link", "set", "dev", "lo", "up"],
            capture_output=True,
            text=True,
            timeout=_MNEXEC_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"mnexec did not make a namespace within {_MNEXEC_TIMEOUT_S:g} s.") from error
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        raise MachineError(
            f"A network namespace cannot be made, or nothing in it changed, here ({said}): a container needs to be "
            "privileged for it (CAP_SYS_ADMIN and CAP_NET_ADMIN)."
        )


def check_switches(kind: Kind) -> None:
    """Raise MachineError unless switches of this kind can be made here."""
    if kind == "ovs":
        from unnoticed.topology.open_vswitch import check_open_vswitch

        check_open_vswitch()


def check_design(spec: FabricSpec) -> tuple[str, ...]:
    """See that there is a topology as asked for and that a fabric can be made of it; the clients it would have.

    Needs no root. Raises PlanError, or MachineError without Mininet.
    """
    try:
        from unnoticed.topology.design import design
    except ModuleNotFoundError as error:
        raise MachineError(
            f"There is no {error.name} for this Python: install Debian's mininet, and run scripts/setup."
        ) from error
    return design(spec).clients


def describe_design(spec: FabricSpec) -> dict[str, Any]:
    """What a fabric would consist of, as `describe_network` gives it; needs no root. Raises as `check_design`."""
    check_design(spec)
    from unnoticed.topology.description import describe_network
    from unnoticed.topology.design import design

    return describe_network(design(spec), spec)


class Fabric:
    """A network of one shape, from `start` to `stop`; a context manager.

    Every process in it carries the run's id (`runs`), so that `clean` can remove what is left if this process is
    killed; what files there are, are in the run's folder of the `registry`. `topo` replaces the shape by any Mininet
    topology that has the hosts of the roles.
    """

    def __init__(self, spec: FabricSpec, *, run_id: str, topo: Any = None, registry: Path = REGISTRY) -> None:
        self.spec = spec
        self.run_id = run_id
        self.id = new_id()
        self.start_s = 0.0  # how long it took to start
        self._topo = topo
        self._folder = registry / run_id / self.id
        self._building: Building | None = None

    @property
    def places(self) -> Mapping[str, Place]:
        """Every place by name: hosts, guests, control, clients. Empty when the fabric is not up."""
        return MappingProxyType(self._building.places if self._building else {})

    @property
    def switches(self) -> Mapping[str, SwitchPlace]:
        """The switches of the topology by name."""
        return MappingProxyType(self._building.switches if self._building else {})

    @property
    def host_bridges(self) -> Mapping[str, SwitchPlace]:
        """The bridges inside the two hosts, by the host's name."""
        return MappingProxyType(self._building.host_bridges if self._building else {})

    @property
    def clients(self) -> tuple[str, ...]:
        """The names of the clients that are to draw load, in natural order."""
        return self._building.design.clients if self._building else ()

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Who speaks to the guest with no router in between: clients in its segment, and the routers into it."""
        return tuple(self._building.neighbours()) if self._building else ()

    @property
    def hosts(self) -> Mapping[str, str]:
        """What the topology calls the hosts that records call a and b."""
        return MappingProxyType({SOURCE: self.spec.roles.source, DESTINATION: self.spec.roles.destination})

    @property
    def migration_places(self) -> Mapping[str, Place]:
        """Where each of the two hosts, which records call a and b, sends and receives pages."""
        own = self._building.migration_places if self._building else {}
        return MappingProxyType({
            role: own.get(host) or self.places[host] for role, host in self.hosts.items() if host in self.places
        })  # fmt: skip

    @property
    def control(self) -> str:
        """What the topology calls the server that never migrates."""
        return self.spec.roles.control_name

    @property
    def network(self) -> Any:
        """The Mininet object, for its command line; None when the fabric is not up."""
        return self._building.network if self._building else None

    def start(self) -> None:
        """Build the network, check it, and see that everybody reaches everybody.

        Raises MachineError, FabricError or PlanError; whatever it raises, nothing is left.
        """
        if self._building is not None:
            raise FabricError("The fabric is up already.")
        check_machine()
        began = time.monotonic()
        from unnoticed.topology.building import Building

        check_switches(self.spec.switching.kind)

        try:
            self._building = Building(self.spec, topo=self._topo)
            self._building.build(self._marks(), self._folder)
            self.check_reachability()
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - began

    def stop(self) -> None:
        """End every process of the fabric; its namespaces go with them. May be repeated.

        Raises FabricError if a process does not end.
        """
        if self._building is not None:
            self._building.release()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while processes := [each for each in marked_processes(FABRIC_MARK) if each.marks[FABRIC_MARK] == self.id]:
            if time.monotonic() > deadline:
                names = ", ".join(f"{each.name} ({each.pid})" for each in processes)
                raise FabricError(f"Processes of the fabric do not end: {names}.")
            end_processes(processes)
        if self._building is not None:
            self._building.network.cleanup_nodes()
            self._building = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Fabric:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def popen(self, place: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `argv` in the namespaces of a place or switch, with subprocess.Popen's options; no shell is involved.

        The process is `argv` itself (mnexec replaces itself by it), and carries the run's marks even if `env` is given.
        """
        given = options.pop("env", None)
        environment = {**(os.environ if given is None else given), **self._marks()}
        return subprocess.Popen(["mnexec", "-a", str(self._pid(place)), *argv], env=environment, **options)

    def gate(self, host: str) -> int:
        """The state of the gate at source or destination: 3 forwarding, 0 disabled."""
        from unnoticed.topology.bridge import GUEST_PORT, port_state

        return port_state(self._pid(host), GUEST_PORT)

    def guest_port(self, name: str) -> str | None:
        """The port behind which a switch, or the bridge in a host, takes the guest to be; None if it does not know.

        Raises FabricError.
        """
        from unnoticed.topology.bridge import forwarding_port

        mac = self.places[GUEST_SOURCE].mac
        if name in self.host_bridges:
            return forwarding_port(self.host_bridges[name].pid, mac)
        found: str | None = self.network[name].forwarding_port(mac)
        return found

    def check_reachability(self) -> float:
        """See that hosts, guest and control reach one another, and clients the last two. Raises FabricError.

        Returns how long it took, in seconds. The guest is expected at the source. It also fills neighbour tables and
        the tables of the switches.
        """
        if self._building is None:
            raise FabricError("The fabric is not up.")
        own = {f"{name} over the migration network": place for name, place in self._building.migration_places.items()}
        places, pairs = {**self.places, **own}, self._building.pairs()
        pids = {name: place.pid for name, place in places.items()}
        addresses = {name: place.ipv4 for name, place in places.items()}
        lasted_s = check_reachability(pids, addresses, [*pairs, *itertools.pairwise(own)])
        if self.spec.ipv6:
            lasted_s += check_reachability(pids, {name: place.ipv6 for name, place in self.places.items()}, pairs)
        return lasted_s

    def lost_frames(self) -> dict[str, int]:
        """How many frames links have lost so far, as they were asked to, by direction ("s1>s2"). Raises FabricError."""
        lost: dict[str, int] = self.link_counts()["lost"]
        return lost

    def ways(self) -> list[LinkWay]:
        """Each direction of each link, with its two ends, what it is asked to be and by what means."""
        return self._links.ways() if self._links else []

    def link_counts(self) -> dict[str, Any]:
        """What became of frames on the links that lose or hold them, for a trial's records. Raises FabricError.

        `lost`: as asked, by direction; `dropped`: though nobody asked for it; `relay`: what it counted, by inlet.
        """
        emulator = self._links.emulator if self._links else None
        if emulator is None:
            return {"lost": {}, "dropped": {}, "relay": {}}
        return {"lost": emulator.lost_frames(), "dropped": emulator.dropped_frames(), "relay": emulator.relay_counts()}

    def change_link(self, change: LinkChange) -> None:
        """Let some links be something else from now on. Raises PlanError, MachineError or FabricError."""
        self._up().change(change)

    def cut_link(self, link: str) -> None:
        """Cut some links ("s1-s2"), as if the cable had been pulled. Raises PlanError or FabricError."""
        self._up().cut(link)

    def restore_link(self, link: str) -> None:
        """Plug some links in, and let them be what they were at first. Raises PlanError or FabricError."""
        self._up().restore(link)

    def describe(self) -> dict[str, Any]:
        """What was asked for and what was read back, for a trial's records; it holds only what JSON can."""

        def bridges(named: Mapping[str, SwitchPlace]) -> dict[str, Any]:
            return {
                name: {**vars(each), "ports": dict(each.ports), "numbers": dict(each.numbers)}
                for name, each in named.items()
            }

        return {
            "run": self.run_id,
            "fabric": self.id,
            "asked": asdict(self.spec),
            "start_s": self.start_s,
            "rps_cpus": f"{self._building.rps_mask:x}" if self._building else "",
            "clients": list(self.clients),
            "network": self._described_network(),
            "places": {name: asdict(place) for name, place in self.places.items()},
            "switches": bridges(self.switches),
            "host_bridges": bridges(self.host_bridges),
            "gates": {name: self.gate(name) for name in self.host_bridges},
            "links": self._links.describe() if self._links else [],
            "passages": self._links.emulator.describe() if self._links and self._links.emulator else [],
        }

    @property
    def _links(self) -> Links | None:
        return self._building.links if self._building else None

    def _up(self) -> Links:
        if self._links is None:
            raise FabricError("The fabric is not up.")
        return self._links

    def _described_network(self) -> dict[str, Any] | None:
        if self._building is None:
            return None
        from unnoticed.topology.description import describe_network

        return describe_network(self._building.design, self.spec, spares=self._building.spares())

    def _pid(self, name: str) -> int:
        place = self.places.get(name) or self.switches.get(name)
        if place is None:
            known = ", ".join((*self.places, *self.switches))
            raise FabricError(f"The fabric has no place {name!r}; it has {known or 'none, because it is not up'}.")
        return place.pid

    def _marks(self) -> dict[str, str]:
        return {RUN_MARK: self.run_id, RUNNER_MARK: str(Runner.this()), FABRIC_MARK: self.id}
