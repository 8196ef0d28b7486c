"""The table `timeline`: throughput in bins, for each client and for the page stream."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.results.schema import empty

BIN_NS = 20_000_000
SERIES = "bit_per_s"


def timeline_table(raw: RawRecords) -> pd.DataFrame:
    """What each client received and sent on the wire, and what the source's host sent of the guest."""
    begin, end = raw.phase_ns("warm-up"), raw.phase_ns("quiesce")
    frames = [_binned(client, *_load(raw, client), begin, end) for client in raw.clients]
    frames.append(_migration(raw, begin, end))
    columns = [name for name in empty("timeline").columns if name != "trial_id"]
    return pd.concat(frames, ignore_index=True)[columns]


def _load(raw: RawRecords, client: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    packets = raw.packets(client)
    return packets.time_ns, packets.length.astype(np.int64)


def _migration(raw: RawRecords, begin: int, end: int) -> pd.DataFrame:
    """From the capture at the source's host where there is one, else evenly over each round."""
    if raw.has_capture("a"):
        packets = raw.packets("a")
        sent = packets.destination_port == 7100
        return _binned("migration", packets.time_ns[sent], packets.length[sent].astype(np.int64), begin, end)
    times: list[npt.NDArray[np.int64]] = []
    sizes: list[npt.NDArray[np.int64]] = []
    for event in raw.named("round"):
        start_ns, end_ns = int(event["start_ns"]), int(event["end_ns"])
        points = max(2, (end_ns - start_ns) // BIN_NS * 4)
        times.append(np.linspace(start_ns, end_ns, points, dtype=np.int64))
        sizes.append(np.full(points, int(event["bytes"]) // points, dtype=np.int64))
    if not times:
        return _binned("migration", np.empty(0, np.int64), np.empty(0, np.int64), begin, end)
    return _binned("migration", np.concatenate(times), np.concatenate(sizes), begin, end)


def _binned(
    name: str, time_ns: npt.NDArray[np.int64], size_bytes: npt.NDArray[np.int64], begin: int, end: int
) -> pd.DataFrame:
    bins = max(1, (end - begin) // BIN_NS)
    place = (time_ns - begin) // BIN_NS
    inside = (place >= 0) & (place < bins)
    totals = np.bincount(place[inside], weights=size_bytes[inside], minlength=bins)
    return pd.DataFrame(
        {
            "client": name,
            "series": SERIES,
            "time_ns": begin + np.arange(bins, dtype=np.int64) * BIN_NS,
            "value": totals * 8e9 / BIN_NS,
        }
    )
