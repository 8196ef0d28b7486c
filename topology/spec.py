"""What a fabric is asked to be, and how its places are named once it is up. Pure: needs neither Mininet nor root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from unnoticed.errors import PlanError
from unnoticed.topology.addresses import CLIENTS_MAXIMUM
from unnoticed.topology.shaping import Shaping


@dataclass(frozen=True, kw_only=True)
class FabricSpec:
    """What a fabric is asked to be. Raises PlanError where a value cannot be."""

    shape: str = "tree"
    clients: int = 1  # of a stock shape; with a topology of the user's it has no effect
    rate_bit_per_s: int | None = 1_000_000_000  # of each direction of each link, in Ethernet frames; None: unshaped
    queue_ns: int = 10_000_000  # length of each link's queue, as time at its rate; no effect when unshaped
    # The neighbour table is part of a real guest's RAM, so the destination knows it already: "static" puts every place
    # into both guest namespaces. "dynamic" lets the guest's kernel ask, which re-teaches the switches unasked.
    guest_neighbours: Literal["static", "dynamic"] = "static"

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= CLIENTS_MAXIMUM:
            raise PlanError(f"A fabric has 1 to {CLIENTS_MAXIMUM} clients, not {self.clients}.")
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
    """A namespace with a bridge in it, and who is at the other end of each of its ports."""

    name: str
    pid: int
    bridge: str
    ports: Mapping[str, str] = field(default_factory=dict)
