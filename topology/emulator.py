"""The emulator: a namespace in the middle of each link that does more to frames than let them wait for their turn.

Such a link is two veth pairs that meet here. So whatever befalls frames befalls them where nobody captures: past the
sender's interface and before the receiver's. Loss is nftables' (`forwarding`), at the port where frames come in; delay,
reordering and repetition are netem's (`netem`), at the port where they leave. Where the kernel has no netem, a process
does all of it (`relay`) for the links that need it, in both directions.
"""

from __future__ import annotations

import dataclasses
import functools
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
from unnoticed.topology.offloads import compute_checksums
from unnoticed.topology.relay import MOST_BIT_PER_S, Relay, dropped, held, settings

NAME = "emulator"
FORWARDED, NFTABLES, NETEM, RELAY = "forwarding", "nftables", "netem", "relay"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One direction of a link through the emulator, from the port `inlet` to the port `outlet`.

    `direction`: what it is asked to be; `later`: what else it will be asked to be, as far as that is known beforehand.
    """

    sender: str  # the nodes at its ends
    receiver: str
    inlet: str
    outlet: str
    direction: Direction
    later: tuple[Direction, ...] = ()

    @property
    def name(self) -> str:
        """The direction as a plan names it; there may be several between two nodes."""
        return f"{self.sender}>{self.receiver}"

    @property
    def states(self) -> tuple[Direction, ...]:
        """All that it is known to become, first what it is."""
        return (self.direction, *self.later)

    @property
    def needs_holding(self) -> bool:
        """Whether frames must be held or repeated, now or later."""
        return any(state.needs_holding for state in self.states)


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
    """The passages through one namespace, which the process `pid` holds.

    `outer`: the end of the link that each port is wired to.
    """

    def __init__(self, pid: int, passages: Sequence[Passage], *, outer: Mapping[str, End]) -> None:
        self.pid = pid
        self.seed = secrets.randbits(63)  # of what relays leave to chance
        self._passages = {passage.inlet: passage for passage in passages}
        self._outer = dict(outer)
        self._environment: dict[str, str] = {}
        self._has_netem: bool | None = None  # not tried yet
        self._netem: set[str] = set()  # inlets of the passages whose outlets have it
        self._relays: list[Relay] = []
        self._rows: dict[str, tuple[Relay, int]] = {}  # the relay of an inlet, and its row there

    @property
    def passages(self) -> list[Passage]:
        """All passages, as they are now."""
        return list(self._passages.values())

    def begin(self, *, environment: Mapping[str, str]) -> None:
        """Find what can do what is asked, and start a relay if one is needed; the ports need not be there yet.

        The relay's environment carries the run's marks. Raises MachineError if nothing here can do it.
        """
        self._environment = dict(environment)
        self._find_means([passage for passage in self.passages if passage.needs_holding])

    def set_up(self) -> None:
        """Make the passages, now that the ports are there, and read them back. Raises FabricError."""
        run_inside([(self.pid, self._set_up)])
        for relay in self._relays:
            self._open(relay)

    def change(self, new: Mapping[str, Direction]) -> None:
        """Let the passages from these inlets be something else, and read them back.

        Raises MachineError if nothing here can do it, and FabricError if they did not become so.
        """
        for inlet, direction in new.items():
            self._passages[inlet] = dataclasses.replace(self._passages[inlet], direction=direction)
        had_netem = set(self._netem)
        known = {*self._rows, *self._netem}
        late = [self._passages[inlet] for inlet in new if self._passages[inlet].needs_holding and inlet not in known]
        before = len(self._relays)
        self._find_means(late)
        for relay in self._relays[before:]:
            self._open(relay)
        for inlet, direction in new.items():
            if inlet in self._rows:
                relay, row = self._rows[inlet]
                relay.ask(row, direction)
        changed = [passage for passage in self.passages if passage.inlet in new or passage.inlet in self._rows]

        def change() -> None:
            run_nft([line for passage in changed for line in self._way(passage).change_lines()])
            lines = [
                netem_line(
                    passage.direction, passage.outlet, verb="change" if passage.inlet in had_netem else "add"
                )
                for passage in changed
                if passage.inlet in self._netem
            ]  # fmt: skip
            if lines:
                run_batch(["tc"], lines)
            self._check()

        run_inside([(self.pid, change)])

    def means(self, inlet: str) -> str:
        """What implements the passage from a port, in words."""
        if inlet in self._rows:
            return RELAY
        lossy = self._passages[inlet].direction.loss_ppm > 0
        words = [*([NFTABLES] if lossy else []), *([NETEM] if inlet in self._netem else [])]
        return " and ".join(words) or FORWARDED

    def describe(self) -> list[dict[str, Any]]:
        """Every passage for a trial's records."""
        return [{**asdict(passage), "means": self.means(passage.inlet)} for passage in self.passages]

    def lost_frames(self) -> dict[str, int]:
        """How many frames were lost as asked so far, by direction. Raises FabricError."""
        [by_inlet] = run_inside([(self.pid, lambda: dict(lost_frames(read_table())))])
        for inlet, counts in self.relay_counts().items():
            by_inlet[inlet] = by_inlet.get(inlet, 0) + counts["lost"]
        return self._by_name(by_inlet)

    def dropped_frames(self) -> dict[str, int]:
        """How many frames relays had to drop though nobody asked for it, by direction. Raises FabricError."""
        return self._by_name({inlet: dropped(counts) for inlet, counts in self.relay_counts().items()})

    def relay_counts(self) -> dict[str, dict[str, int]]:
        """What relays counted, by inlet; empty without one. Raises FabricError."""
        rows = {relay: relay.counts() for relay in self._relays}
        return {inlet: rows[relay][row] for inlet, (relay, row) in self._rows.items()}

    def close(self) -> None:
        """End the relays; the rest goes with the namespace."""
        while self._relays:
            self._relays.pop().close()

    def _find_means(self, holding: Sequence[Passage]) -> None:
        """Netem, or a relay that starts now, for passages that hold frames. Raises MachineError where neither can."""
        if not holding:
            return
        if self._has_netem is None:
            [self._has_netem] = run_inside([(self.pid, try_netem)])
        if self._has_netem:
            self._netem |= {passage.inlet for passage in holding}
            return
        fast = [
            passage.name
            for passage in holding
            if any((state.rate_bit_per_s or MOST_BIT_PER_S + 1) > MOST_BIT_PER_S for state in passage.states)
        ]
        if fast:
            raise MachineError(
                f"Links faster than {MOST_BIT_PER_S / 1e9:g} Gbit/s can have a delay only by netem, which this "
                f"kernel lacks ({', '.join(fast)}): give them a lower rate, or load sch_netem (modprobe sch_netem; a "
                "Debian kernel has it)."
            )
        links = {frozenset((passage.inlet, passage.outlet)) for passage in holding}
        relayed = [each for each in self.passages if frozenset((each.inlet, each.outlet)) in links]
        given = settings(
            [(held(each.direction, inlet=each.inlet, outlet=each.outlet), each.states) for each in relayed],
            seed=self.seed + len(self._relays),
        )
        relay = Relay(self.pid, given, environment=self._environment)
        self._relays.append(relay)
        self._rows |= {passage.inlet: (relay, row) for row, passage in enumerate(relayed)}

    def _open(self, relay: Relay) -> None:
        """Let a relay take frames, which must come to it with their check sums."""
        ends = [self._outer[inlet] for inlet, (whose, _) in self._rows.items() if whose is relay]
        run_inside([(end.pid, functools.partial(compute_checksums, [end.interface], where=end.node)) for end in ends])
        relay.open()

    def _way(self, passage: Passage) -> Way:
        if passage.inlet in self._rows:
            return Way(inlet=passage.inlet, outlet=None, loss_ppm=0)
        return Way(inlet=passage.inlet, outlet=passage.outlet, loss_ppm=passage.direction.loss_ppm)

    def _set_up(self) -> None:
        run_batch(["ip"], [f"link set dev {passage.inlet} up" for passage in self.passages])
        run_nft(table_lines([self._way(passage) for passage in self.passages]))
        lines = [netem_line(each.direction, each.outlet) for each in self.passages if each.inlet in self._netem]
        if lines:
            run_batch(["tc"], lines)
        self._check()

    def _check(self) -> None:
        """Read the passages back, in the calling thread's namespace. Raises FabricError unless they are as asked."""
        wrong = way_differences([self._way(passage) for passage in self.passages], read_table())
        held_back = [passage for passage in self.passages if passage.inlet in self._netem]
        if held_back:
            lines = [f"qdisc show dev {passage.outlet}" for passage in held_back]
            shown = json_documents(run_batch(["tc", "-j"], lines))
            for passage, qdiscs in zip(held_back, shown, strict=True):
                wrong += [f"{passage.outlet}: {each}" for each in netem_differences(passage.direction, qdiscs)]
        if wrong:
            raise FabricError(f"Links are not what was asked for: {'; '.join(wrong)}.")

    def _by_name(self, by_inlet: Mapping[str, int]) -> dict[str, int]:
        total: dict[str, int] = {}
        for inlet, count in by_inlet.items():
            name = self._passages[inlet].name
            total[name] = total.get(name, 0) + count
        return total
