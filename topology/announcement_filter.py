"""What a switch does with announcements that it was told to drop, in the words of nft. Pure.

Dropped where they come in, as switches with ARP inspection or storm control do, so that the switch learns nothing from
them either (the hook comes before net/bridge/br_input.c, br_handle_frame_finish).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from unnoticed.topology.addresses import Address

Dropped = Literal["none", "garp", "rarp", "na", "all"]
TABLE = "unnoticed"
COUNTER = "announcements"
_ETHERTYPE_RARP = 0x8035  # RFC 903
_ALL_NODES = "ff02::1"  # RFC 4861, section 7.2.6: where unsolicited advertisements go


def _dropped(dropped: Dropped) -> tuple[str, ...]:
    return {"none": (), "all": ("garp", "rarp", "na")}.get(dropped, (dropped,))


def filter_lines(dropped: Dropped, *, guest: Address) -> list[str]:
    """Lines for `nft -f` that make a switch drop announcements of the guest's addresses; none if it drops none."""
    known = {
        # RFC 5227: sender and target are the same
        "garp": f"ether type arp arp saddr ip {guest.ipv4} arp daddr ip {guest.ipv4}",
        "rarp": f"ether type {_ETHERTYPE_RARP:#06x}",
        "na": f"ip6 saddr {guest.ipv6} ip6 daddr {_ALL_NODES} icmpv6 type nd-neighbor-advert",
    }
    matches = [known[name] for name in _dropped(dropped)]
    chain = f"bridge {TABLE} incoming"
    return [] if not matches else [
        f"add table bridge {TABLE}",
        f"add counter bridge {TABLE} {COUNTER}",
        f"add chain {chain} {{ type filter hook prerouting priority 0; policy accept; }}",
        *(f"add rule {chain} {match} counter name {COUNTER} drop" for match in matches),
    ]  # fmt: skip


def filter_differences(dropped: Dropped, table: Sequence[dict[str, Any]], *, guest: Address) -> list[str]:
    """What of the table is not as `filter_lines` makes it; empty if all is well."""
    read = [_words(each["rule"]["expr"]) for each in table if "rule" in each]
    known = {
        "garp": [f"arp saddr ip = {guest.ipv4}", f"arp daddr ip = {guest.ipv4}", COUNTER, "drop"],
        "rarp": [f"ether type = {_ETHERTYPE_RARP}", COUNTER, "drop"],
        "na": [
            f"ip6 saddr = {guest.ipv6}", f"ip6 daddr = {_ALL_NODES}", "icmpv6 type = nd-neighbor-advert", COUNTER,
            "drop",
        ],
    }  # fmt: skip
    asked = [known[name] for name in _dropped(dropped)]
    return [] if read == asked else [f"the rules are {read} instead of {asked}"]


def _words(rule: Sequence[dict[str, Any]]) -> list[str]:
    words = []
    for part in rule:
        match part:
            case {"match": {"left": {"payload": {"protocol": protocol, "field": name}}, "right": right}}:
                value = int(right, 0) if str(right).startswith("0x") else right
                said = f"{protocol} {name} = {value}"
                words += [] if said in ("ether type = arp", "arp operation = request") else [said]
            case {"counter": str(name)}:
                words.append(name)
            case _:
                words += list(part)
    return words
