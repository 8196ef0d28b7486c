"""What a Mininet topology must be for a fabric to be made of it; and the control server, where it has none.

The fabric makes namespaces, links, switches and addresses itself, and reads back what it set. So what a topology asks
of Mininet in other words must be refused where it would otherwise be ignored without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from unnoticed.errors import PlanError
from unnoticed.topology.quietly import Topo
from unnoticed.topology.roles import Roles
from unnoticed.topology.wiring import Wiring

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NAME_MAXIMUM = 15 - len("-eth99")  # IFNAMSIZ of include/uapi/linux/if.h is 16, with the final zero
_SWITCH_CLASSES = {"BridgeSwitch", "LinuxBridge", "OVSBridge", "OVSKernelSwitch", "OVSSwitch"}  # all learn, untaught
_HOST_CLASSES = {"Host", "Node", "PlainHost"}
_LINK_CLASSES = {"Link", "TCLink", "TCULink", "OVSLink", "VethLink"}
# Options that say nothing which could be missed: the fabric's addresses and routes are its own, and nobody controls
# its switches. `stp` and `prio` are taken.
_OF_HOSTS = {"cls", "ip", "mac", "defaultRoute"}
_OF_SWITCHES = {"cls", "isSwitch", "stp", "prio", "dpid", "failMode", "protocols", "listenPort", "batch", "ip", "mac"}
_OF_LINKS = {"cls", "node1", "node2", "port1", "port2", "intfName1", "intfName2", "addr1", "addr2", "use_htb"}


def fit(topo: Topo, roles: Roles, *, topology: str) -> Wiring:
    """See that a fabric can be made of `topo` with these roles, and give it a control server if it has none.

    `topology` is what it is called in messages. Raises PlanError with a sentence for each mistake.
    """
    wiring = Wiring.of(topo)
    problems = [*roles.problems(wiring.hosts, topology=topology), *_problems(topo, wiring, roles)]
    if problems:
        raise PlanError(*problems)
    if roles.control_name not in wiring.hosts:
        topo.addHost(roles.control_name)
        topo.addLink(roles.control_name, _switch_of(wiring, roles.source, topology=topology))
    return Wiring.of(topo)


def _switch_of(wiring: Wiring, host: str, *, topology: str) -> str:
    switch = next((node for node in wiring.neighbours(host) if node in wiring.switches), None)
    if switch is None:
        raise PlanError(
            f"fabric.control: {topology} has no switch beside {host} to attach a control server to: "
            'name one of its hosts, as in fabric.control = "...".'
        )
    return switch


def _problems(topo: Topo, wiring: Wiring, roles: Roles) -> Iterator[str]:
    for node in (*wiring.hosts, *wiring.switches):
        if not NAME.fullmatch(node) or len(node) > _NAME_MAXIMUM:
            yield (
                f'fabric.shape: "{node}" cannot be the name of a node: use at most {_NAME_MAXIMUM} letters, digits, '
                "dots, dashes and underscores."
            )
    if not roles.clients(wiring.hosts):
        yield "fabric.shape: the topology has no host but source, destination and control; it needs a client."
    for host in wiring.hosts:
        yield from _unknown(f"host {host}", topo.nodeInfo(host), options=_OF_HOSTS, classes=_HOST_CLASSES)
        if (count := wiring.links_of(host)) != 1:
            yield f"fabric.shape: the host {host} has {count} links; a host of a fabric has one."
    for switch in wiring.switches:
        yield from _unknown(f"switch {switch}", topo.nodeInfo(switch), options=_OF_SWITCHES, classes=_SWITCH_CLASSES)
    for one, other, info in topo.links(withInfo=True):
        yield from _unknown(f"link from {one} to {other}", info, options=_OF_LINKS, classes=_LINK_CLASSES)


def _unknown(what: str, given: dict[str, Any], *, options: set[str], classes: set[str]) -> Iterator[str]:
    """What of the options given is neither taken nor without effect."""
    made = given.get("cls")
    name = getattr(made, "__name__", str(made))
    if made is not None and name not in classes:
        yield f"fabric.shape: the {what} is a {name}, which a fabric cannot make; leave its cls out."
    for option, value in given.items():
        if option not in options and value is not None:
            yield (
                f"fabric.shape: the {what} asks for {option}={value!r}, which would not take effect; leave it out, "
                "and say in the plan what all links or switches are to be."
            )


def wants_tree(topo: Topo) -> bool:
    """Whether one of its switches asks for a spanning tree, as Mininet's LinuxBridge and OVSSwitch can be asked."""
    return any(topo.nodeInfo(switch).get("stp") for switch in topo.switches())
