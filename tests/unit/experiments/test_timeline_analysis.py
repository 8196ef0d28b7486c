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
    for _, rows in table.groupby("client"):
        assert rows["time_ns"].tolist() == [begin + k * BIN_NS for k in range((end - begin) // BIN_NS)]
    assert (table["value"] >= 0).all()


def test_a_client_s_bins_hold_every_byte_of_its_capture(table_and_raw):
    table, raw = table_and_raw
    packets = raw.packets("c1")
    begin = raw.phase_ns("warm-up")
    behind = begin + (raw.phase_ns("quiesce") - begin) // BIN_NS * BIN_NS
    expected = packets.length[(packets.time_ns >= begin) & (packets.time_ns < behind)].sum()
    assert table[table["client"] == "c1"]["value"].sum() * BITS_OF_A_BIN == pytest.approx(int(expected))


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
