from dataclasses import replace

import pytest

from unnoticed.experiments.analysis.flows import AFTERMATH_NS, analyse_flows, phase_of
from unnoticed.experiments.analysis.raw import Migration

MS = 1_000_000


def migration(*, paused=100, resumed=200, end=300):
    return Migration(
        outcome="completed" if resumed else "gave-up",
        reason="",
        start_ns=10,
        end_ns=end,
        paused_ns=paused,
        resumed_ns=resumed,
        bytes_sent=0,
        rounds=1,
        rto_min_ns=None,
        tracker="userfaultfd-wp",
        codec="none",
    )


@pytest.mark.parametrize(
    ("time_ns", "phase"),
    [
        (9, "other"),
        (10, "rounds"),
        (99, "rounds"),
        (100, "cutover"),
        (200 + AFTERMATH_NS, "cutover"),
        (201 + AFTERMATH_NS, "after"),
    ],
)
def test_a_retransmission_belongs_to_the_phase_it_falls_in(time_ns, phase):
    assert phase_of(time_ns, migration()) == phase


@pytest.mark.parametrize(("time_ns", "phase"), [(9, "other"), (10, "rounds"), (300, "rounds"), (301, "other")])
def test_without_a_pause_there_are_only_rounds(time_ns, phase):
    assert phase_of(time_ns, migration(paused=None, resumed=None)) == phase


def test_a_cutover_that_failed_lasts_until_the_migration_s_end():
    failed = migration(resumed=None)
    assert phase_of(300 + AFTERMATH_NS, failed) == "cutover"
    assert phase_of(301 + AFTERMATH_NS, failed) == "after"


@pytest.mark.parametrize(
    ("first_ns", "phase"), [(199, "cutover"), (209, "cutover"), (210, "push"), (260, "push"), (261, "cutover")]
)
def test_what_was_first_sent_while_pages_followed_a_guest_that_was_found_again_is_the_push_s(first_ns, phase):
    followed = replace(migration(), completed_ns=260)
    assert phase_of(265, followed, first_ns=first_ns, settled_ns=210) == phase
    assert phase_of(265, followed, first_ns=first_ns) == "cutover"


def test_of_a_guest_that_is_lost_pages_follow_until_the_end():
    assert phase_of(320, migration(), first_ns=290, settled_ns=210) == "push"
    assert phase_of(320, migration(), first_ns=310, settled_ns=210) == "cutover"


@pytest.fixture
def every_load(records):
    return records("clients.count=2", "clients.download.connections=1")


def test_each_connection_has_a_row_for_either_sender(every_load):
    flows = analyse_flows(every_load.raw()).flows
    assert len(flows) == 2 * len(every_load.truth["flows"])
    for name, both in flows.groupby("connection"):
        assert sorted(both["sender"]) == ["client", "guest"], name
        one, other = both.to_dict("records")
        assert (one["local"], one["remote"]) == (other["remote"], other["local"])
    assert set(flows["workload"]) == {"request", "download", "upload", "connect"}


def test_both_senders_counts_and_bytes_are_the_truth_s_and_the_kernel_s(every_load):
    flows = analyse_flows(every_load.raw()).flows
    for row in flows.to_dict("records"):
        end = "local" if row["sender"] == "client" else "remote"
        truth = every_load.truth["flows"][row[end]]
        assert row["retransmits"] == truth[f"{row['sender']}_retransmits"] == row["kernel_retransmits"], row
        assert row["bytes"] == truth[f"{row['sender']}_bytes"]
        assert row["workload"] == truth["workload"]
    assert (flows["rto"] + flows["fast"] + flows["tlp"] + flows["spurious"] >= flows["retransmits"]).all()


def test_the_table_of_retransmissions_adds_up_to_the_flows(every_load):
    tables = analyse_flows(every_load.raw())
    counted = tables.retransmits.groupby("flow")["segments"].sum()
    for row in tables.flows.to_dict("records"):
        assert counted.get(f"{row['local']}>{row['remote']}", 0) == row["retransmits"]
    paused, resumed = every_load.truth["paused_ns"], every_load.truth["resumed_ns"]
    within = tables.retransmits["time_ns"].between(paused, resumed + AFTERMATH_NS)
    assert (tables.retransmits.loc[within, "phase"] == "cutover").all()


def test_only_the_bulk_direction_of_bulk_flows_stalls_and_no_less_than_the_path_was_cut(every_load):
    flows = analyse_flows(every_load.raw()).flows
    stalled = flows[flows["stall_ns"].notna()]
    assert set(zip(stalled["workload"], stalled["sender"], strict=True)) == {
        ("download", "guest"),
        ("upload", "client"),
    }
    start, end = every_load.truth["tcp_cut"]
    assert (stalled["stall_ns"] >= end - start).all()


def counted(event, amount):
    return {**event, "total_retrans": event["total_retrans"] + amount}


def test_a_connection_s_sockets_count_together(every_load):
    before = analyse_flows(every_load.raw()).flows.set_index("local")["kernel_retransmits"]

    def change(event):
        return counted(event, 3) if event["event"] == "socket" and event["reason"] == "dump" else event

    every_load.change(change)
    dumped = {event["remote"] for event in every_load.raw().named("socket") if event["reason"] == "dump"}
    flows = analyse_flows(every_load.raw()).flows
    guests = flows[flows["sender"] == "guest"]
    assert dumped
    assert all((row.kernel_retransmits == 3) == (row.remote in dumped) for row in guests.itertuples())
    clients = flows[flows["sender"] == "client"].set_index("local")["kernel_retransmits"]
    assert clients.equals(before[clients.index].astype(clients.dtype))


def test_a_counter_that_was_only_read_at_the_dump_is_unknown_and_said_to_be(every_load):
    def change(event):
        gone = event["event"] == "socket" and event["who"].startswith("guest") and event["workload"] == "request"
        return None if gone else event

    every_load.change(change)
    tables = every_load.analyse()
    unread = tables["flows"]["kernel_retransmits"].isna()
    assert set(tables["flows"].loc[unread, "workload"]) == {"request"}
    assert set(tables["flows"].loc[unread, "sender"]) == {"guest"}
    assert f"counters of {unread.sum()} of {len(unread)} flows were not read" in tables["trials"]["notes"].iloc[0]
    assert bool(tables["trials"]["kernel_agrees"].iloc[0])


def test_one_segment_too_many_is_a_disagreement(every_load):
    def change(event):
        at_client = event["event"] == "socket" and event["who"] == "c1" and event["workload"] == "upload"
        return counted(event, 1) if at_client else event

    every_load.change(change)
    assert not bool(every_load.analyse()["trials"]["kernel_agrees"].iloc[0])


def test_what_follows_the_last_reading_of_the_counters_is_not_compared(every_load):
    def change(event):
        closing = event["event"] == "socket" and event["who"] == "c1" and event["workload"] == "upload"
        if not closing:
            return event
        return {**event, "time_ns": every_load.truth["paused_ns"], "total_retrans": 0}

    every_load.change(change)
    tables = every_load.analyse()
    assert bool(tables["trials"]["kernel_agrees"].iloc[0])
    assert tables["flows"]["retransmits"].sum() == tables["retransmits"]["segments"].sum()


def test_where_no_frame_is_lost_a_blackout_longer_than_a_timer_foretells_who_sends_again(records):
    raw = records("clients.upload.connections=1", "clients.download.connections=1").raw()
    holding = raw.settings.migration.model_copy(update={"gap": "hold"})
    raw.settings = raw.settings.model_copy(update={"migration": holding})
    flows, blackout_ns = analyse_flows(raw).flows, raw.migration.blackout_ns
    known = flows[flows["harmless_blackout_ns"].notna()]
    assert set(zip(known["workload"], known["sender"], strict=True)) >= {("request", "client"), ("upload", "client")}
    assert not set(known["workload"]) & {"download"}
    assert (known["sender"] == "client").all()
    least = known.groupby("workload")["harmless_blackout_ns"].min()
    assert least["upload"] < least["request"]
    assert (known["predicted_retransmit"] == (known["harmless_blackout_ns"] < blackout_ns)).all()


def test_where_clients_are_answered_nothing_is_foretold(every_load):
    raw = every_load.raw()
    answering = raw.settings.migration.model_copy(update={"gap": "hold", "zero_window": True})
    raw.settings = raw.settings.model_copy(update={"migration": answering})
    assert analyse_flows(raw).flows["predicted_retransmit"].isna().all()


def test_where_frames_are_dropped_nothing_is_foretold(every_load):
    assert analyse_flows(every_load.raw()).flows["predicted_retransmit"].isna().all()


def test_timeouts_of_which_nothing_came_are_told_from_those_that_sent_something(every_load):
    before = analyse_flows(every_load.raw())
    assert (before.flows["timeouts_held"] == 0).all()
    sent = before.retransmits[before.retransmits["type"] == "rto"].groupby("flow")["segments"].sum()

    def change(event):
        return {**event, "total_rto": 50} if event["event"] == "socket" and event["who"] == "c1" else event

    every_load.change(change)
    flows = analyse_flows(every_load.raw()).flows
    here = flows[(flows["client"] == "c1") & (flows["sender"] == "client")]
    for row in here.to_dict("records"):
        assert 50 - sent.get(f"{row['local']}>{row['remote']}", 0) <= row["timeouts_held"] <= 50


def test_on_a_kernel_that_does_not_count_timeouts_nothing_is_said_of_them(every_load):
    every_load.change(lambda event: {**event, "total_rto": -1} if event["event"] == "socket" else event)
    assert analyse_flows(every_load.raw()).flows["timeouts_held"].isna().all()


def test_a_namespace_whose_kernel_counted_otherwise_is_named(every_load):
    captures = every_load.analyse()["captures"].set_index("point")
    assert captures.loc["c1", "retransmits"] == captures.loc["c1", "kernel_retransmits"] > 0
    assert not every_load.analyse()["trials"]["notes"].notna().any()

    def change(event):
        at_c1 = event["event"] == "capture" and event["point"] == "c1"
        return {**event, "kernel_retransmits": event["kernel_retransmits"] + 1} if at_c1 else event

    every_load.change(change)
    assert every_load.analyse()["trials"]["notes"].iloc[0].startswith("From c1 ")
