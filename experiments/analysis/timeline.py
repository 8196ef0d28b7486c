"""The table `timeline`: throughput in bins, for each direction of each client's link and for the page stream.

All of it is counted behind the links that carried it. What a host hands to its link is more, whenever that link's queue
has room after a stall or drops what is then sent again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.results.schema import SERIES, empty

BIN_NS = 20_000_000
RECEIVED, SENT = SERIES
_PAGES_PORT = 7100


def timeline_table(raw: RawRecords) -> pd.DataFrame:
    """What each client received and sent on the wire, and what the destination's host received of the guest."""
    begin, end = raw.phase_ns("warm-up"), raw.phase_ns("quiesce")
    frames = []
    for client in raw.clients:
        packets, own = raw.packets(client), raw.client_address(client)
        for series, chosen in ((RECEIVED, ~packets.sent_by(own)), (SENT, packets.sent_by(own))):
            sizes = packets.length[chosen].astype(np.int64)
            bins = _binned(packets.time_ns[chosen], sizes, begin, end)
            frames.append(bins.assign(client=client, series=series))
    frames.append(_binned(*_pages(raw), begin, end).assign(client="migration", series=RECEIVED))
    columns = [name for name in empty("timeline").columns if name != "trial_id"]
    return pd.concat(frames, ignore_index=True)[columns]


def _pages(raw: RawRecords) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """When how many bytes came: by the capture at the destination's host where there is one, else evenly in a round."""
    if raw.has_capture("b"):
        packets = raw.packets("b")
        came = packets.destination_port == _PAGES_PORT
        return packets.time_ns[came], packets.length[came].astype(np.int64)
    times: list[npt.NDArray[np.int64]] = []
    sizes: list[npt.NDArray[np.int64]] = []
    for event in raw.named("round"):
        start_ns, end_ns = int(event["start_ns"]), int(event["end_ns"])
        points = max(2, (end_ns - start_ns) // BIN_NS * 4)
        times.append(np.linspace(start_ns, end_ns, points, dtype=np.int64))
        sizes.append(np.full(points, int(event["bytes"]) // points, dtype=np.int64))
    if not times:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(times), np.concatenate(sizes)


def _binned(time_ns: npt.NDArray[np.int64], size_bytes: npt.NDArray[np.int64], begin: int, end: int) -> pd.DataFrame:
    bins = max(1, (end - begin) // BIN_NS)
    place = (time_ns - begin) // BIN_NS
    inside = (place >= 0) & (place < bins)
    totals = np.bincount(place[inside], weights=size_bytes[inside], minlength=bins)
    return pd.DataFrame(
        {
            "time_ns": begin + np.arange(bins, dtype=np.int64) * BIN_NS,
            "value": totals * 8e9 / BIN_NS,
        }
    )
