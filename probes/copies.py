"""Frames that a capture holds more than once, though they were sent once.

A machine that captures on all its interfaces sees a frame on a VLAN and on the interface below it, on a bridge and on
its port; a mirror port copies what comes in and what goes out again. Counted as they are, all copies would be
retransmissions.

Two frames are one if they say the same, from the IP addresses to the TCP window, and
- were seen at different places (interface, direction, MAC addresses, VLAN tag: their length) within 10 ms, or
- at one place within 10 ms with the same IP-ID, other than 0: a sender gives each packet another one, a retransmission
  too (RFC 6864 asks for it only where a packet may be fragmented, but Linux and Windows do it always), or
- both: then within a second.
IPv6 has no IP-ID: copies of it at one place cannot be told from what was sent again.
"""

from __future__ import annotations

import numpy as np

from unnoticed.probes.columns import I64, U64, Bool
from unnoticed.probes.packets import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    LATER_FRAGMENT,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Packets,
)

COPY_NS = 10_000_000
SURE_COPY_NS = 1_000_000_000


def copies(packets: Packets) -> Bool:
    """Mask of the frames that are copies of an earlier one in the table, which is in the order of capture.

    Which belong together is told by their times: a program that captures at several places may write what it got at
    one of them a while later than what it got at another.
    """
    mask = np.zeros(len(packets), np.bool_)
    of_ip = (packets.ethertype == ETHERTYPE_IPV4) | (packets.ethertype == ETHERTYPE_IPV6)
    told = (packets.protocol == PROTOCOL_TCP) | (packets.protocol == PROTOCOL_UDP) | (packets.echo > 0)
    # Later fragments all say the same; and so do acknowledgements whose options, and what they tell, are cut off.
    told &= (packets.fragment != LATER_FRAGMENT) & (packets.whole | (packets.payload > 0))
    rows = np.flatnonzero(of_ip & told)
    if not len(rows):
        return mask
    said = _mixed(packets, rows, _SAID)
    order = np.lexsort((packets.time_ns[rows], said))
    rows, said = rows[order], said[order]
    same = said[1:] == said[:-1]
    twice = np.concatenate([same, [False]]) | np.concatenate([[False], same])  # alone otherwise
    rows, said = rows[twice], said[twice]
    place = _mixed(packets, rows, _PLACE).tolist()
    times, numbers = packets.time_ns[rows].tolist(), packets.ip_id[rows].tolist()
    before, first, first_place, kept = None, 0, 0, 0
    for row, what, at, now, number in zip(rows.tolist(), said.tolist(), place, times, numbers, strict=True):
        elsewhere, numbered = at != first_place, number != 0
        within = SURE_COPY_NS if elsewhere and numbered else COPY_NS if elsewhere or numbered else -1
        if what == before and now - first <= within:
            mask[max(row, kept)] = True
            kept = min(row, kept)
        else:
            before, first, first_place, kept = what, now, at, row
    return mask


_SAID = (
    *("source", "source_high", "destination", "destination_high", "protocol", "ip_id", "fragment"),
    *("source_port", "destination_port", "payload", "sequence", "acknowledgement", "flags", "window"),
    *("echo", "echo_identifier", "echo_sequence", "udp_payload", "sack"),
)
_PLACE = ("interface", "direction", "source_mac", "destination_mac", "length")


def _mixed(packets: Packets, rows: I64, names: tuple[str, ...]) -> U64:
    """A hash of columns for each row: that of splitmix64, one column after the other."""
    total: U64 = np.zeros(len(rows), np.uint64)
    for name in names:
        column: U64 = getattr(packets, name)[rows].astype(np.uint64)
        if column.ndim > 1:
            flat = np.ascontiguousarray(column).reshape(len(rows), int(np.prod(column.shape[1:])))
            column = np.add.reduce(flat * _POWERS[: flat.shape[1]], axis=1, dtype=np.uint64)
        total = np.multiply(total, np.uint64(0x9E3779B97F4A7C15)) + column
        total = np.multiply(total ^ (total >> np.uint64(30)), np.uint64(0xBF58476D1CE4E5B9))
        total = np.bitwise_xor(total, total >> np.uint64(27))
    return total


_POWERS: U64 = np.cumprod(np.full(32, 0x94D049BB133111EB, np.uint64), dtype=np.uint64)
