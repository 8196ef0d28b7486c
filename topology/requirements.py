"""What a Mininet topology must be for a fabric to be made of it; and the control server, where it has none.

The fabric makes namespaces, links, switches and addresses itself, and reads back what it set. So what a topology asks
of Mininet in other words must be refused where it would otherwise be ignored without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from unnoticed.errors import PlanError
from unnoticed.topology.direction import WHOLE_PPM, LinkChange
from unnoticed.topology.interfaces import LONGEST, interface_problems
from unnoticed.topology.quietly import Topo
from unnoticed.topology.roles import Roles
from unnoticed.topology.routers import is_firewall, is_router
from unnoticed.topology.shaping import LARGEST_FRAME_BYTES
from unnoticed.topology.switching import MOST_PRIORITY
from unnoticed.topology.wiring import Wiring

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NAME_MAXIMUM = LONGEST - len("-eth99")
_SWITCH_CLASSES = {"BridgeSwitch", "LinuxBridge", "OVSBridge", "OVSKernelSwitch", "OVSSwitch"}  # all learn, untaught
_HOST_CLASSES = {"Host", "Node", "PlainHost", "Router", "Firewall", "LinuxRouter"}
_LINK_CLASSES = {"Link", "TCLink", "TCULink", "OVSLink", "VethLink"}
# Options that are taken (of switches stp and prio, of links bw, delay, jitter and loss), and such as say nothing that
# could be missed: the fabric's addresses and routes are its own, and nobody controls its switches.
_OF_HOSTS = {"cls", "ip", "mac", "defaultRoute"}
_OF_SWITCHES = {"cls", "isSwitch", "stp", "prio", "dpid", "failMode", "protocols", "listenPort", "batch", "ip", "mac"}
_OF_LINKS = {"cls", "node1", "node2", "port1", "port2", "intfName1", "intfName2", "addr1", "addr2", "use_htb"}
_OF_LINKS |= {"bw", "delay", "jitter", "loss", "params1", "params2"}
_NS = {"": 1_000, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "sec": 1_000_000_000}  # as tc reads times


def fit(topo: Topo, roles: Roles, *, topology: str) -> Wiring:
    """See that a fabric can be made of `topo` with these roles, and give it a control server if it has none.

    `topology` is what it is called in messages. Raises PlanError with a sentence for each mistake.
    """
    problems = list(_names_that_are_none(topo))  # first, for Mininet's own look-ups stumble over them
    if problems:
        raise PlanError(*problems)
    wiring = wiring_of(topo)
    problems = [*roles.problems(wiring.hosts, topology=topology), *_problems(topo, wiring, roles)]
    if problems:
        raise PlanError(*problems)
    if roles.control_name not in wiring.hosts:
        topo.addHost(roles.control_name)
        switch = _switch_of(wiring, roles.source, topology=topology)
        # Mininet counts a switch's links, and where a topology numbers its ports that may be one that is taken.
        topo.addLink(roles.control_name, switch, port2=1 + max(topo.ports[switch], default=0))
        problems = list(interface_problems(_ends(topo)))
        if problems:
            raise PlanError(*problems)
    return wiring_of(topo)


def wiring_of(topo: Topo) -> Wiring:
    """A Mininet topology as plain data."""
    classes = {node: topo.nodeInfo(node).get("cls") for node in topo.hosts()}
    routers = tuple(node for node, cls in classes.items() if is_router(cls))
    return Wiring(
        hosts=tuple(node for node in classes if node not in routers),
        switches=tuple(topo.switches()),
        links=tuple(topo.links(sort=True)),
        routers=routers,
        firewalls=tuple(node for node in routers if is_firewall(classes[node])),
    )


def link_changes(topo: Topo, *, queue_ns: int) -> list[LinkChange]:
    """What a topology asks of single links, as Mininet's TCLink does: bw (Mbit/s), delay, jitter, loss (%), both ways.

    Each change names its link by its number, which is that of the wiring and of the links that Mininet makes: two nodes
    may have several. A link that is too slow for a queue of `queue_ns` to hold a frame gets one that does. Raises
    PlanError where a value makes no sense.
    """
    changes: list[LinkChange] = []
    problems: list[str] = []
    for number, (one, other, info) in enumerate(topo.links(sort=True, withInfo=True)):
        try:
            asked = _asked(info, queue_ns=queue_ns)
        except (ValueError, TypeError, OverflowError, KeyError):
            words = ", ".join(f"{key}={info[key]!r}" for key in ("bw", "delay", "jitter", "loss") if key in info)
            problems.append(f"fabric.shape: the link from {one} to {other} asks for {words}, which cannot be read.")
            continue
        if asked:
            changes.append(LinkChange(link=f"{one}-{other}", number=number, **asked))
    if problems:
        raise PlanError(*problems)
    return changes


def _asked(info: dict[str, Any], *, queue_ns: int) -> dict[str, int]:
    asked: dict[str, int] = {}
    if info.get("bw"):
        rate = asked["rate_bit_per_s"] = round(float(info["bw"]) * 1e6)
        if rate > 0 and queue_ns < (least_ns := -(-LARGEST_FRAME_BYTES * 8_000_000_000 // rate)):
            asked["queue_ns"] = least_ns
    for key in ("delay", "jitter"):
        if info.get(key):
            text = str(info[key]).strip()
            number = text.rstrip("umsec")
            asked[f"{key}_ns"] = round(float(number) * _NS[text[len(number) :]])
    if info.get("loss"):
        asked["loss_ppm"] = round(float(info["loss"]) * WHOLE_PPM / 100)
    return asked


def _switch_of(wiring: Wiring, host: str, *, topology: str) -> str:
    switch = next((node for node in wiring.neighbours(host) if node in wiring.switches), None)
    if switch is None:
        raise PlanError(
            f"fabric.control: {topology} has no switch beside {host} to attach a control server to: "
            'name one of its hosts, as in fabric.control = "...".'
        )
    return switch


def _names_that_are_none(topo: Topo) -> Iterator[str]:
    for node in topo.nodes(sort=False):
        if not isinstance(node, str):
            yield (
                f"fabric.shape: a node is named by {node!r}, a {type(node).__name__}; name it by a text, as in "
                'self.addHost("h4").'
            )


def _problems(topo: Topo, wiring: Wiring, roles: Roles) -> Iterator[str]:
    for node in (*wiring.hosts, *wiring.routers, *wiring.switches):
        if not NAME.fullmatch(node) or len(node) > _NAME_MAXIMUM:
            yield (
                f'fabric.shape: "{node}" cannot be the name of a node: use at most {_NAME_MAXIMUM} letters, digits, '
                "dots, dashes and underscores."
            )
    if not roles.clients(wiring.hosts):
        yield "fabric.shape: the topology has no host but source, destination and control; it needs a client."
    for host in wiring.hosts:
        yield from _unknown(f"host {host}", topo.nodeInfo(host), options=_OF_HOSTS, classes=_HOST_CLASSES)
        count = wiring.links_of(host)
        if count == 0:
            yield f"fabric.shape: the host {host} has no link; a host of a fabric has one: link it, or leave it out."
        elif count > 1:
            yield (
                f"fabric.shape: the host {host} has {count} links; a host of a fabric has one, and a node with several "
                "is a router, as in self.addHost(..., cls=unnoticed.topology.routers.Router)."
            )
    for router in wiring.routers:
        yield from _unknown(f"router {router}", topo.nodeInfo(router), options=_OF_HOSTS, classes=_HOST_CLASSES)
    for switch in wiring.switches:
        yield from _unknown(f"switch {switch}", topo.nodeInfo(switch), options=_OF_SWITCHES, classes=_SWITCH_CLASSES)
        priority = topo.nodeInfo(switch).get("prio")
        if priority is not None and not (type(priority) is int and 0 <= priority <= MOST_PRIORITY):
            yield (
                f"fabric.shape: the switch {switch} asks for prio={priority!r}; a priority in the spanning tree is a "
                f"whole number from 0 to {MOST_PRIORITY} (the lowest is its root)."
            )
    for one, other, info in topo.links(withInfo=True):
        yield from _unknown(f"link from {one} to {other}", info, options=_OF_LINKS, classes=_LINK_CLASSES)
        beyond = {str(key) for side in ("params1", "params2") for key in _keys(info.get(side))} - {"ip"}
        yield from (
            f"fabric.shape: the link from {one} to {other} asks for {key}, which would not take effect; leave it out."
            for key in sorted(beyond)
        )
    yield from interface_problems(_ends(topo))


def _ends(topo: Topo) -> list[dict[str, Any]]:
    return [info for _, _, info in topo.links(sort=True, withInfo=True)]


def _keys(params: Any) -> list[Any]:
    """What is asked of one end of a link; what is no dict is shown as it is."""
    return list(params) if isinstance(params, dict) else [] if params is None else [params]


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
                "or say it in the plan, for all links or switches."
            )


def wants_tree(topo: Topo) -> bool:
    """Whether one of its switches asks for a spanning tree, as Mininet's LinuxBridge and OVSSwitch can be asked."""
    return any(topo.nodeInfo(switch).get("stp") for switch in topo.switches())
