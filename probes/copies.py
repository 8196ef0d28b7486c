"""Frames that a capture holds more than once, though they were sent once.

A machine that captures on all its interfaces sees a frame on a VLAN and on the interface below it, on a bridge and on
its port; a mirror port copies what comes in and what goes out again. Counted as they are, all copies would be
retransmissions.

Two frames are one if they say the same, from the IP addresses to the TCP window, within 10 ms, and
- were seen at different places (interface, direction, MAC addresses, VLAN tag: their length), or
- have the same IP-ID, other than 0: a sender gives each packet another one, a retransmission too (RFC 6864 asks for it
  only where a packet may be fragmented, but Linux and Windows do it always).
IPv6 has no IP-ID: copies of it at one place cannot be told from what was sent again.
"""

from __future__ import annotations

import numpy as np

from unnoticed.probes.columns import I64, U64, Bool
from unnoticed.probes.packets import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packets

COPY_NS = 10_000_000


def copies(packets: Packets) -> Bool:
    """Mask of the frames that are copies of an earlier one in the table, which is in the order of capture."""
    mask = np.zeros(len(packets), np.bool_)
    of_ip = (packets.ethertype == ETHERTYPE_IPV4) | (packets.ethertype == ETHERTYPE_IPV6)
    rows = np.flatnonzero(of_ip & (packets.protocol > 0))
    if not len(rows):
        return mask
    said = _mixed(packets, rows, _SAID)
    order = np.argsort(said, kind="stable")
    rows, said = rows[order], said[order]
    same = said[1:] == said[:-1]
    twice = np.concatenate([same, [False]]) | np.concatenate([[False], same])  # alone otherwise
    rows, said = rows[twice], said[twice]
    place = _mixed(packets, rows, _PLACE).tolist()
    times, numbers = packets.time_ns[rows].tolist(), packets.ip_id[rows].tolist()
    before, first, first_place = None, 0, 0
    for row, what, at, now, number in zip(rows.tolist(), said.tolist(), place, times, numbers, strict=True):
        if what == before and abs(now - first) <= COPY_NS and (at != first_place or number != 0):
            mask[row] = True
        else:
            before, first, first_place = what, now, at
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
