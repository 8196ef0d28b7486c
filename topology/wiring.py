"""Wiring: which switches and hosts a topology has, what links them, and what follows from that. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unnoticed.topology.roles import Roles, natural

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """The nodes of a topology, and its links in the order in which Mininet makes them."""

    hosts: tuple[str, ...]
    switches: tuple[str, ...]
    links: tuple[Pair, ...]
    routers: tuple[str, ...] = ()
    firewalls: tuple[str, ...] = ()  # which of the routers are

    def kinds(self, roles: Roles) -> dict[str, str]:
        """What each node is, for names of links such as "clients-switches"."""
        kinds = dict.fromkeys(self.switches, "switches") | dict.fromkeys(roles.clients(self.hosts), "clients")
        kinds |= dict.fromkeys(self.routers, "routers")
        return kinds | dict.fromkeys((roles.source, roles.destination), "hosts") | {roles.control_name: "control"}

    def links_of(self, node: str) -> int:
        """How many links a node has."""
        return sum((one == node) + (other == node) for one, other in self.links)

    def neighbours(self, node: str) -> list[str]:
        """Who is at the other end of a node's links."""
        return [other if one == node else one for one, other in self.links if node in (one, other)]

    @property
    def trunks(self) -> tuple[Pair, ...]:
        """The links between switches."""
        return tuple(link for link in self.links if set(link) <= set(self.switches))

    @property
    def loop(self) -> tuple[str, ...]:
        """The switches of a loop, in the order in which a frame would pass them; empty where there is none."""
        added: list[Pair] = []
        for one, other in self.trunks:
            if path := path_between(one, other, added):
                first = path.index(min(path, key=natural))
                ring = (*path[first:], *path[:first])
                back = (ring[0], *reversed(ring[1:]))
                return min(ring, back, key=lambda way: [natural(node) for node in way])
            added.append((one, other))
        return ()


def path_between(start: str, end: str, links: Iterable[Pair]) -> tuple[str, ...]:
    """The nodes of a shortest path over the links, both ends among them; empty where there is none."""
    beside: dict[str, list[str]] = {}
    for one, other in links:
        beside.setdefault(one, []).append(other)
        beside.setdefault(other, []).append(one)
    before: dict[str, str | None] = {start: None}
    waiting = deque([start])
    while waiting and end not in before:
        node = waiting.popleft()
        for other in beside.get(node, ()):
            if other not in before:
                before[other] = node
                waiting.append(other)
    path: list[str] = []
    node_: str | None = end if end in before else None
    while node_ is not None:
        path.append(node_)
        node_ = before[node_]
    return tuple(reversed(path))


def spans(nodes: Sequence[str], links: Sequence[Pair], *, of: Sequence[Pair]) -> bool:
    """Whether `links` are a spanning tree (or forest) of the graph that has the `nodes` and the links `of`."""
    whole = len(set(parts(nodes, of).values()))
    return len(links) == len(nodes) - whole and len(set(parts(nodes, links).values())) == whole


def parts(nodes: Sequence[str], links: Iterable[Pair], *, first: str | None = None) -> dict[str, int]:
    """The number of the part of the graph that each node is in; parts have no link to one another.

    They are numbered in the order of the nodes, but that of the node `first` comes first.
    """
    above = {node: node for node in nodes}

    def top(node: str) -> str:
        while above[node] != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    for one, other in links:
        above[top(one)] = top(other)
    order = [] if first is None else [top(first)]
    numbers = {head: number for number, head in enumerate(dict.fromkeys([*order, *(top(node) for node in nodes)]))}
    return {node: numbers[top(node)] for node in nodes}
