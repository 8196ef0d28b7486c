"""Segments: the parts of a network within which frames go by MAC addresses, and the routes between them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unnoticed.errors import PlanError
from unnoticed.topology.addresses import ROUTERS_MAXIMUM, SEGMENTS_MAXIMUM
from unnoticed.topology.wiring import Wiring, parts


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The segments of a network; number 0 is the guest's.

    `of` has the segment of each host and switch, `ports` that of each link of a router by (router, number of the link).
    """

    of: Mapping[str, int]
    ports: Mapping[tuple[str, int], int]

    @property
    def count(self) -> int:
        return 1 + max((*self.of.values(), *self.ports.values()))

    def of_router(self, router: str) -> list[int]:
        """The segments that a router has a link into, in order."""
        return sorted(segment for (name, _), segment in self.ports.items() if name == router)

    def routers_in(self, segment: int) -> list[str]:
        """The routers that have a link into a segment, in order."""
        return sorted({name for (name, _), number in self.ports.items() if number == segment})

    def next_routers(self, segment: int) -> dict[int, str]:
        """From a segment, the router towards each other segment that can be reached, on a shortest way."""
        first: dict[int, str] = {}
        waiting = deque([segment])
        while waiting:
            here = waiting.popleft()
            for router in self.routers_in(here):
                for there in self.of_router(router):
                    if there != segment and there not in first:
                        first[there] = first[here] if here != segment else router
                        waiting.append(there)
        return first

    def routes_of_host(self, host: str) -> dict[int, str]:
        """The router that a host sends to, for each other segment."""
        return self.next_routers(self.of[host])

    def routes_of_router(self, router: str) -> dict[int, tuple[str, int]]:
        """For each segment that a router has no link into: the router that it sends to, and the segment they share."""
        own = self.of_router(router)
        found: dict[int, tuple[str, int]] = {}
        distances = {segment: self._distances(segment) for segment in range(self.count) if segment not in own}
        for target, distance in distances.items():
            ways = [
                (distance[other], other, segment)
                for segment in own
                for other in self.routers_in(segment)
                if other != router and other in distance
            ]
            if ways:
                _, other, segment = min(ways)
                found[target] = (other, segment)
        return found

    def _distances(self, target: int) -> dict[str, int]:
        """How many routers are between each router and a segment."""
        distance = dict.fromkeys(self.routers_in(target), 0)
        waiting = deque(distance)
        while waiting:
            router = waiting.popleft()
            for segment in self.of_router(router):
                for other in self.routers_in(segment):
                    if other not in distance:
                        distance[other] = distance[router] + 1
                        waiting.append(other)
        return distance


def find_segments(wiring: Wiring, *, source: str, destination: str) -> Segments:
    """The segments of a network. Raises PlanError where the guest could not move, or a router could not route."""
    ends: list[tuple[str, str]] = []
    for number, (one, other) in enumerate(wiring.links):
        ends.append((_end(wiring, one, number), _end(wiring, other, number)))
    nodes = [*wiring.hosts, *wiring.switches, *dict.fromkeys(end for pair in ends for end in pair)]
    number_of = parts(tuple(dict.fromkeys(nodes)), ends, first=source)
    of = {node: number_of[node] for node in (*wiring.hosts, *wiring.switches)}
    ports = {
        (node, number): number_of[end]
        for number, pair in enumerate(wiring.links)
        for node, end in zip(pair, ends[number], strict=True)
        if node in wiring.routers
    }
    found = Segments(of=of, ports=ports)
    problems = list(_problems(wiring, found, source=source, destination=destination))
    if problems:
        raise PlanError(*problems)
    return found


def _end(wiring: Wiring, node: str, link: int) -> str:
    """The end of a link at a node: for switches and hosts all ends are one, for routers each is one by itself."""
    return f"{node} {link}" if node in wiring.routers else node


def _problems(wiring: Wiring, found: Segments, *, source: str, destination: str) -> Sequence[str]:
    problems = []
    if found.of[destination] != found.of[source]:
        problems.append(
            f"fabric.destination: between {source} and {destination} there is a router, or nothing at all; "
            "a guest that keeps its address can only move within one segment."
        )
    for router in wiring.routers:
        segments = found.of_router(router)
        if len(set(segments)) < len(segments):
            problems.append(f"fabric.shape: the router {router} has two links into the same segment.")
    if found.count > SEGMENTS_MAXIMUM or len(wiring.routers) > ROUTERS_MAXIMUM:
        problems.append(
            f"fabric.shape: the topology has {found.count} segments and {len(wiring.routers)} routers; "
            f"a fabric can have {SEGMENTS_MAXIMUM} and {ROUTERS_MAXIMUM}."
        )
    reached = found.next_routers(0)
    lost = [host for host in wiring.hosts if found.of[host] != 0 and found.of[host] not in reached]
    if lost and found.of[destination] == found.of[source]:
        problems.append(f"fabric.shape: from {', '.join(lost)} there is no way to {source}.")
    return problems
