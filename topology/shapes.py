"""Shapes of the network, as Mininet topologies: which switches there are, and who is attached where.

A shape knows hosts, switches and links, and nothing of guests, bridges on hosts or gates: the fabric adds those to
any topology of which two hosts are named as source and destination.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unnoticed.errors import PlanError
from unnoticed.topology.quietly import Topo


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which hosts of a topology play which part. Every other host is a client."""

    source: str = "a"
    destination: str = "b"
    control: str | None = "control"

    def clients(self, hosts: list[str]) -> list[str]:
        """The clients among `hosts`, in natural order (c2 before c10)."""
        taken = {self.source, self.destination, self.control}
        return sorted((host for host in hosts if host not in taken), key=_natural)

    def check(self, hosts: list[str]) -> None:
        """Raise PlanError, with a sentence per mistake, unless every role is played by a host of its own."""
        known = ", ".join(sorted(hosts, key=_natural))
        problems = [
            f"The topology has no host {name!r} to be the {role}; its hosts are {known}."
            for role, name in (("source", self.source), ("destination", self.destination), ("control", self.control))
            if name is not None and name not in hosts
        ]
        named = [name for name in (self.source, self.destination, self.control) if name is not None]
        if len(set(named)) < len(named):
            problems.append(f"Source, destination and control must be different hosts, not {', '.join(named)}.")
        if problems:
            raise PlanError(*problems)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]


class Single(Topo):  # type: ignore[misc]  # mininet has no types
    """Everybody on one switch, s1."""

    def build(self, clients: int = 1, **_options: Any) -> None:
        """Add the nodes and links; called by Topo's constructor."""
        self.addSwitch("s1")
        for host in ("a", "b", "control", *(f"c{number}" for number in range(1, clients + 1))):
            self.addLink(self.addHost(host), "s1")


class Tree(Topo):  # type: ignore[misc]
    """s1 is the core; s2 (with a) and s3 (with b) hang below it.

    Control is on s1; clients go round robin over s1, s2 and s3, so that some share the source's switch, some the
    destination's, and some see the guest move from one port of the core to another.
    """

    def build(self, clients: int = 1, **_options: Any) -> None:
        """Add the nodes and links; called by Topo's constructor."""
        switches = [self.addSwitch(name) for name in ("s1", "s2", "s3")]
        core = switches[0]
        for below in switches[1:]:
            self.addLink(core, below)
        self.addLink(self.addHost("a"), "s2")
        self.addLink(self.addHost("b"), "s3")
        self.addLink(self.addHost("control"), core)
        for number in range(1, clients + 1):
            self.addLink(self.addHost(f"c{number}"), switches[(number - 1) % len(switches)])


SHAPES: dict[str, Callable[..., Topo]] = {"single": Single, "tree": Tree}


def make_topo(shape: str, *, clients: int) -> Topo:
    """A topology of a stock shape. Raises PlanError if there is no such shape."""
    if shape not in SHAPES:
        raise PlanError(f"There is no shape {shape!r}; the shapes are {', '.join(SHAPES)}.")
    return SHAPES[shape](clients=clients)
