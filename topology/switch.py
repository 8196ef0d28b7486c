"""What all kinds of switches share: a bridge in a network namespace of its own, whatever implements it.

The states of a port are numbered as the Linux bridge does (include/uapi/linux/if_bridge.h).
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from unnoticed.topology.addresses import Address
from unnoticed.topology.namespaces import run_inside
from unnoticed.topology.quietly import Switch
from unnoticed.topology.switching import Kind, Switching

BRIDGE = "br0"  # the bridge's name in every switch and host; each has a namespace of its own
DISABLED, LISTENING, LEARNING, FORWARDING, BLOCKING = range(5)


class FabricSwitch(Switch):  # type: ignore[misc]  # mininet has no types
    """A Mininet switch that is a bridge in a namespace of its own.

    So nothing of it is in the root namespace, and it goes away with the processes in there, however they end.
    """

    kind: ClassVar[Kind]
    controlIntf = None  # noqa: N815  # read by Switch.defaultIntf; Mininet sets it only outside namespaces

    def __init__(self, name: str, **params: Any) -> None:
        """`stp`: whether it runs a spanning tree; `priority`: its own in that; `guest`: the guest's addresses."""
        params["inNamespace"] = True  # Mininet.addSwitch passes False
        if not params.get("dpid"):
            params["dpid"] = f"{zlib.crc32(name.encode()):x}"  # unused here, but Switch derives it from digits in names
        self.bridge_mac: str = params.pop("bridge_mac")
        self.switching: Switching = params.pop("switching")
        self.guest: Address = params.pop("guest")
        self.stp: bool = params.pop("stp")
        self.priority: int = params.pop("priority")
        super().__init__(name, **params)

    @classmethod
    def setup(cls) -> None:
        """Nothing: the fabric has checked for mnexec, and Mininet's own check exits the process."""

    def begin(self, marks: Mapping[str, str], folder: Path) -> None:
        """Be told, before it is set up, which marks its processes carry, and where it may have files."""

    @abstractmethod
    def set_up(self) -> None:
        """Make the bridge over all ports and read it back; to be called inside the namespace.

        Raises FabricError or MachineError.
        """

    def end(self) -> None:
        """End its processes, if it has any of its own; the rest goes with the namespace. May be repeated."""

    @abstractmethod
    def port_states(self) -> dict[str, int]:
        """The state of each port. Raises FabricError."""

    @abstractmethod
    def speaks_of_a_change(self) -> bool:
        """Whether it still has a change of the spanning tree to tell, or was told of one. Raises FabricError."""

    @abstractmethod
    def forwarding_port(self, mac: str) -> str | None:
        """The port behind which it takes an address to be; None if it does not know. Raises FabricError."""

    @abstractmethod
    def forget_addresses(self) -> None:
        """Forget all addresses that it has learned. Raises FabricError."""

    @property
    def control(self) -> str | None:
        """The socket at which a daemon of the switch answers; None where the kernel is all of it."""
        return None

    @property
    def numbers(self) -> dict[str, str]:
        """The ports by the numbers that the daemon gives them."""
        return {}

    def start(self, _controllers: Sequence[Any]) -> None:
        """Make the bridge, as Mininet's own start expects of a switch."""
        run_inside([(self.pid, self.set_up)])

    def stop(self, deleteIntfs: bool = True) -> None:  # noqa: N803  # Mininet's signature
        """Nothing: the namespace takes its devices with it."""
