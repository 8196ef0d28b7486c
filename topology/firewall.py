"""The rules of a stateful firewall, in the words of nft, and whether the kernel has them. Pure.

What was begun behind it passes, and so does what the kernel's connection tracking knows to belong to that; what it
takes for invalid (of TCP: segments outside of the windows that it has seen) and what is begun on the guest's side does
not. Each of the two is counted. See nf_conntrack(9), Documentation/networking/nf_conntrack-sysctl.rst.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TABLE = "unnoticed"
REFUSED, INVALID = "refused", "invalid"  # counters


def firewall_lines(inner: Sequence[str]) -> list[str]:
    """Lines for `nft -f` that make the rules; `inner` are the interfaces to what is behind the firewall."""
    interfaces = ", ".join(f'"{name}"' for name in inner)
    chain = f"inet {TABLE} forward"
    return [
        f"add table inet {TABLE}",
        *(f"add counter inet {TABLE} {name}" for name in (REFUSED, INVALID)),
        f"add chain {chain} {{ type filter hook forward priority filter; policy drop; }}",
        f"add rule {chain} ct state established,related accept",
        f"add rule {chain} ct state invalid counter name {INVALID} drop",
        f"add rule {chain} iifname {{ {interfaces} }} ct state new accept",
        f"add rule {chain} counter name {REFUSED} drop",
    ]


def firewall_differences(inner: Sequence[str], table: list[dict[str, Any]]) -> list[str]:
    """What of the table is not as `firewall_lines` makes it; empty if all is well."""
    chain: dict[str, Any] = next((each["chain"] for each in table if "chain" in each), {})
    rules = [each["rule"]["expr"] for each in table if "rule" in each]
    wrong = [
        f"{name} is {chain.get(name)!r} instead of {value!r}"
        for name, value in (("hook", "forward"), ("policy", "drop"))
        if chain.get(name) != value
    ]
    said = [_words(rule) for rule in rules]
    asked = [
        "ct state established,related accept",
        f"ct state invalid counter {INVALID} drop",
        f"meta iifname {','.join(sorted(inner))} ct state new accept",
        f"counter {REFUSED} drop",
    ]
    return wrong + ([f"the rules are {said} instead of {asked}"] if said != asked else [])


def _words(rule: list[dict[str, Any]]) -> str:
    words: list[str] = []
    for part in rule:
        match part:
            case {"match": {"left": {"ct": {"key": key}}, "right": right}}:
                words += ["ct", key, _set(right)]
            case {"match": {"left": {"meta": {"key": key}}, "right": right}}:
                words += ["meta", key, _set(right)]
            case {"counter": str(name)}:
                words += ["counter", name]
            case _:
                words += list(part)
    return " ".join(words)


def _set(value: Any) -> str:
    members = value.get("set", value) if isinstance(value, dict) else value
    return ",".join(sorted(members)) if isinstance(members, list) else str(members)


def counted(table: list[dict[str, Any]]) -> dict[str, int]:
    """The packets of each counter, by its name."""
    return {each["counter"]["name"]: int(each["counter"]["packets"]) for each in table if "counter" in each}
