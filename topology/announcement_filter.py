"""What a switch does with announcements that it was told to drop, in the words of nft. Pure.

Dropped where they come in, as switches with ARP inspection or storm control do, so that the switch learns nothing from
them either (the hook comes before net/bridge/br_input.c, br_handle_frame_finish).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Dropped = Literal["none", "garp", "rarp", "all"]
TABLE = "unnoticed"
COUNTER = "announcements"
_ETHERTYPE_RARP = 0x8035  # RFC 903


def _matches(dropped: Dropped, guest: str) -> list[str]:
    garp = f"ether type arp arp saddr ip {guest} arp daddr ip {guest}"  # RFC 5227: sender and target are the same
    rarp = f"ether type {_ETHERTYPE_RARP:#06x}"
    return {"none": [], "garp": [garp], "rarp": [rarp], "all": [garp, rarp]}[dropped]


def filter_lines(dropped: Dropped, *, guest: str) -> list[str]:
    """Lines for `nft -f` that make a switch drop announcements of the guest's IPv4 address; none if it drops none."""
    matches = _matches(dropped, guest)
    chain = f"bridge {TABLE} incoming"
    return [] if not matches else [
        f"add table bridge {TABLE}",
        f"add counter bridge {TABLE} {COUNTER}",
        f"add chain {chain} {{ type filter hook prerouting priority 0; policy accept; }}",
        *(f"add rule {chain} {match} counter name {COUNTER} drop" for match in matches),
    ]  # fmt: skip


def filter_differences(dropped: Dropped, table: Sequence[dict[str, Any]], *, guest: str) -> list[str]:
    """What of the table is not as `filter_lines` makes it; empty if all is well."""
    read = [_words(each["rule"]["expr"]) for each in table if "rule" in each]
    garp = [f"arp saddr ip = {guest}", f"arp daddr ip = {guest}", COUNTER, "drop"]
    rarp = [f"ether type = {_ETHERTYPE_RARP}", COUNTER, "drop"]
    asked = {"none": [], "garp": [garp], "rarp": [rarp], "all": [garp, rarp]}[dropped]
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
