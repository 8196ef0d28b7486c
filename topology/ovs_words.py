"""What the tools of Open vSwitch are told to make a switch, and what they say of one. Pure.

Source: ovs-vsctl(8), ovs-ofctl(8), ovs-vswitchd.conf.db(5); ovs-vswitchd(8) for `stp/show`, `rstp/show`, `fdb/show`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unnoticed.topology.addresses import Address
from unnoticed.topology.switch import BLOCKING, BRIDGE, DISABLED, FORWARDING, LEARNING, LISTENING
from unnoticed.topology.switching import Switching

_NS = 1_000_000_000
_STATES = {
    "disabled": DISABLED, "listening": LISTENING, "learning": LEARNING, "forwarding": FORWARDING,
    "blocking": BLOCKING, "discarding": BLOCKING,
}  # fmt: skip
_FDB_LINE = re.compile(r"\s*(\S+)\s+\d+\s+((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\s+\S+\s*")
_TREE_LINE = re.compile(r"\s+(\S+)\s+([A-Za-z]+)\s+([A-Za-z]+)\s+\d+\s+\d+\.\d+\s*")
_DELAY_LINE = re.compile(r"\s*stp-fwd-delay\s+(\d+)s\s*")


def settings(switching: Switching, *, stp: bool, priority: int, mac: str) -> dict[str, str]:
    """The columns of the bridge's record: what is set, as `column=value` or `column:key=value` of ovs-vsctl."""
    asked = {
        "fail_mode": "standalone",
        "other_config:hwaddr": f'"{mac}"',
        "other_config:mac-aging-time": str(switching.ageing_ns // _NS),
        "stp_enable": str(stp and not switching.is_rapid).lower(),
        "rstp_enable": str(stp and switching.is_rapid).lower(),
    }
    if stp:
        tree = "rstp" if switching.is_rapid else "stp"
        asked |= {
            f"other_config:{tree}-priority": str(priority),
            f"other_config:{tree}-max-age": str(switching.max_age_ns // _NS),
            f"other_config:{tree}-forward-delay": str(switching.tree_delay_ns // _NS),
        }
        if not switching.is_rapid:  # the rapid one's hello is fixed, 2 s
            asked["other_config:stp-hello-time"] = str(switching.hello_ns // _NS)
    return asked


def make_arguments(asked: Mapping[str, str], ports: Mapping[str, str]) -> list[str]:
    """Arguments of ovs-vsctl that make a bridge over `ports` (names by number), in one transaction."""
    columns = [f"{name}={value}" for name, value in asked.items()]
    arguments = ["--", "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, *columns]
    for number, port in ports.items():
        arguments += ["--", "add-port", BRIDGE, port, "--", "set", "interface", port, f"ofport_request={number}"]
    return arguments


def records(text: str) -> Iterator[dict[str, Any]]:
    """The records that `ovs-vsctl --format=json list` prints; the sets and maps of RFC 7047 (5.1) are resolved."""
    table = json.loads(text)
    for row in table["data"]:
        yield {name: _plain(value) for name, value in zip(table["headings"], row, strict=True)}


def _plain(value: Any) -> Any:
    match value:
        case ["set", list(entries)]:
            return [_plain(entry) for entry in entries]
        case ["map", list(pairs)]:
            return {str(key): _plain(inner) for key, inner in pairs}
        case ["uuid", str(name)]:
            return name
        case _:
            return value


def differences(
    asked: Mapping[str, str],
    ports: Mapping[str, str],
    *,
    bridge: Mapping[str, Any],
    interfaces: Sequence[dict[str, Any]],
) -> list[str]:
    """What of the records of a bridge and of its interfaces is not as `make_arguments` makes it."""
    wrong = []
    for name, value in asked.items():
        column, _, key = name.partition(":")
        read = bridge.get(column, {}).get(key) if key else bridge.get(column)
        said = str(read).lower() if isinstance(read, bool) else str(read)
        if said != value.strip('"'):
            wrong.append(f"{name} is {said} instead of {value}")
    by_name = {interface["name"]: interface for interface in interfaces}
    for number, port in ports.items():
        found = by_name.get(port, {})
        if found.get("error"):
            wrong.append(f"{port}: {found['error']}")
        elif str(found.get("ofport")) != number:
            wrong.append(f"{port} is port {found.get('ofport')} instead of {number}")
    return wrong


def flows(switching: Switching, *, guest: Address) -> list[str]:
    """The flows of a switch, in the words in which ovs-ofctl prints them: it drops some, and learns or floods."""
    known = {  # as `announcement_filter` has them for the bridge
        "garp": f"arp,arp_spa={guest.ipv4},arp_tpa={guest.ipv4}",
        "rarp": "rarp",
        "na": f"icmp6,ipv6_src={guest.ipv6},ipv6_dst=ff02::1,icmp_type=136",
    }
    asked = switching.drop_announcements
    dropped = {"none": [], "all": list(known)}.get(asked, [asked])
    forward = "NORMAL" if switching.learning else "FLOOD"
    return [*(f"priority=1,{known[name]} actions=drop" for name in dropped), f"priority=0 actions={forward}"]


def flow_differences(asked: Sequence[str], text: str) -> list[str]:
    """What of `ovs-ofctl --no-stats dump-flows` is not as `flows` has it."""
    read = sorted(line.strip() for line in text.splitlines() if "actions=" in line)
    return [] if read == sorted(asked) else [f"the flows are {read} instead of {sorted(asked)}"]


def tree_states(text: str) -> dict[str, int]:
    """The state of each port that `stp/show` or `rstp/show` names."""
    found = (_TREE_LINE.fullmatch(line) for line in text.splitlines())
    return {match[1]: _STATES[match[3].lower()] for match in found if match and match[3].lower() in _STATES}


def forward_delay_s(text: str) -> int | None:
    """The forward delay by which `stp/show` or `rstp/show` says the switch goes."""
    found = [int(match[1]) for line in text.splitlines() if (match := _DELAY_LINE.fullmatch(line))]
    return found[-1] if found else None  # the last: the bridge's own, after its root's


def learned_port(text: str, mac: str) -> str | None:
    """The number of the port at which `fdb/show` has an address; None if it has not."""
    found = (_FDB_LINE.fullmatch(line) for line in text.splitlines())
    return next((match[1] for match in found if match and match[2] == mac), None)
