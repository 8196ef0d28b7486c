"""The links of a fabric: what each direction is asked to be, the veth pairs it is made of, and changes while it is up.

A link that does no more than hold a rate is one veth pair with a queue at either end. One that loses, delays, repeats
or reorders frames, or may be asked to later, is two pairs that meet in the emulator.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

from unnoticed.errors import PlanError
from unnoticed.topology import emulator
from unnoticed.topology.direction import Direction, LinkChange, cut_problems, directions, futures, no_such_link, select
from unnoticed.topology.emulator import Emulator, LinkWay, Passage
from unnoticed.topology.link import End, reshape, set_administrative, shape
from unnoticed.topology.namespaces import run_inside
from unnoticed.topology.network import Network
from unnoticed.topology.offloads import send_single_frames
from unnoticed.topology.shaping import Shaping
from unnoticed.topology.spec import FabricSpec

Ends = tuple[End, End]


class Links:
    """The links of a network whose nodes are there. Raises PlanError if they cannot be what is asked."""

    def __init__(self, network: Network, spec: FabricSpec, *, kinds: Mapping[str, str]) -> None:
        """`kinds`: what each node is, for names of links. The guest's own links stand for no cable."""
        guests = set(network.bridged.values())
        self.emulator: Emulator | None = None
        self._network, self._kinds = network, kinds
        self._ends: list[Ends] = [link.ends for link in network.links if not guests & {end.node for end in link.ends}]
        self._pairs = [(one.node, other.node) for one, other in self._ends]
        self._read: dict[tuple[str, str], dict[str, int]] = {}
        self._detours: dict[Ends, Ends] = {}
        self._single: set[Ends] = set()  # the links that carry nothing but single frames
        self._lock = threading.Lock()  # a schedule changes links while others look at them
        asked = directions(self._pairs, base=spec.direction, changes=spec.links, kinds=kinds)
        self._first = self._by_end(asked)  # what each direction was asked to be at first
        self._asked = dict(self._first)  # and what it is asked to be now, by node and interface of the sending end
        possible = futures(self._pairs, asked, later=spec.later, cut=spec.cut_later, kinds=kinds)
        cut = {number for link in spec.cut_later for number, _ in self._meant(link)}
        self._detour(possible, always=set(range(len(self._ends))) if spec.adjustable else cut)

    # -- building them ---------------------------------------------------------------------------------------------

    def veths(self) -> Iterator[Ends]:
        """The veth pairs to be made, those of the guest among them."""
        for link in self._network.links:
            one, other = link.ends
            if (one, other) in self._detours:
                here, yonder = self._detours[one, other]
                yield one, here
                yield other, yonder
            else:
                yield one, other

    def begin(self, marks: Mapping[str, str]) -> None:
        """Find what can do what is asked, and start what takes long to start. Raises MachineError."""
        if self.emulator is not None:
            self.emulator.begin(environment=marks)

    def set_up(self) -> None:
        """Make the links what they are asked to be, now that the pairs are there, and read that back.

        Raises FabricError.
        """
        shapings: dict[tuple[str, int], dict[str, Shaping]] = {}
        for end in (end for ends in self._ends for end in ends):
            shaping = self._asked[end.node, end.interface].shaping
            if shaping is not None:
                shapings.setdefault((end.node, end.pid), {})[end.interface] = shaping
        jobs = [(pid, functools.partial(shape, asked, where=node)) for (node, pid), asked in shapings.items()]
        for (node, _), found in zip(shapings, run_inside(jobs), strict=True):
            self._read |= {(node, device): asdict(reading) for device, reading in found.items()}
        if self.emulator is None:
            return
        self.emulator.set_up()
        lossy = {passage.inlet for passage in self.emulator.passages if any(map(_is_impaired, passage.states))}
        self._cut_into_frames(lossy)

    def close(self) -> None:
        """End the relays; the rest goes with the namespaces."""
        if self.emulator is not None:
            self.emulator.close()

    # -- looking at them -------------------------------------------------------------------------------------------

    def ways(self) -> list[LinkWay]:
        """Each direction of each link, in order."""
        found = []
        for ends in self._ends:
            inlets = [port.interface for port in self._detours.get(ends, ())]
            for number, (sender, receiver) in enumerate((ends, ends[::-1])):
                asked = self._asked[sender.node, sender.interface]
                words = ["HTB"] if asked.rate_bit_per_s is not None else []
                if self.emulator is not None and inlets:
                    words.append(self.emulator.means(inlets[number]))
                found.append(LinkWay(sender=sender, receiver=receiver, asked=asked, means=", ".join(words) or "veth"))
        return found

    def describe(self) -> list[dict[str, Any]]:
        """Every link of the network, the guest's too: asked (by the end that sends), read back, and its ports."""
        found = []
        for link in self._network.links:
            asked = [self._first.get((end.node, end.interface)) for end in link.ends]
            found.append({
                "asked": [asdict(each) for each in asked if each is not None] or None,
                "ends": [{**asdict(end), "read": self._read.get((end.node, end.interface))} for end in link.ends],
                "through": [asdict(end) for end in self._detours.get(link.ends, ())],
            })  # fmt: skip
        return found

    # -- changing them ---------------------------------------------------------------------------------------------

    def change(self, change: LinkChange) -> None:
        """Let some links be something else from now on, and read that back.

        Raises PlanError if there is no such link, or it cannot be that; FabricError if it did not become so.
        """
        with self._lock:
            new = {}
            for number, there in sorted(self._known(change.link, change.meant(self._pairs, self._kinds))):
                end = self._ends[number][0 if there else 1]
                new[end] = change.applied(self._asked[end.node, end.interface])
            self._become(new)

    def cut(self, link: str) -> None:
        """Cut some links: the switches at their ends lose the carrier there.

        A host at the end of a link that runs through the emulator keeps its carrier, so that what it sends meanwhile
        is still seen by its capture, and its kernel keeps its neighbours. Raises PlanError, also for a link that names
        one direction, and FabricError.
        """
        if problems := cut_problems(link):
            raise PlanError(*problems)
        with self._lock:
            set_administrative(self._cable(link), up=False)

    def restore(self, link: str) -> None:
        """Let some links be what they were at first, and plug them in. Raises PlanError, FabricError.

        Of a link that names one direction only that gets its values back; plugged in, it carries frames both ways.
        """
        with self._lock:
            meant = [self._ends[number][0 if there else 1] for number, there in sorted(self._meant(link))]
            self._become({end: self._first[end.node, end.interface] for end in meant})
            set_administrative(self._cable(link), up=True)

    def _become(self, new: Mapping[End, Direction]) -> None:
        passages: dict[str, Direction] = {}
        for end, direction in new.items():
            inlet = self._inlet(end)
            if inlet is not None:
                passages[inlet] = direction
            elif direction.is_impaired:
                raise PlanError(
                    f"The link at {end.interface} of {end.node} was made to hold a rate and nothing more: ask for what "
                    "it is to become in the plan's fabric.schedule."
                )
        for end, direction in new.items():
            before = self._asked[end.node, end.interface].shaping
            if direction.shaping != before:
                change = functools.partial(reshape, end.interface, before, direction.shaping, where=end.node)
                run_inside([(end.pid, change)])
            self._asked[end.node, end.interface] = direction
        if self.emulator is not None and passages:
            self._cut_into_frames({inlet for inlet, direction in passages.items() if direction.is_impaired})
            self.emulator.change(passages)

    def _cut_into_frames(self, inlets: Set[str]) -> None:
        """Let only single frames come to these ports and the ports they lead to, if that is not so yet.

        A link that forwards and nothing more is left to carry large pieces, which costs far less.
        """
        devices: dict[tuple[str, int], list[str]] = {}
        for ends, ports in self._detours.items():
            if ends not in self._single and inlets & {port.interface for port in ports}:
                self._single.add(ends)
                for end in ends:
                    devices.setdefault((end.node, end.pid), []).append(end.interface)
        run_inside(
            [(pid, functools.partial(send_single_frames, names, where=node)) for (node, pid), names in devices.items()]
        )

    def _meant(self, link: str) -> set[tuple[int, bool]]:
        return self._known(link, select(link, self._pairs, self._kinds))

    def _known(self, link: str, found: set[tuple[int, bool]]) -> set[tuple[int, bool]]:
        if not found:
            raise PlanError(no_such_link(link, self._pairs))
        return found

    def _cable(self, link: str) -> list[End]:
        """Where to pull some links; a cable has no direction."""
        pulled: list[End] = []
        for number in sorted({number for number, _ in self._meant(link)}):
            ends = self._ends[number]
            places = self._detours.get(ends, ends)
            at_switches = [
                place for end, place in zip(ends, places, strict=True) if self._kinds.get(end.node) == "switches"
            ]
            pulled += at_switches or places
        return pulled

    def _inlet(self, end: End) -> str | None:
        """The port of the emulator that takes what this end sends."""
        for ends, ports in self._detours.items():
            if end in ends:
                return ports[ends.index(end)].interface
        return None

    # -- planning them ---------------------------------------------------------------------------------------------

    def _by_end(self, asked: list[tuple[Direction, Direction]]) -> dict[tuple[str, str], Direction]:
        return {
            (end.node, end.interface): direction
            for ends, both in zip(self._ends, asked, strict=True)
            for end, direction in zip(ends, both, strict=True)
        }

    def _detour(self, possible: Sequence[tuple[list[Direction], list[Direction]]], *, always: set[int]) -> None:
        """Let the links that need it run through the emulator, and those of the numbers in `always`."""
        through = [
            number
            for number, both in enumerate(possible)
            if number in always or any(state.is_impaired for states in both for state in states)
        ]
        if not through:
            return
        pid, passages = self._network.add_emulator(), []
        outer: dict[str, End] = {}
        for place, number in enumerate(through):
            ends = self._ends[number]
            ports = emulator.ports(place, pid=pid, macs=(self._network.port_mac(), self._network.port_mac()))
            self._detours[ends] = ports
            outer |= {port.interface: end for port, end in zip(ports, ends, strict=True)}
            for side, states in enumerate(possible[number]):
                passages.append(
                    Passage(
                        sender=ends[side].node,
                        receiver=ends[1 - side].node,
                        inlet=ports[side].interface,
                        outlet=ports[1 - side].interface,
                        direction=states[0],
                        later=tuple(states[1:]),
                    )
                )
        self.emulator = Emulator(pid, passages, outer=outer)


def _is_impaired(direction: Direction) -> bool:
    return direction.is_impaired
