"""The switch: a Linux bridge in a network namespace of its own. Also the bridge inside a host, and its gate.

The states of a bridge port (IFLA_BRPORT_STATE) are in include/uapi/linux/if_bridge.h.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unnoticed.errors import FabricError
from unnoticed.topology.addresses import Address
from unnoticed.topology.announcement_filter import TABLE, Dropped, filter_differences, filter_lines
from unnoticed.topology.learning_limit import limit_learning
from unnoticed.topology.namespaces import json_documents, read_device, run_batch, run_inside, set_sysctl
from unnoticed.topology.nft import read_table, run_nft
from unnoticed.topology.quietly import Switch
from unnoticed.topology.switching import Switching, differences

BRIDGE = "br0"  # the bridge's name in every switch and host; each has a namespace of its own
GUEST_PORT = "guest"  # the port of a host's bridge that leads to the guest
DISABLED = 0
FORWARDING = 3
BLOCKING = 4
_CARRIER_TIMEOUT_S = 10.0
_POLL_S = 0.001


def bridge_lines(*, mac: str, ports: Sequence[str], options: Mapping[str, int], learning: bool = True) -> list[str]:
    """Lines for `ip -batch` that make the bridge over `ports` and bring all of it up.

    `options` are those of `Switching.options`. A fixed MAC: else it follows the ports'.
    """
    learns = "on" if learning else "off"
    words = " ".join(f"{name} {value}" for name, value in options.items())
    return [
        f"link add name {BRIDGE} address {mac} type bridge {words}",
        *(f"link set dev {port} master {BRIDGE}" for port in ports),
        *(f"link set dev {port} type bridge_slave learning {learns}" for port in ports),
        *(f"link set dev {port} up" for port in ports),
        f"link set dev {BRIDGE} up",
    ]


def prepare_bridging() -> None:
    """Keep the packet filter's hands off bridged frames, in the namespace of the calling thread.

    The sysctls are there only where br_netfilter is loaded.
    """
    for family in ("arptables", "iptables", "ip6tables"):
        set_sysctl(f"net/bridge/bridge-nf-call-{family}", "0", optional=True)


def check_bridge(
    links: Sequence[dict[str, Any]],
    *,
    where: str,
    ports: Sequence[str],
    options: Mapping[str, int],
    learning: bool = True,
) -> None:
    """Raise FabricError unless `links` (of `ip -d -j link show`) has the bridge as `bridge_lines` makes it."""
    by_name = {link["ifname"]: link for link in links}
    problems = differences(options, by_name.get(BRIDGE, {}).get("linkinfo", {}).get("info_data", {}))
    problems += [f"{port} is not its port" for port in ports if by_name.get(port, {}).get("master") != BRIDGE]
    said = {port: by_name.get(port, {}).get("linkinfo", {}).get("info_slave_data", {}) for port in ports}
    learns = {port: each.get("learning") for port, each in said.items()}
    problems += [f"learning at {port} is {found}" for port, found in learns.items() if found is not learning]
    if problems:
        raise FabricError(f"The bridge of {where} is not what was asked for: {'; '.join(problems)}.")


def port_state(pid: int, port: str) -> int:
    """The state of a bridge port in the namespace of `pid`: 0 disabled, 3 forwarding. Raises FabricError."""
    return int(read_device(pid, port, "brport/state"))


def topology_changes(pid: int) -> bool:
    """Whether the bridge in the namespace of `pid` was told by its root that the spanning tree changes.

    While it is, it lets addresses age within one forward delay instead of its ageing time. Raises FabricError.
    """
    return read_device(pid, BRIDGE, "bridge/topology_change") != "0"


def has_detected_a_change(pid: int) -> bool:
    """Whether the bridge in the namespace of `pid` has something to tell its root. Raises FabricError."""
    return read_device(pid, BRIDGE, "bridge/topology_change_detected") != "0"


def forwarding_port(pid: int, mac: str) -> str | None:
    """The port behind which the bridge in the namespace of `pid` takes an address to be; None if it does not know.

    Raises FabricError.
    """

    def entries() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json_documents(run_batch(["bridge", "-j"], [f"fdb show br {BRIDGE}"]))[-1]
        return found

    [found] = run_inside([(pid, entries)])
    return next((str(entry["ifname"]) for entry in found if entry["mac"] == mac and "master" in entry), None)


def wait_until(
    condition: Callable[[], bool], *, what: str, timeout_s: float = _CARRIER_TIMEOUT_S, poll_s: float = _POLL_S
) -> None:
    """Poll `condition` until it holds. Raises FabricError saying that `what` did not happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise FabricError(f"{what} within {timeout_s:g} s.")
        time.sleep(poll_s)


def set_gate(state: int, *, where: str) -> None:
    """Set the guest port of the calling thread's namespace to `state` and read it back. Raises FabricError.

    Only after the port has its carrier, and only by RTM_SETLINK of the bridge family (as `bridge` sends it): whatever
    ends in a NETDEV_CHANGE of the port, the carrier's arrival as well as `ip link set ... type bridge_slave state 0`,
    makes the kernel enable a disabled port again (net/bridge/br_if.c, br_port_carrier_check).
    """
    output = run_batch(
        ["bridge", "-d", "-j"], [f"link set dev {GUEST_PORT} state {state}", f"link show dev {GUEST_PORT}"]
    )
    now = json_documents(output)[-1][0]["state"]
    expected = {DISABLED: "disabled", FORWARDING: "forwarding"}[state]
    if now != expected:
        raise FabricError(f"The gate of {where} was set to {expected}, but is {now}.")


class BridgeSwitch(Switch):  # type: ignore[misc]  # mininet has no types
    """A Mininet switch that is a Linux bridge in a namespace of its own.

    So nothing of it is in the root namespace, and it goes away with its shell, however that ends.
    """

    controlIntf = None  # noqa: N815  # read by Switch.defaultIntf; Mininet sets it only outside namespaces

    def __init__(self, name: str, **params: Any) -> None:
        params["inNamespace"] = True  # Mininet.addSwitch passes False
        if not params.get("dpid"):
            params["dpid"] = f"{zlib.crc32(name.encode()):x}"  # unused here, but Switch derives it from digits in names
        self._bridge_mac: str = params.pop("bridge_mac")
        self._options: Mapping[str, int] = params.pop("options")
        self._switching: Switching = params.pop("switching")
        self._guest: Address = params.pop("guest")
        super().__init__(name, **params)

    @classmethod
    def setup(cls) -> None:
        """Nothing: the fabric has checked for mnexec, and Mininet's own check exits the process."""

    def set_up(self) -> None:
        """Make the bridge; to be called inside the namespace. Raises FabricError."""
        ports = self.intfNames()
        prepare_bridging()
        learning = self._switching.learning
        self._drop_announcements(self._switching.drop_announcements)
        lines = bridge_lines(mac=self._bridge_mac, ports=ports, options=self._options, learning=learning)
        links = json_documents(run_batch(["ip", "-d", "-j"], [*lines, "link show"]))[-1]
        check_bridge(links, where=self.name, ports=ports, options=self._options, learning=learning)
        if self._switching.learning_limit is not None:
            limit_learning(BRIDGE, self._switching.learning_limit)

    def _drop_announcements(self, dropped: Dropped) -> None:
        lines = filter_lines(dropped, guest=self._guest)
        if lines:
            run_nft(lines)
            wrong = filter_differences(dropped, read_table("bridge", TABLE), guest=self._guest)
            if wrong:
                raise FabricError(f"The filter of {self.name} is not what was asked for: {'; '.join(wrong)}.")

    def start(self, _controllers: Sequence[Any]) -> None:
        """Make the bridge, as Mininet's own start expects of a switch."""
        run_inside([(self.pid, self.set_up)])

    def stop(self, deleteIntfs: bool = True) -> None:  # noqa: N803  # Mininet's signature
        """Nothing: the namespace takes its devices with it."""
