"""The emulator: a namespace in the middle of each link that does more to frames than let them wait for their turn.

Such a link is two veth pairs that meet here. So whatever befalls frames befalls them where nobody captures: past the
sender's interface and before the receiver's. Loss is nftables' (`forwarding`), at the port where frames come in; delay,
reordering and repetition are netem's (`netem`), at the port where they leave.
"""

from __future__ import annotations

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
from unnoticed.topology.namespaces import json_documents, run_batch
from unnoticed.topology.netem import netem_differences, netem_line

NAME = "emulator"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One direction of a link through the emulator, from the port `inlet` to the port `outlet`."""

    sender: str  # the nodes at its ends
    receiver: str
    inlet: str
    outlet: str
    direction: Direction

    @property
    def way(self) -> Way:
        """What nftables does for it."""
        return Way(inlet=self.inlet, outlet=self.outlet, loss_ppm=self.direction.loss_ppm)

    @property
    def means(self) -> str:
        """What implements it, in words."""
        words = [
            *(["nftables (loss)"] if self.direction.loss_ppm else []),
            *(["netem (delay)"] if self.direction.needs_holding else []),
        ]
        return ", ".join(words) or "forwarded"


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


def set_up(passages: Sequence[Passage]) -> None:
    """Make the passages in the calling thread's namespace, whose ports are there, and read them back.

    Raises MachineError if this machine has no means for what is asked, and FabricError if it is not what was asked.
    """
    held = [passage for passage in passages if passage.direction.needs_holding]
    if held and not try_netem():
        asked = ", ".join(f"{passage.sender}>{passage.receiver}" for passage in held)
        raise MachineError(
            f"The kernel has no netem, which links with a delay need ({asked}): modprobe sch_netem, or run a kernel "
            "with CONFIG_NET_SCH_NETEM (Debian's has it as a module)."
        )
    run_batch(["ip"], [f"link set dev {passage.inlet} up" for passage in passages])
    run_nft(table_lines([passage.way for passage in passages]))
    if held:
        run_batch(["tc"], [netem_line(passage.direction, passage.outlet) for passage in held])
    check(passages)


def check(passages: Sequence[Passage]) -> None:
    """Read the passages back, in the calling thread's namespace. Raises FabricError unless they are what was asked."""
    wrong = way_differences([passage.way for passage in passages], read_table())
    held = [passage for passage in passages if passage.direction.needs_holding]
    if held:
        shown = json_documents(run_batch(["tc", "-j"], [f"qdisc show dev {passage.outlet}" for passage in held]))
        for passage, qdiscs in zip(held, shown, strict=True):
            wrong += [f"{passage.outlet}: {each}" for each in netem_differences(passage.direction, qdiscs)]
    if wrong:
        raise FabricError(f"Links are not what was asked for: {'; '.join(wrong)}.")


def losses() -> Mapping[str, int]:
    """How many frames were lost so far, by inlet; in the calling thread's namespace."""
    return lost_frames(read_table())


def described(passage: Passage) -> dict[str, Any]:
    """A passage for a trial's records."""
    return {**asdict(passage), "means": passage.means}
