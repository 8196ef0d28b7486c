"""What the switches of a fabric are asked to be, and what the kernel says they became. Pure.

The limits of the Linux bridge are in net/bridge/br_stp_if.c and include/net/br_private.h: with a spanning tree a
forward delay of 2 to 30 s, a hello of 1 to 10 s and a maximum age of 6 to 40 s. Its tree is that of IEEE 802.1D,
without the rapid transitions of 802.1w: a port that is to forward listens for one forward delay and learns for another.
Those of Open vSwitch, which has both trees, are in its lib/stp.c, lib/rstp.h and lib/mac-learning.c: whole seconds, and
no forward delay below half of the maximum age and one second more; what is out of range it changes without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unnoticed.errors import PlanError
from unnoticed.topology.announcement_filter import Dropped

CENTISECOND_NS = 10_000_000  # what the kernel counts bridge times in, wherever a user can see them
_NS = 1_000_000_000
MOST_PRIORITY = 65_535  # of a switch in a spanning tree: 16 bits of its identifier (IEEE 802.1D, 9.2.5)
Kind = Literal["bridge", "ovs"]
_NAMES: dict[Kind, str] = {"bridge": "the Linux bridge", "ovs": "Open vSwitch"}
_TIMERS_S: dict[Kind, dict[str, tuple[int, int]]] = {
    "bridge": {"forward_delay": (2, 30), "hello": (1, 10), "max_age": (6, 40)},
    "ovs": {"forward_delay": (4, 30), "hello": (1, 10), "max_age": (6, 40)},
}
_AGEING_S: dict[Kind, tuple[int, int]] = {"bridge": (0, 1_000_000), "ovs": (15, 3600)}  # the first: IEEE 802.1D's


@dataclass(frozen=True, kw_only=True)
class Switching:
    """The settings of every switch.

    `stp` None: a spanning tree where the topology has a loop, and none elsewhere; "rapid": that of IEEE 802.1w.
    """

    kind: Kind = "bridge"
    stp: bool | Literal["rapid"] | None = None
    forward_delay_ns: int | None = None  # unless said, the shortest time that the kind of switch takes
    hello_ns: int = 1 * _NS  # the shortest that both kinds take
    max_age_ns: int = 6 * _NS
    ageing_ns: int = 300 * _NS  # IEEE 802.1D's default
    learning: bool = True  # without it every frame goes to every port, as in a hub
    learning_limit: int | None = None  # at most so many addresses; all others are flooded
    drop_announcements: Dropped = "none"  # of the guest's, where they come in

    def __post_init__(self) -> None:
        asked = {"forward_delay": self.tree_delay_ns, "hello": self.hello_ns, "max_age": self.max_age_ns}
        takes = f"{_NAMES[self.kind]} takes"
        problems = [
            f"fabric.switch.{name}: {asked[name] / _NS:g} s is out of range: {takes} {low} to {high} s."
            for name, (low, high) in _TIMERS_S[self.kind].items()
            if not low * _NS <= asked[name] <= high * _NS
        ]
        low, high = _AGEING_S[self.kind]
        if not low * _NS <= self.ageing_ns <= high * _NS:
            age = f"{self.ageing_ns / _NS:g} s"
            problems.append(f"fabric.switch.ageing: {age} is out of range: {takes} {low} to {high} s.")
        if self.learning_limit is not None and not (self.learning and self.learning_limit > 0):
            problems.append("fabric.switch.learning_limit: it must be above 0, and switches must learn at all.")
        problems += self._problems_of_a_bridge() if self.kind == "bridge" else self._problems_of_ovs(asked)
        if problems:
            raise PlanError(*problems)

    def _problems_of_a_bridge(self) -> list[str]:
        if self.stp != "rapid":
            return []
        return ['fabric.switch.stp: the Linux bridge has no rapid spanning tree; fabric.switch.kind = "ovs" has.']

    def _problems_of_ovs(self, asked: Mapping[str, int]) -> list[str]:
        broken = [name for name, value in (*asked.items(), ("ageing", self.ageing_ns)) if value % _NS]
        problems = [f"fabric.switch.{name}: Open vSwitch takes whole seconds." for name in broken]
        if not 2 * (self.hello_ns + _NS) <= self.max_age_ns <= 2 * (self.tree_delay_ns - _NS):
            problems.append(
                "fabric.switch.max_age: Open vSwitch keeps to IEEE 802.1D (8.10.2): at least twice the hello and one "
                "second more, at most twice the forward delay less one second."
            )
        if self.learning_limit is not None:
            problems.append(
                "fabric.switch.learning_limit: Open vSwitch would forget another address for each above it; "
                'leave it out, or take fabric.switch.kind = "bridge".'
            )
        return problems

    @property
    def tree_delay_ns(self) -> int:
        """The forward delay of the spanning tree."""
        shortest = _TIMERS_S[self.kind]["forward_delay"][0] * _NS
        return shortest if self.forward_delay_ns is None else self.forward_delay_ns

    @property
    def is_rapid(self) -> bool:
        """Whether a tree, if there is one, is that of IEEE 802.1w."""
        return self.stp == "rapid"

    @property
    def convergence_ns(self) -> int:
        """How long it can take until the tree stands and nobody speaks of a change any more.

        The age of what a lost root said, listening, learning, and the root's notice of the change.
        """
        return 2 * self.max_age_ns + 3 * self.tree_delay_ns

    def options(self, *, stp: bool, priority: int) -> dict[str, int]:
        """The options of `ip link add type bridge`, and what `ip -d -j link show` has to say of them.

        Without a tree a port forwards as soon as it has a carrier. No multicast snooping: with nobody to query, it
        would only make the fate of a frame depend on its age.
        """
        timers = {"forward_delay": 0}
        if stp:
            timers = {
                "forward_delay": self.tree_delay_ns // CENTISECOND_NS,
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
