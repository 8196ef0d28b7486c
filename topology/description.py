"""What a fabric consists of, as plain data: for a drawing, for records, for programs. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from unnoticed.topology.design import Design
from unnoticed.topology.direction import directions
from unnoticed.topology.spec import FabricSpec


def describe_network(design: Design, spec: FabricSpec, *, spares: Collection[int] = ()) -> dict[str, Any]:
    """Nodes and links with what is asked of them; it holds only what JSON can.

    `nodes`: name, kind (switch, host, router, firewall), role (of hosts: source, destination, control, client, or idle
    for a client that draws no load), ipv4 and ipv6 (lists, one for each segment; of
    IPv6 none where the fabric has none). `links`: the two ends, what is asked of the
    direction from the first (`there`) and from the second (`back`), and whether it is among the `spares`, the numbers
    of those links that the spanning tree keeps out of use, and whether it is there for migrations alone.
    """
    wiring, roles = design.wiring, spec.roles
    played = {roles.source: "source", roles.destination: "destination", roles.control_name: "control"}
    played |= dict.fromkeys(design.clients, "client")
    kinds = dict.fromkeys(wiring.switches, "switch") | dict.fromkeys(wiring.hosts, "host")
    kinds |= dict.fromkeys(wiring.routers, "router") | dict.fromkeys(wiring.firewalls, "firewall")
    asked = directions(design.links, base=spec.direction, changes=design.changes, kinds=wiring.kinds(roles))
    return {
        "shape": spec.shape,
        "spanning_tree": design.stp,
        "guest": {"ipv4": design.guest.ipv4, "ipv6": design.guest.ipv6 if spec.ipv6 else "", "mac": spec.guest_mac},
        "nodes": [
            {
                "name": name,
                "kind": kind,
                "role": played.get(name, "idle") if kind == "host" else None,
                "ipv4": [address.ipv4 for address in design.addresses.get(name, ())],
                "ipv6": [address.ipv6 for address in design.addresses.get(name, ()) if spec.ipv6],
            }
            for name, kind in kinds.items()
        ],
        "links": [
            {
                "ends": list(ends),
                "there": asdict(there),
                "back": asdict(back),
                "spare": number in spares,
                "migration": number >= len(wiring.links),
            }
            for number, (ends, (there, back)) in enumerate(zip(design.links, asked, strict=True))
        ],
    }
