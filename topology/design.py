"""The design of a fabric: a topology of which a fabric can be made, and what follows from it. Needs no root."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unnoticed.errors import PlanError
from unnoticed.topology import addresses
from unnoticed.topology.addresses import Address
from unnoticed.topology.direction import WHOLE_PPM, Both, LinkChange, directions, futures
from unnoticed.topology.quietly import Topo
from unnoticed.topology.requirements import fit, link_changes, wants_tree
from unnoticed.topology.roles import Roles
from unnoticed.topology.segments import Segments, find_segments
from unnoticed.topology.shapes import make_topo
from unnoticed.topology.spec import FabricSpec
from unnoticed.topology.wiring import Pair, Wiring, path_between


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is to be built. `clients`: those that draw load; `stp`: whether the switches run a spanning tree."""

    topo: Topo
    wiring: Wiring
    segments: Segments
    clients: tuple[str, ...]
    changes: tuple[LinkChange, ...]  # of links, by the topology and then by the plan
    stp: bool
    migration_link: Pair | None  # of the two hosts, if they migrate over a link of its own
    addresses: Mapping[str, tuple[Address, ...]]  # of hosts one, of routers one for each of their segments
    guest: Address

    @property
    def links(self) -> tuple[Pair, ...]:
        """Every link that stands for a cable: those of the topology, then that of the migration network."""
        return cables(self.wiring, self.migration_link)


def design(spec: FabricSpec, *, topo: Topo | None = None) -> Design:
    """The fabric that is asked for. Raises PlanError with a sentence for each mistake."""
    name = f"the topology {spec.shape}" if topo is None else type(topo).__name__
    topo = topo or make_topo(spec.shape, clients=spec.clients or 1)
    wiring = fit(topo, spec.roles, topology=name)
    segments = find_segments(wiring, source=spec.roles.source, destination=spec.roles.destination)
    clients = spec.roles.clients(wiring.hosts)
    if spec.clients is not None and spec.clients > len(clients):
        raise PlanError(
            f"clients.count: {name} has {len(clients)} hosts that can be clients, fewer than {spec.clients}."
        )
    changes = (*link_changes(topo, queue_ns=spec.queue_ns), *spec.links)
    kinds = wiring.kinds(spec.roles)
    migration_link = (spec.roles.source, spec.roles.destination) if spec.migration_network == "dedicated" else None
    links = cables(wiring, migration_link)
    asked = directions(links, base=spec.direction, changes=changes, kinds=kinds)
    futures(links, asked, later=spec.later, cut=spec.cut_later, kinds=kinds)
    idle = () if spec.clients is None else clients[spec.clients :]
    problems = [*_without_routers(spec, wiring, name), *_out_of_reach(links, asked, wiring, idle)]
    if problems:
        raise PlanError(*problems)
    return Design(
        addresses=_addresses(wiring, segments, spec.roles),
        guest=addresses.GUEST,
        topo=topo,
        wiring=wiring,
        segments=segments,
        clients=tuple(clients[: spec.clients]),
        changes=changes,
        stp=_has_tree(spec, topo, wiring),
        migration_link=migration_link,
    )


def cables(wiring: Wiring, migration_link: Pair | None) -> tuple[Pair, ...]:
    """The links of a topology, and behind them that of the migration network, if it has one of its own."""
    return wiring.links if migration_link is None else (*wiring.links, migration_link)


def _addresses(wiring: Wiring, segments: Segments, roles: Roles) -> dict[str, tuple[Address, ...]]:
    given = {
        roles.source: (addresses.SOURCE,),
        roles.destination: (addresses.DESTINATION,),
        roles.control_name: (addresses.control(segments.of[roles.control_name]),),
    }
    clients = enumerate(roles.clients(wiring.hosts), start=1)
    given |= {name: (addresses.client(number, segments.of[name]),) for number, name in clients}
    return given | {
        name: tuple(addresses.router(number, segment) for segment in segments.of_router(name))
        for number, name in enumerate(wiring.routers, start=1)
    }


def _without_routers(spec: FabricSpec, wiring: Wiring, name: str) -> Iterator[str]:
    if spec.neighbours.at == "routers" and not wiring.routers:
        yield f'fabric.neighbours.at: {name} has no router; write "hosts" or "everybody", or leave it out.'


def _out_of_reach(links: Sequence[Pair], asked: Sequence[Both], wiring: Wiring, idle: Collection[str]) -> Iterator[str]:
    """What could not pass the check that everybody reaches everybody, since the only way there loses every frame."""
    dead = [any(each.loss_ppm == WHOLE_PPM for each in both) for both in asked]
    alive = [link for link, is_dead in zip(wiring.links, dead, strict=False) if not is_dead]
    ways = [
        f"{one}>{other}" if asked[number][0].loss_ppm == WHOLE_PPM else f"{other}>{one}"
        for number, (one, other) in enumerate(links)
        if dead[number]
        and not {one, other} & set(idle)
        and (number >= len(wiring.links) or not path_between(one, other, alive))
    ]
    if ways:
        yield (
            f"fabric.links: {', '.join(ways)} would lose every frame from the beginning, with no other way there: let "
            "it lose less, or later, by a [[fabric.schedule]]."
        )


def _has_tree(spec: FabricSpec, topo: Topo, wiring: Wiring) -> bool:
    asked = spec.switching.stp
    if asked is False and wiring.loop:
        way = " - ".join((*wiring.loop, wiring.loop[0]))
        raise PlanError(
            f"fabric.switch.stp: without a spanning tree a broadcast would go round and round over {way}; leave it out."
        )
    return bool(wiring.loop) or wants_tree(topo) if asked is None else bool(asked)
