"""Shapes of the network, as Mininet topologies: which switches there are, and who is attached where.

A shape knows hosts, switches and links, and nothing of guests, bridges on hosts or gates: the fabric adds those to
any topology of which two hosts are named as source and destination.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from unnoticed.errors import PlanError
from unnoticed.topology.own_topo import load_topo
from unnoticed.topology.quietly import Topo
from unnoticed.topology.roles import CONTROL, DESTINATION, SOURCE
from unnoticed.topology.routers import Firewall, Router
from unnoticed.topology.spec import is_own

_ROOT_PRIORITY = 4096  # of the switch that is to be the root of the spanning tree; the others have 32768


class Shape(Topo):  # type: ignore[misc]  # mininet has no types
    """What the stock shapes share."""

    def attach(self, *, source: str, destination: str, control: str, clients: int, to: Sequence[str]) -> None:
        """Add the hosts at the switches named; clients go round robin over the switches `to`."""
        for host, switch in ((SOURCE, source), (DESTINATION, destination), (CONTROL, control)):
            self.addLink(self.addHost(host), switch)
        for number in range(1, clients + 1):
            self.addLink(self.addHost(f"c{number}"), to[(number - 1) % len(to)])


class Single(Shape):
    """Everybody on one switch, s1."""

    def build(self, clients: int = 1, **_options: Any) -> None:
        """Add the nodes and links; called by Topo's constructor."""
        self.addSwitch("s1")
        self.attach(source="s1", destination="s1", control="s1", clients=clients, to=["s1"])


class Tree(Shape):
    """s1 is the core; s2 (with a) and s3 (with b) hang below it.

    Control is on s1; clients go round robin over s1, s2 and s3, so that some share the source's switch, some the
    destination's, and some see the guest move from one port of the core to another.
    """

    def build(self, clients: int = 1, **_options: Any) -> None:
        """Add the nodes and links; called by Topo's constructor."""
        switches = [self.addSwitch(name) for name in ("s1", "s2", "s3")]
        for below in switches[1:]:
            self.addLink(switches[0], below)
        self.attach(source="s2", destination="s3", control="s1", clients=clients, to=switches)


class Ring(Shape):
    """s1, s2, s3, s4 and back to s1, with a spanning tree rooted at s1: the link between s3 and s4 is its spare.

    A is on s2, b on s4, so that the guest moves through the root; control is on s1, clients go round robin over all.
    The tree is IEEE 802.1D's, as the Linux bridge has it: it takes seconds to stand again after a link is lost.
    """

    def build(self, clients: int = 1, **_options: Any) -> None:
        """Add the nodes and links; called by Topo's constructor."""
        switches = [self.addSwitch("s1", prio=_ROOT_PRIORITY)]
        switches += [self.addSwitch(name) for name in ("s2", "s3", "s4")]
        for one, other in (("s1", "s2"), ("s2", "s3"), ("s3", "s4"), ("s4", "s1")):
            self.addLink(one, other)
        self.attach(source="s2", destination="s4", control="s1", clients=clients, to=switches)


class LeafSpine(Shape):
    """Three leaves, each linked to both of two spines; a, b and control on a leaf each, clients round robin over all.

    Loops are avoided by a spanning tree rooted at spine1, so spine2 is a spare and carries nothing until spine1 is
    lost. Routing between the leaves would use both, but a guest that keeps its address cannot move across a router:
    that takes an overlay, which would be what is measured then.
    """

    def build(self, clients: int = 1, **_options: Any) -> None:
        """Add the nodes and links; called by Topo's constructor."""
        spines = [self.addSwitch("spine1", prio=_ROOT_PRIORITY), self.addSwitch("spine2", prio=2 * _ROOT_PRIORITY)]
        leaves = [self.addSwitch(f"leaf{number}") for number in (1, 2, 3)]
        for spine in spines:
            for leaf in leaves:
                self.addLink(spine, leaf)
        self.attach(source="leaf1", destination="leaf2", control="leaf3", clients=clients, to=leaves)


class TwoSites(Shape):
    """Two sites, each with a switch, and a link between them, the WAN; the guest moves from one site to the other.

    Site1 has a, control and every other client, site2 has b and the rest. It is one segment, stretched over both, so
    that the guest keeps its address. The WAN is a link like any other until the plan says what it is, as
    "site1-site2" in fabric.links.
    """

    def build(self, clients: int = 1, **_options: Any) -> None:
        """Add the nodes and links; called by Topo's constructor."""
        switches = [self.addSwitch(name) for name in ("site1", "site2")]
        self.addLink(*switches)
        self.attach(source="site1", destination="site2", control="site1", clients=clients, to=switches)


class BehindRouter(Shape):
    """A tree like `Tree`, but its clients are behind a router at the core, on a switch and in a segment of their own.

    So the only one to learn where the guest is, besides switches, is the router: the gateway of all clients.
    """

    gateway: ClassVar[type[Router]] = Router
    name: ClassVar[str] = "r1"

    def build(self, clients: int = 1, **_options: Any) -> None:
        """Add the nodes and links; called by Topo's constructor."""
        core, left, right, beyond = (self.addSwitch(name) for name in ("s1", "s2", "s3", "s4"))
        self.addHost(self.name, cls=self.gateway)
        for one, other in ((core, left), (core, right), (core, self.name), (self.name, beyond)):
            self.addLink(one, other)
        self.attach(source=left, destination=right, control=core, clients=clients, to=[beyond])


class BehindFirewall(BehindRouter):
    """The same with a stateful firewall in the router's place: clients may open connections, the others may answer."""

    gateway = Firewall
    name = "fw1"


SHAPES: dict[str, Callable[..., Topo]] = {
    "single": Single,
    "tree": Tree,
    "ring": Ring,
    "leaf-spine": LeafSpine,
    "two-sites": TwoSites,
    "router": BehindRouter,
    "firewall": BehindFirewall,
}


def make_topo(shape: str, *, clients: int) -> Topo:
    """A topology of a stock shape, with that many clients, or one of the user's own. Raises PlanError."""
    if is_own(shape):
        return load_topo(shape)
    if shape not in SHAPES:
        raise PlanError(f"There is no shape {shape!r}; the shapes are {', '.join(SHAPES)}.")
    return SHAPES[shape](clients=clients)
