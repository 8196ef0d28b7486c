"""The Linux bridge: as a switch, in a network namespace of its own, and inside a host, with its gate.

The states of a bridge port (IFLA_BRPORT_STATE) are in include/uapi/linux/if_bridge.h.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unnoticed.errors import FabricError
from unnoticed.topology.announcement_filter import TABLE, Dropped, filter_differences, filter_lines
from unnoticed.topology.learning_limit import limit_learning
from unnoticed.topology.namespaces import json_documents, read_device, run_batch, run_inside, set_sysctl
from unnoticed.topology.nft import read_table, run_nft
from unnoticed.topology.switch import BRIDGE, DISABLED, FORWARDING, FabricSwitch
from unnoticed.topology.switching import differences

GUEST_PORT = "guest"  # the port of a host's bridge that leads to the guest
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


class BridgeSwitch(FabricSwitch):
    """A Linux bridge."""

    kind = "bridge"

    def set_up(self) -> None:
        """See `FabricSwitch.set_up`."""
        ports = self.intfNames()
        prepare_bridging()
        learning, options = self.switching.learning, self.switching.options(stp=self.stp, priority=self.priority)
        self._drop_announcements(self.switching.drop_announcements)
        lines = bridge_lines(mac=self.bridge_mac, ports=ports, options=options, learning=learning)
        links = json_documents(run_batch(["ip", "-d", "-j"], [*lines, "link show"]))[-1]
        check_bridge(links, where=self.name, ports=ports, options=options, learning=learning)
        if self.switching.learning_limit is not None:
            limit_learning(BRIDGE, self.switching.learning_limit)

    def port_states(self) -> dict[str, int]:
        """See `FabricSwitch.port_states`."""
        return {port: port_state(self.pid, port) for port in self.intfNames()}

    def speaks_of_a_change(self) -> bool:
        """See `FabricSwitch.speaks_of_a_change`."""
        return topology_changes(self.pid) or has_detected_a_change(self.pid)

    def forwarding_port(self, mac: str) -> str | None:
        """See `FabricSwitch.forwarding_port`."""
        return forwarding_port(self.pid, mac)

    def forget_addresses(self) -> None:
        """See `FabricSwitch.forget_addresses`."""
        line = f"link set dev {BRIDGE} type bridge fdb_flush"
        run_inside([(self.pid, functools.partial(run_batch, ["ip"], [line]))])

    def _drop_announcements(self, dropped: Dropped) -> None:
        lines = filter_lines(dropped, guest=self.guest)
        if lines:
            run_nft(lines)
            wrong = filter_differences(dropped, read_table("bridge", TABLE), guest=self.guest)
            if wrong:
                raise FabricError(f"The filter of {self.name} is not what was asked for: {'; '.join(wrong)}.")
