"""Switches that do not know where somebody is send his frames to everybody: a capture of others sees them, too."""

from __future__ import annotations

import json

import pandas as pd
import pytest

HEADER_BYTES, RECORD_BYTES = 24, 16
GUEST = bytes.fromhex("027700000064")


def frames_of(path):
    """The records of a capture: (time, all of it)."""
    data = path.read_bytes()
    at, found = HEADER_BYTES, []
    while at < len(data):
        seconds, nanoseconds, captured = (int.from_bytes(data[at + k : at + k + 4], "little") for k in (0, 4, 8))
        end = at + RECORD_BYTES + captured
        found.append((seconds * 10**9 + nanoseconds, data[at:end]))
        at = end
    return data[:HEADER_BYTES], found


def receiver(data):
    return data[RECORD_BYTES : RECORD_BYTES + 6]


@pytest.fixture
def flooded(records):
    """A trial of two clients whose frames to the guest all came to the other one, too."""
    made = records("clients.count=2")
    made.plain = made.analyse()
    captures = made.folder / "captures"
    read = {client: frames_of(captures / f"{client}.pcap") for client in ("c1", "c2")}
    added = {}
    for client, other in (("c1", "c2"), ("c2", "c1")):
        header, own = read[client]
        foreign = [(time_ns, data) for time_ns, data in read[other][1] if receiver(data) == GUEST]
        added[client] = len(foreign)
        merged = sorted([*foreign, *own], key=lambda frame: frame[0])
        (captures / f"{client}.pcap").write_bytes(header + b"".join(frame for _, frame in merged))

    def count(event):
        if event["event"] == "capture" and event["point"] in added:
            event |= {name: event[name] + added[event["point"]] for name in ("frames", "packets")}
        return event

    made.change(count)
    places = {client: {"mac": f"02:77:00:00:01:0{client[1]}"} for client in read}
    places |= {f"guest-{place}": {"mac": GUEST.hex(":")} for place in "ab"}
    (made.folder / "fabric.json").write_text(json.dumps({"clients": list(read), "places": places}))
    assert min(added.values()) > 100
    return made


def test_each_client_is_judged_by_its_own_frames(flooded):
    tables = flooded.analyse()
    assert int(tables["flows"]["segments"].sum()) > 0
    for name, table in flooded.plain.items():
        if name != "captures":  # how many frames there were
            pd.testing.assert_frame_equal(tables[name], table)
    row, plain = tables["trials"].iloc[0], flooded.plain["trials"].iloc[0]
    assert row["kernel_agrees"]
    assert (row["perceived_ns"], row["retransmits"]) == (plain["perceived_ns"], plain["retransmits"])


def test_where_nobody_said_whose_port_it_is_all_frames_count(flooded):
    (flooded.folder / "fabric.json").unlink()
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(flooded.analyse()["timeline"], flooded.plain["timeline"])
