"""Links and hosts as Mininet knows them, without its node shells: veth pairs made in the two namespaces themselves.

Mininet configures by typing commands into a shell of each node and ignores what they answer. Here a link only notes
which veth pair it is; the fabric makes all pairs at once (`make_veths`), shapes them and checks the result.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unnoticed.errors import FabricError
from unnoticed.topology.namespaces import device_folder, json_documents, run_batch, run_inside
from unnoticed.topology.quietly import Host, Intf, Link
from unnoticed.topology.shaping import Shaping, ShapingReading, differences, read_shaping

MTU_BYTES = 1500
_FIRST_INDEX = 100


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of a veth pair: the namespace it is in, by the pid of its shell, and what it is called there."""

    node: str
    pid: int
    interface: str
    mac: str


class PlainIntf(Intf):  # type: ignore[misc]  # mininet has no types
    """An interface that Mininet knows of and leaves alone."""

    def config(self, **_params: Any) -> dict[str, Any]:
        """Nothing: the fabric brings interfaces up, and checks."""
        return {}


class PlainHost(Host):  # type: ignore[misc]
    """A host that Mininet gives a namespace and a shell, and leaves alone."""

    @classmethod
    def setup(cls) -> None:
        """Nothing: the fabric has checked for mnexec, and Mininet's own check exits the process."""

    def config(self, **_params: Any) -> dict[str, Any]:
        """Nothing: the fabric gives addresses, and checks."""
        return {}


class VethLink(Link):  # type: ignore[misc]
    """A link that is still to be made: its two `ends` say how."""

    ends: tuple[End, End]

    def makeIntfPair(  # noqa: N802, PLR0917  # Mininet's
        self, intfname1: str, intfname2: str, addr1: str, addr2: str, node1: Any, node2: Any, **_options: Any
    ) -> None:
        """Note the two ends; `make_veths` makes them."""
        self.ends = (
            End(node=node1.name, pid=node1.pid, interface=intfname1, mac=addr1),
            End(node=node2.name, pid=node2.pid, interface=intfname2, mac=addr2),
        )

    def delete(self) -> None:
        """Nothing: the namespaces take their devices with them."""


def make_veths(pairs: Iterable[tuple[End, End]]) -> None:
    """Make each veth pair, with one command per namespace, from the end that has more of them.

    Each device is born in the namespace it belongs to; in between nothing has a name anywhere else. And each gets an
    index of its own: where the two ends happen to have the same index in their namespaces, the kernel takes the pair
    for a physical port, and its carrier's arrival is not urgent to it but comes up to a second late
    (net/core/link_watch.c, linkwatch_urgent_event). Raises FabricError.
    """
    pairs = list(pairs)
    uses = Counter(end.pid for pair in pairs for end in pair)
    lines: dict[int, list[str]] = {}
    for number, pair in enumerate(pairs):
        near, far = sorted(pair, key=lambda end: -uses[end.pid])
        index = _FIRST_INDEX + 2 * number
        lines.setdefault(near.pid, []).append(
            f"link add name {near.interface} index {index} address {near.mac} mtu {MTU_BYTES} type veth"
            f" peer name {far.interface} index {index + 1} address {far.mac} mtu {MTU_BYTES} netns {far.pid}"
        )
    run_inside([(pid, functools.partial(run_batch, ["ip"], batch)) for pid, batch in lines.items()])


def set_administrative(ends: Iterable[End], *, up: bool) -> None:
    """Bring ends of links up or take them down, as an operator would; a peer's carrier goes and comes with them.

    Raises FabricError.
    """
    state = "up" if up else "down"
    run_inside(
        [(end.pid, functools.partial(run_batch, ["ip"], [f"link set dev {end.interface} {state}"])) for end in ends]
    )


def shape(asked: Mapping[str, Shaping], *, where: str) -> dict[str, ShapingReading]:
    """Shape the egress of devices in the calling thread's namespace, and read it back. Keys, of both: the devices.

    Raises FabricError if a command fails, or if what is read back is not what was asked for.
    """
    devices = list(asked)
    if not devices:
        return {}
    run_batch(["tc"], [line for device in devices for line in asked[device].lines(device)])
    return _read_shapes(asked, where=where)


def reshape(device: str, before: Shaping | None, now: Shaping | None, *, where: str) -> None:
    """Let the egress of a device in the calling thread's namespace have another rate, or none, and read it back.

    Frames that wait stay where rate and queue are only changed. Raises FabricError.
    """
    if now is None:
        run_batch(["tc"], [f"qdisc del dev {device} root"])
        return
    run_batch(["tc"], now.lines(device) if before is None else now.change_lines(device))
    _read_shapes({device: now}, where=where)


def _read_shapes(asked: Mapping[str, Shaping], *, where: str) -> dict[str, ShapingReading]:
    devices = list(asked)
    qdiscs = json_documents(run_batch(["tc", "-j"], [f"qdisc show dev {device}" for device in devices]))
    classes = run_batch(["tc", "-d"], [f"class show dev {device}" for device in devices]).strip().splitlines()
    if len(qdiscs) != len(devices) or len(classes) != len(devices):
        raise FabricError(f"tc shows {qdiscs} and {classes} at {where}, which is not one class for each of {devices}.")
    readings = {}
    for device, qdisc, line in zip(devices, qdiscs, classes, strict=True):
        reading = read_shaping(qdisc, line)
        wrong = differences(asked[device], reading)
        if wrong:
            raise FabricError(f"The link at {device} of {where} is not what was asked for: {'; '.join(wrong)}.")
        readings[device] = reading
    return readings


def steer(pid: int, device: str, *, mac: str, mask: int) -> None:
    """Let every receive queue of a device steer each flow to one CPU of `mask`, and read that back.

    A veth hands frames to the CPU of whoever sends; when the sender moves to another CPU, its frames overtake one
    another, and TCP takes that for loss. The `mac` shows that the device is the one that is meant. Raises FabricError.
    """
    folder = device_folder(pid, device)
    try:
        if (folder / "address").read_text().strip() != mac:
            raise FabricError(f"The /sys of process {pid} is not of its own namespace: its {device} is not ours.")
        queues = sorted((folder / "queues").glob("rx-*/rps_cpus"))
        for queue in queues:
            _set_mask(queue, mask)
    except OSError as error:
        raise FabricError(f"Cannot set receive packet steering at {folder}: {error.strerror}.") from error
    if not queues:
        raise FabricError(f"{folder} has no receive queue to steer: this kernel lacks CONFIG_RPS.")


def _set_mask(queue: Path, mask: int) -> None:
    queue.write_text(cpu_mask(mask))
    now = int(queue.read_text().strip().replace(",", ""), 16)
    if now != mask:
        raise FabricError(f"{queue} was set to {mask:x}, but is {now:x}.")


def cpu_mask(mask: int) -> str:
    """A set of CPUs as the kernel reads it: hexadecimal words of 32 bits, the highest first, with commas."""
    words = [mask >> shift & 0xFFFFFFFF for shift in range(0, max(mask.bit_length(), 1), 32)]
    return ",".join(f"{word:08x}" for word in reversed(words))
