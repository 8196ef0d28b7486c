"""What the ends of a topology's links are called, and what they cannot be called. Pure.

The kernel takes names of at most 15 bytes (IFNAMSIZ of include/uapi/linux/if.h is 16, with the final zero), and none
that is "all" or "default", which name settings of all interfaces (net/ipv4/devinet.c). A node has one namespace, so a
name is there only once; and Mininet keeps a node's interfaces by their ports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LONGEST = 15
MIGRATION_INTERFACE = "migration"  # of a host that has one for its migrations alone
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}")
# The bridge of a switch or host, its port to the guest, the datapath of Open vSwitch, and what every namespace has.
_TAKEN = {"br0", "guest", MIGRATION_INTERFACE, "ovs-system", "lo", "all", "default"}


def interface_problems(links: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each end that cannot be, of links as a topology's `links(withInfo=True)` describes them."""
    names: dict[str, set[str]] = {}
    ports: dict[str, set[int]] = {}
    for info in links:
        if info["node1"] == info["node2"]:
            yield f"fabric.shape: {info['node1']} is linked to itself; a link joins two nodes."
            continue
        for side in ("1", "2"):
            node, port, given = info[f"node{side}"], info[f"port{side}"], info.get(f"intfName{side}")
            if not isinstance(port, int) or isinstance(port, bool):
                yield f"fabric.shape: port{side}={port!r} of a link at {node} is no number of a port; write it as 1."
                continue
            name = given or f"{node}-eth{port}"  # as Mininet calls it
            said = f'fabric.shape: the interface "{name}" of {node}'
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                way = f"change intfName{side}" if given else "give the node a shorter name, or the link an intfName"
                yield f"{said} is not named by {LONGEST} letters, digits, dots, dashes and underscores at most; {way}."
            elif name in _TAKEN:
                yield f"{said} has a name that the fabric has given away there; change intfName{side}."
            elif name in names.setdefault(node, set()):
                yield f"{said} is there twice; give each link a port or an intfName of its own there."
            elif port in ports.setdefault(node, set()):
                yield f"fabric.shape: {node} has two links at port {port}; give each a port of its own there."
            names.setdefault(node, set()).add(str(name))
            ports.setdefault(node, set()).add(port)
