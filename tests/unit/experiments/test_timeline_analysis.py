from dataclasses import replace

import numpy as np
import pytest

from unnoticed.experiments.analysis.timeline import BIN_NS, timeline_table

BITS_OF_A_BIN = BIN_NS / 8e9  # bytes = value times this


@pytest.fixture
def table_and_raw(records):
    raw = records("clients.count=2").raw()
    return timeline_table(raw), raw


def test_every_client_and_the_migration_have_one_value_for_each_bin(table_and_raw):
    table, raw = table_and_raw
    begin, end = raw.phase_ns("warm-up"), raw.phase_ns("quiesce")
    assert set(table["client"]) == {"c1", "c2", "migration"}
    assert set(table[table["client"] == "c1"]["series"]) == {"received_bit_per_s", "sent_bit_per_s"}
    for _, rows in table.groupby(["client", "series"]):
        assert rows["time_ns"].tolist() == [begin + k * BIN_NS for k in range((end - begin) // BIN_NS)]
    assert (table["value"] >= 0).all()


def test_a_client_s_bins_hold_every_byte_of_its_capture(table_and_raw):
    table, raw = table_and_raw
    packets = raw.packets("c1")
    begin = raw.phase_ns("warm-up")
    behind = begin + (raw.phase_ns("quiesce") - begin) // BIN_NS * BIN_NS
    inside = (packets.time_ns >= begin) & (packets.time_ns < behind)
    sent = packets.source == raw.client_address("c1")
    mine = table[table["client"] == "c1"].groupby("series")["value"].sum() * BITS_OF_A_BIN
    assert mine["sent_bit_per_s"] == pytest.approx(int(packets.length[inside & sent].sum()))
    assert mine["received_bit_per_s"] == pytest.approx(int(packets.length[inside & ~sent].sum()))
    assert (mine > 0).all()


def test_the_migration_is_what_came_to_the_destination_where_that_was_captured(table_and_raw, monkeypatch):
    raw = table_and_raw[1]
    clients, begin = raw.packets("c1"), raw.phase_ns("warm-up")
    port = np.where(np.arange(len(clients)) % 3 == 0, 7100, clients.destination_port).astype(np.uint16)
    came = replace(clients, destination_port=port)
    monkeypatch.setattr(raw, "has_capture", lambda point: point == "b")
    monkeypatch.setattr(raw, "packets", lambda point: came if point == "b" else clients)
    behind = begin + (raw.phase_ns("quiesce") - begin) // BIN_NS * BIN_NS
    pages = (came.destination_port == 7100) & (came.time_ns >= begin) & (came.time_ns < behind)
    moved = timeline_table(raw).query("client == 'migration'")
    assert moved["value"].sum() * BITS_OF_A_BIN == pytest.approx(int(came.length[pages].sum()))


def test_without_a_capture_at_the_source_a_round_s_bytes_are_spread_over_its_time(table_and_raw):
    table, raw = table_and_raw
    rounds = list(raw.named("round"))
    moved = table[table["client"] == "migration"]
    total = moved["value"].sum() * BITS_OF_A_BIN
    assert total == pytest.approx(sum(event["bytes"] for event in rounds), rel=0.01)
    busy = moved[moved["value"] > 0]["time_ns"]
    assert busy.min() >= rounds[0]["start_ns"] - BIN_NS
    assert busy.max() <= rounds[-1]["end_ns"]


def test_a_migration_without_rounds_shows_none(records):
    raw = records("migration.mode=stop-and-copy").raw()
    table = timeline_table(raw)
    assert (table[table["client"] == "migration"]["value"] == 0).all()
