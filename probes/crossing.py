"""What became of a flow's frames between its sender and its receiver: lost, or overtaken by later ones, by the IP-ID.

A Linux sender counts the IP-ID of a connection up with each frame (net/ipv4/ip_output.c, ip_select_ident), so that two
frames of a flow that carry the same bytes still differ in it; with two captures, one at each end, every frame that left
is known to have arrived or not. A SYN's answer and a reset have none, and repeats of those are told by how many came.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unnoticed.probes.columns import I64
from unnoticed.probes.packets import ETHERTYPE_IPV4, Packets


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Of the frames that left: how many never arrived, and how many did after one that had left later."""

    lost: int
    overtaken: int


def crossing(sent: Packets, sent_rows: I64, received: Packets, received_rows: I64) -> Crossing | None:
    """Of one flow, from the captures at both ends; rows ascending, in the order of capture.

    None where the IP-ID cannot tell: with IPv6, which has none, and where frames were cut or put together on the way.
    """
    leaving, arriving = _keys(sent, sent_rows), _keys(received, received_rows)
    if leaving is None or arriving is None:
        return None
    keys, which = np.unique(np.concatenate([leaving, arriving]), axis=0, return_inverse=True)
    which = which.reshape(-1)
    left, came = which[: len(leaving)], which[len(leaving) :]
    departures, arrivals = (np.bincount(part, minlength=len(keys)) for part in (left, came))
    if (arrivals[departures == 0] > 0).any():
        return None
    order = np.full(len(keys), len(left), np.int64)
    np.minimum.at(order, left, np.arange(len(left)))
    placed = order[came]
    return Crossing(
        lost=int(np.maximum(departures - arrivals, 0).sum()),
        overtaken=int((placed < np.maximum.accumulate(placed)).sum()) if len(placed) else 0,
    )


def _keys(packets: Packets, rows: I64) -> I64 | None:
    """What tells the frames of a flow apart, a row each; None where there is a frame without an IP-ID field."""
    if (packets.ethertype[rows] != ETHERTYPE_IPV4).any():
        return None
    first = packets.ip_id[rows].astype(np.int64) << 32 | packets.sequence[rows]
    second = packets.payload[rows].astype(np.int64) << 8 | packets.flags[rows]
    return np.stack([first, second], axis=1)
