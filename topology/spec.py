"""What a fabric is asked to be, and how its places are named once it is up. Pure: needs neither Mininet nor root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from unnoticed.errors import PlanError
from unnoticed.topology.addresses import CLIENTS_MAXIMUM
from unnoticed.topology.direction import Direction, LinkChange
from unnoticed.topology.neighbours import Neighbours
from unnoticed.topology.roles import Roles
from unnoticed.topology.shaping import Shaping
from unnoticed.topology.switching import Switching

STOCK_SHAPES = ("single", "tree", "ring", "leaf-spine", "two-sites", "router", "firewall")


def is_own(shape: str) -> bool:
    """Whether a shape is a topology of the user's own, "file.py:Name" or "module:Name"."""
    return ":" in shape


@dataclass(frozen=True, kw_only=True)
class FabricSpec:
    """What a fabric is asked to be. Raises PlanError where a value cannot be."""

    shape: str = "tree"  # a stock shape, or a topology of the user's own
    clients: int | None = 1  # how many draw load; None, for the user's own: all that the topology has
    roles: Roles = field(default_factory=Roles)
    switching: Switching = field(default_factory=Switching)
    rate_bit_per_s: int | None = 1_000_000_000  # of each direction of each link, in Ethernet frames; None: unshaped
    queue_ns: int = 10_000_000  # length of each link's queue, as time at its rate; no effect when unshaped
    delay_ns: int = 0  # of each direction of each link; see Direction
    jitter_ns: int = 0
    loss_ppm: int = 0
    reorder_ppm: int = 0
    duplicate_ppm: int = 0
    links: tuple[LinkChange, ...] = ()  # what differs on some of the links; later ones are laid over earlier ones
    later: tuple[LinkChange, ...] = ()  # what links will be asked to become, so that they are made for it
    cut_later: tuple[str, ...] = ()  # which links will be cut
    adjustable: bool = False  # make every link so that it can be asked for anything later
    # The neighbour table is part of a real guest's RAM, so the destination knows it already: "static" puts every place
    # into both guest namespaces. "dynamic" lets the guest's kernel ask, which re-teaches the switches unasked.
    guest_neighbours: Literal["static", "dynamic"] = "static"
    neighbours: Neighbours = field(default_factory=Neighbours)
    # A virtual machine keeps its MAC address when it moves, so switches must learn where it is. Where the guest has
    # another one at the destination (as a container has, or an address that is taken over), neighbours must learn it.
    guest_mac: Literal["kept", "new"] = "kept"
    # The hosts migrate over the network of their clients, or over a link of its own that joins them: one of the links,
    # by the names of the two hosts.
    migration_network: Literal["shared", "dedicated"] = "shared"
    ipv6: bool = False  # whether every place has an IPv6 address beside its IPv4 address; switches have neither

    def __post_init__(self) -> None:
        if self.clients is None and not is_own(self.shape):
            raise PlanError(f"The shape {self.shape} needs a number of clients.")
        if self.clients is not None and not 1 <= self.clients <= CLIENTS_MAXIMUM:
            raise PlanError(f"A fabric has 1 to {CLIENTS_MAXIMUM} clients, not {self.clients}.")
        for change in (None, *self.links):
            _ = self.direction if change is None else change.applied(self.direction)

    @property
    def direction(self) -> Direction:
        """What each direction of each link between the fabric's nodes is asked to be, but for `links`."""
        return Direction(
            rate_bit_per_s=self.rate_bit_per_s,
            queue_ns=self.queue_ns,
            delay_ns=self.delay_ns,
            jitter_ns=self.jitter_ns,
            loss_ppm=self.loss_ppm,
            reorder_ppm=self.reorder_ppm,
            duplicate_ppm=self.duplicate_ppm,
        )

    @property
    def shaping(self) -> Shaping | None:
        """Rate and queue of each end of every link where `links` says nothing else."""
        return self.direction.shaping


@dataclass(frozen=True, kw_only=True)
class Place:
    """A network namespace in which processes can be started, by the pid of the shell that holds it."""

    name: str
    pid: int
    interface: str  # the one with the addresses
    mac: str
    ipv4: str
    ipv6: str = ""  # "" where the fabric has no IPv6

    def address(self, ip: Literal["ipv4", "ipv6"]) -> str:
        """Its address of one family."""
        return self.ipv6 if ip == "ipv6" else self.ipv4


@dataclass(frozen=True, kw_only=True)
class SwitchPlace:
    """A namespace with a bridge in it, and who is at the other end of each of its ports."""

    name: str
    pid: int
    bridge: str
    ports: Mapping[str, str] = field(default_factory=dict)
    # Of Open vSwitch: the socket at which its daemon answers, and its ports by the numbers that it gives them.
    control: str | None = None
    numbers: Mapping[str, str] = field(default_factory=dict)
