"""What the switches of a fabric are asked to be, and what the kernel says they became. Pure.

The units and limits are those of the Linux bridge (net/bridge/br_stp_if.c, include/net/br_private.h): with a spanning
tree a forward delay of 2 to 30 s, a hello of 1 to 10 s and a maximum age of 6 to 40 s. Its tree is that of IEEE 802.1D,
without the rapid transitions of 802.1w: a port that is to forward listens for one forward delay and learns for another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unnoticed.errors import PlanError
from unnoticed.topology.announcement_filter import Dropped

CENTISECOND_NS = 10_000_000  # what the kernel counts bridge times in, wherever a user can see them
_LIMITS_S = {"forward_delay": (2, 30), "hello": (1, 10), "max_age": (6, 40)}
_AGEING_MAXIMUM_S = 1_000_000  # IEEE 802.1D
_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Switching:
    """The settings of every switch. `stp` None: a spanning tree where the topology has a loop, and none elsewhere."""

    stp: bool | None = None
    forward_delay_ns: int = 2 * _NS  # the shortest times that the Linux bridge takes
    hello_ns: int = 1 * _NS
    max_age_ns: int = 6 * _NS
    ageing_ns: int = 300 * _NS  # IEEE 802.1D's default
    learning: bool = True  # without it every frame goes to every port, as in a hub
    learning_limit: int | None = None  # at most so many addresses; all others are flooded
    drop_announcements: Dropped = "none"  # of the guest's, where they come in

    def __post_init__(self) -> None:
        problems = [
            f"fabric.switch.{name}: {getattr(self, f'{name}_ns') / _NS:g} s is out of range: "
            f"the Linux bridge takes {low} to {high} s."
            for name, (low, high) in _LIMITS_S.items()
            if not low * _NS <= getattr(self, f"{name}_ns") <= high * _NS
        ]
        if not 0 <= self.ageing_ns <= _AGEING_MAXIMUM_S * _NS:
            asked = f"{self.ageing_ns / _NS:g} s"
            problems.append(f"fabric.switch.ageing: {asked} is out of range: it can be 0 to {_AGEING_MAXIMUM_S} s.")
        if self.learning_limit is not None and not (self.learning and self.learning_limit > 0):
            problems.append("fabric.switch.learning_limit: it must be above 0, and switches must learn at all.")
        if problems:
            raise PlanError(*problems)

    @property
    def convergence_ns(self) -> int:
        """How long it can take until the tree stands and nobody speaks of a change any more.

        The age of what a lost root said, listening, learning, and the root's notice of the change.
        """
        return 2 * self.max_age_ns + 3 * self.forward_delay_ns

    def options(self, *, stp: bool, priority: int) -> dict[str, int]:
        """The options of `ip link add type bridge`, and what `ip -d -j link show` has to say of them.

        Without a tree a port forwards as soon as it has a carrier. No multicast snooping: with nobody to query, it
        would only make the fate of a frame depend on its age.
        """
        timers = {"forward_delay": 0}
        if stp:
            timers = {
                "forward_delay": self.forward_delay_ns // CENTISECOND_NS,
                "hello_time": self.hello_ns // CENTISECOND_NS,
                "max_age": self.max_age_ns // CENTISECOND_NS,
                "priority": priority,
            }
        return {
            "stp_state": int(stp),
            **timers,
            "ageing_time": self.ageing_ns // CENTISECOND_NS,
            "mcast_snooping": 0,
        }


def differences(asked: Mapping[str, int], read: Mapping[str, Any]) -> list[str]:
    """What of the bridge's `info_data` is not as asked, e.g. "stp_state is 1 instead of 0"; empty if all is well."""
    wrong = [f"{key} is {read.get(key)} instead of {value}" for key, value in asked.items() if read.get(key) != value]
    return wrong + [f"{key} is 1" for key in read if key.startswith("nf_call_") and read[key]]
