"""The emulator: a namespace in the middle of each link that does more to frames than let them wait for their turn.

Such a link is two veth pairs that meet here. So whatever befalls frames befalls them where nobody captures: past the
sender's interface and before the receiver's. Loss is nftables' (`forwarding`), at the port where frames come in; delay,
reordering and repetition are netem's (`netem`), at the port where they leave. Where the kernel has no netem, a process
does all of it (`relay`) for the links that need it, in both directions.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unnoticed.errors import FabricError, MachineError
from unnoticed.topology.direction import Direction
from unnoticed.topology.forwarding import (
    Way,
    lost_frames,
    read_table,
    run_nft,
    table_lines,
    way_differences,
)
from unnoticed.topology.link import End
from unnoticed.topology.namespaces import json_documents, run_batch, run_inside
from unnoticed.topology.netem import netem_differences, netem_line
from unnoticed.topology.relay import MOST_BIT_PER_S, Relay, dropped, held, settings

NAME = "emulator"
FORWARDED, NFTABLES, NETEM, RELAY = "forwarding", "nftables", "netem", "relay"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One direction of a link through the emulator, from the port `inlet` to the port `outlet`."""

    sender: str  # the nodes at its ends
    receiver: str
    inlet: str
    outlet: str
    direction: Direction

    @property
    def name(self) -> str:
        """The direction as a plan names it; there may be several between two nodes."""
        return f"{self.sender}>{self.receiver}"


@dataclass(frozen=True, kw_only=True)
class LinkWay:
    """One direction of a link of the topology: its ends, what it is asked to be, and what implements that."""

    sender: End
    receiver: End
    asked: Direction
    means: str

    @property
    def name(self) -> str:
        """The direction as a plan names it; there may be several between two nodes."""
        return f"{self.sender.node}>{self.receiver.node}"


def ports(number: int, *, pid: int, macs: tuple[str, str]) -> tuple[End, End]:
    """The two ports of the `number`-th link in the emulator that the process `pid` holds."""
    first, second = (End(node=NAME, pid=pid, interface=f"l{number}-{side}", mac=mac) for side, mac in enumerate(macs))
    return first, second


def try_netem() -> bool:
    """Whether the kernel has netem, found by putting it on lo of the calling thread's namespace and taking it off."""
    try:
        run_batch(["tc"], ["qdisc add dev lo root netem delay 1ms"])
    except FabricError:
        return False
    run_batch(["tc"], ["qdisc del dev lo root"])
    return True


class Emulator:
    """The passages through one namespace, which the process `pid` holds."""

    def __init__(self, pid: int, passages: Sequence[Passage]) -> None:
        self.pid = pid
        self.passages = list(passages)
        self._netem: list[Passage] = []
        self._relayed: list[Passage] = []
        self._relay: Relay | None = None
        self.seed = secrets.randbits(63)  # of what the relay leaves to chance

    def begin(self, *, environment: Mapping[str, str]) -> None:
        """Find what can do what is asked, and start the relay if it is needed; the ports need not be there yet.

        The relay's environment carries the run's marks. Raises MachineError if nothing here can do it.
        """
        holding = [passage for passage in self.passages if passage.direction.needs_holding]
        if not holding:
            return
        [has_netem] = run_inside([(self.pid, try_netem)])
        if has_netem:
            self._netem = holding
            return
        fast = [
            passage.name
            for passage in holding
            if passage.direction.rate_bit_per_s is None or passage.direction.rate_bit_per_s > MOST_BIT_PER_S
        ]
        if fast:
            raise MachineError(
                f"Links faster than {MOST_BIT_PER_S // 1_000_000} Mbit/s can have a delay only by netem, which this "
                f"kernel lacks ({', '.join(fast)}): give them a lower rate, or load sch_netem (modprobe sch_netem; a "
                "Debian kernel has it)."
            )
        links = {frozenset((passage.inlet, passage.outlet)) for passage in holding}
        self._relayed = [each for each in self.passages if frozenset((each.inlet, each.outlet)) in links]
        asked = [(held(each.direction, inlet=each.inlet, outlet=each.outlet), each.direction) for each in self._relayed]
        self._relay = Relay(self.pid, settings(asked, seed=self.seed), environment=environment)

    @property
    def relayed_ports(self) -> frozenset[str]:
        """The ports whose frames leave the kernel: they must come in with their check sums."""
        return frozenset(passage.inlet for passage in self._relayed)

    def set_up(self) -> None:
        """Make the passages, now that the ports are there, and read them back. Raises FabricError."""
        run_inside([(self.pid, self._set_up)])
        if self._relay is not None:
            self._relay.open()

    def check(self) -> None:
        """Read the passages back. Raises FabricError unless they are what was asked."""
        run_inside([(self.pid, self._check)])

    def means(self, passage: Passage) -> str:
        """What implements a passage, in words."""
        if passage in self._relayed:
            return RELAY
        words = [
            *([NFTABLES] if passage.direction.loss_ppm else []),
            *([NETEM] if passage in self._netem else []),
        ]
        return " and ".join(words) or FORWARDED

    def describe(self) -> list[dict[str, Any]]:
        """Every passage for a trial's records."""
        return [{**asdict(passage), "means": self.means(passage)} for passage in self.passages]

    def lost_frames(self) -> dict[str, int]:
        """How many frames were lost as asked so far, by direction. Raises FabricError."""
        [by_inlet] = run_inside([(self.pid, lambda: dict(lost_frames(read_table())))])
        by_inlet |= {each.inlet: counts["lost"] for each, counts in self._relay_counts()}
        return _by_name(self.passages, by_inlet)

    def dropped_frames(self) -> dict[str, int]:
        """How many frames the relay had to drop though nobody asked for it, by direction. Raises FabricError."""
        return _by_name(self._relayed, {each.inlet: dropped(counts) for each, counts in self._relay_counts()})

    def relay_counts(self) -> dict[str, dict[str, int]]:
        """What the relay counted, by inlet; empty without one. Raises FabricError."""
        return {each.inlet: counts for each, counts in self._relay_counts()}

    def close(self) -> None:
        """End the relay; the rest goes with the namespace."""
        if self._relay is not None:
            self._relay.close()
            self._relay = None

    def _relay_counts(self) -> list[tuple[Passage, dict[str, int]]]:
        return [] if self._relay is None else list(zip(self._relayed, self._relay.counts(), strict=True))

    def _way(self, passage: Passage) -> Way:
        if passage in self._relayed:
            return Way(inlet=passage.inlet, outlet=None, loss_ppm=0)
        return Way(inlet=passage.inlet, outlet=passage.outlet, loss_ppm=passage.direction.loss_ppm)

    def _set_up(self) -> None:
        run_batch(["ip"], [f"link set dev {passage.inlet} up" for passage in self.passages])
        run_nft(table_lines([self._way(passage) for passage in self.passages]))
        if self._netem:
            run_batch(["tc"], [netem_line(passage.direction, passage.outlet) for passage in self._netem])
        self._check()

    def _check(self) -> None:
        wrong = way_differences([self._way(passage) for passage in self.passages], read_table())
        if self._netem:
            lines = [f"qdisc show dev {passage.outlet}" for passage in self._netem]
            shown = json_documents(run_batch(["tc", "-j"], lines))
            for passage, qdiscs in zip(self._netem, shown, strict=True):
                wrong += [f"{passage.outlet}: {each}" for each in netem_differences(passage.direction, qdiscs)]
        if wrong:
            raise FabricError(f"Links are not what was asked for: {'; '.join(wrong)}.")


def _by_name(passages: Sequence[Passage], by_inlet: Mapping[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for passage in passages:
        total[passage.name] = total.get(passage.name, 0) + by_inlet.get(passage.inlet, 0)
    return total
