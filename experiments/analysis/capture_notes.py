"""What limits the analysis of a capture, a sentence each: what its files lack, and what in them is not understood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unnoticed.probes.capture_file import LINK_TYPES, Records
from unnoticed.probes.packets import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    FIRST_FRAGMENT,
    LATER_FRAGMENT,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Packets,
)
from unnoticed.results.capture import Connection
from unnoticed.results.quantities import format_ns, format_number

_TUNNELS = {4: "IP in IP", 41: "IPv6 in IP", 47: "GRE", 50: "ESP"}
_TUNNEL_PORTS = {4789: "VXLAN", 6081: "Geneve", 8472: "VXLAN"}
_BACKWARDS_NS = 1_000_000


def notes_of_records(path: Path, records: Records) -> list[str]:
    """What limits one file."""
    notes = []
    if records.damage:
        notes.append(f"{records.damage} The {_frames(len(records))} before that are analysed.")
    elif records.truncated:
        notes.append(f"{path} ends within a record; the {_frames(len(records))} before it are analysed.")
    if not len(records):
        notes.append(f"{path} holds no frames.")
        return notes
    if records.dropped:
        lost = _frames(records.dropped)
        notes.append(f"{path} lacks {lost} that the program which captured says it lost: counts are lower bounds.")
    if records.untimed:
        notes.append(
            f"{path} has {_frames(records.untimed)} without a time: counts hold, but types and stalls are not told."
        )
    foreign = ~np.isin(records.link, list(LINK_TYPES))
    if foreign.any():
        kinds = ", ".join(str(kind) for kind in np.unique(records.link[foreign]).tolist())
        notes.append(f"{path} has {_frames(int(foreign.sum()))} of link type {kinds}, which cannot be read; left out.")
    back = 0
    for interface in np.unique(records.interface):
        times = records.time_ns[records.interface == interface]
        back = max(back, int((np.maximum.accumulate(times) - times).max()))
    if back > _BACKWARDS_NS:
        notes.append(
            f"{path} has stamps that go back by up to {format_ns(back)}; its order is taken for the truth, and if that "
            "was changed after the capture, frames seem to be sent again that were not."
        )
    return notes


def notes_of_packets(name: str, packets: Packets, *, copied: int) -> list[str]:
    """What limits one capture point."""
    notes = []
    of_ip = (packets.ethertype == ETHERTYPE_IPV4) | (packets.ethertype == ETHERTYPE_IPV6)
    of_tcp = of_ip & (packets.protocol == PROTOCOL_TCP) & (packets.fragment != LATER_FRAGMENT)
    cut = int((of_tcp & ~packets.whole & ~packets.options_cut).sum())
    bare = int((of_ip & (packets.protocol == 0) & (packets.source == 0) & (packets.source_high == 0)).sum())
    if cut:
        all_of = ", so nothing can be said of TCP" if cut == int(of_tcp.sum()) else ""
        notes.append(f"{name}: {_frames(cut)} {_are(cut)} cut before their TCP header ends and not counted{all_of}.")
    if bare:
        notes.append(f"{name}: {_frames(bare)} {_are(bare)} cut before their IP header ends and not counted.")
    short = int((of_tcp & packets.options_cut).sum())
    if short:
        notes.append(
            f"{name}: {_frames(short)} {_are(short)} cut within their TCP options, where SACKs are: counts hold, "
            "but types and spurious ones are not told."
        )
    pieces = of_ip & (packets.fragment != 0)
    of_tcp_too = pieces & (packets.protocol == PROTOCOL_TCP)
    if pieces.any():
        count = int(pieces.sum())
        loses = " (of TCP, so bytes will seem to be missing)" if of_tcp_too.any() else ""
        first = int((packets.fragment[pieces] == FIRST_FRAGMENT).sum())
        notes.append(
            f"{name}: {_frames(count)} {_are(count)} IP fragments{loses}, of {format_number(first)} packets; they are "
            "not put together, and only the first of each counts."
        )
    if copied:
        what = "a copy of another" if copied == 1 else "copies of others"
        notes.append(f"{name}: {_frames(copied)} {_are(copied)} {what}, seen at a second place; left out.")
    tunnels = _tunnels(packets)
    if tunnels:
        count = sum(tunnels.values())
        notes.append(f"{name}: {_frames(count)} {_are(count)} in tunnels ({', '.join(tunnels)}), which are not opened.")
    known = of_ip | (packets.ethertype == ETHERTYPE_ARP)
    others = int((~known).sum())
    if others * 10 > len(packets):
        notes.append(f"{name}: {_frames(others)} of {format_number(len(packets))} {_are(others)} neither IP nor ARP.")
    return notes


def notes_of_flows(connections: Sequence[Connection]) -> list[str]:
    """What limits what is said of the connections."""
    notes = []
    ends = [end for connection in connections for end in connection.ends]
    alone = sum(1 for connection in connections if len(connection.ends) == 1 and connection.ends[0].new_bytes)
    if alone:
        notes.append(
            f"{_counted(alone, 'connection')} {'is' if alone == 1 else 'are'} there in one direction only: without "
            "answers nothing can be said of stalls and types."
        )
    assumed = sum(1 for end in ends if not end.mss_known and end.retransmits)
    if assumed:
        notes.append(
            f"Of {_counted(assumed, 'direction')} with retransmissions the capture has no SYN, or not its options: "
            "how large a segment may be is assumed (1460 bytes), so that counts are estimates where frames are larger."
        )
    if any(end.missing_bytes for end in ends):
        notes.append(
            "Some bytes were acknowledged that are not in the capture: it lost frames, or they took another way; "
            "counts of such flows are lower bounds."
        )
    if any(not end.exact for end in ends):
        notes.append(
            "≥: only a complete capture at the sender has every frame that was sent. What was lost before the place of "
            f"capture is not in it, so there may have been more.{_hint(connections)}"
        )
    return notes


def _hint(connections: Sequence[Connection]) -> str:
    """What to ask for where the place of capture is not known."""
    if all(end.place != "unknown" for connection in connections for end in connection.ends):
        return ""
    hosts = [{end.rsplit(":", 1)[0].strip("[]") for end in (one.client, one.server)} for one in connections]
    shared = set[str].intersection(*hosts)
    if len(hosts) > 1 and len(shared) == 1:
        (address,) = shared
        return f" All connections have {address} in common: if it is the host that captured, say --at {address}."
    return " If one of the hosts captured, say so with --at ADDRESS."


def _tunnels(packets: Packets) -> dict[str, int]:
    found: dict[str, int] = {}
    for protocol, name in _TUNNELS.items():
        count = int((packets.protocol == protocol).sum())
        if count:
            found[name] = count
    for port, name in _TUNNEL_PORTS.items():
        count = int(((packets.protocol == PROTOCOL_UDP) & (packets.destination_port == port)).sum())
        if count:
            found[name] = found.get(name, 0) + count
    return found


def _counted(count: int, noun: str) -> str:
    return f"{format_number(count)} {noun}{'' if count == 1 else 's'}"


def _frames(count: int) -> str:
    return _counted(count, "frame")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
