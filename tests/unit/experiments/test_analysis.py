import json

import numpy as np
import pytest

from unnoticed.errors import RecordError
from unnoticed.results import schema


def row(tables):
    return tables["trials"].iloc[0]


@pytest.mark.parametrize(
    ("overrides", "case"),
    [
        ((), "announced"),
        ((), "silent"),
        (("migration.mode=stop-and-copy", "fabric.shape=single"), "announced"),
        (("guest.memory=256 MiB", "guest.working_set=100 MiB", "guest.dirty_rate=300 MiB/s"), "announced"),
        (("clients.count=3", "clients.download.connections=1"), "announced"),
    ],
)
def test_every_table_is_valid_and_none_is_missing(records, overrides, case):
    made = records(*overrides, case=case)
    tables = made.analyse()
    assert set(tables) == set(schema.BY_NAME)
    for name, table in tables.items():
        assert set(table["trial_id"]) <= {made.trial.id}
        if name != "trials":  # that one still lacks what the runner knows of the plan
            assert len(schema.validate(name, table)) == len(table)


def test_the_trial_s_figures_are_those_of_its_tables(records):
    tables = records("clients.count=2").analyse()
    trial, flows, again = row(tables), tables["flows"], tables["retransmits"]
    assert trial["retransmits"] == flows["retransmits"].sum() == again["segments"].sum()
    assert trial["client_retransmits"] + trial["guest_retransmits"] == trial["retransmits"]
    assert trial["worst_flow_retransmits"] == flows["retransmits"].max()
    assert trial["cutover_retransmits"] == again[again["phase"] == "cutover"]["segments"].sum()
    assert trial["worst_flow_cutover_retransmits"] <= trial["worst_flow_retransmits"]
    assert trial["rounds"] == len(tables["rounds"])
    assert trial["total_ns"] == trial["resumed_ns"] - trial["start_ns"]
    felt = tables["outages"][tables["outages"]["estimator"] == "time-stamp"]
    assert trial["perceived_ns"] == felt["outage_ns"].max()


def test_a_trial_that_gave_up_has_no_blackout_and_no_total(records):
    overrides = ("guest.memory=256 MiB", "guest.working_set=100 MiB", "guest.dirty_rate=300 MiB/s")
    trial = row(records(*overrides).analyse())
    assert (trial["outcome"], trial["blackout_ns"], trial["total_ns"]) == ("gave-up", None, None)
    assert trial["reason"]
    assert trial["integrity"]


def pages_of_rounds(*pages):
    def change(event):
        if event["event"] != "round":
            return event
        made = [{**event, "round": number, "pages": count} for number, count in enumerate(pages)]
        return made if event["round"] == 0 else None

    return change


@pytest.mark.parametrize(
    ("pages", "shrink"), [((9, 5, 1), True), ((9, 5, 5), False), ((9, 5, 6, 1), False), ((9,), True)]
)
def test_rounds_shrink_only_if_each_sent_less_than_the_one_before(records, pages, shrink):
    made = records()
    made.change(pages_of_rounds(*pages))
    assert row(made.analyse())["rounds_shrink"] == shrink


def test_whether_no_rounds_shrink_is_not_known(records):
    assert row(records("migration.mode=stop-and-copy").analyse())["rounds_shrink"] is None


@pytest.mark.parametrize(
    "what", ["a wrong page", "a wrong byte of a flow", "a wrong answer", "RAM that was not checked"]
)
def test_whatever_is_wrong_with_the_data_breaks_the_integrity(records, what):
    made = records()
    assert row(made.analyse())["integrity"]

    def change(event):
        if what == "a wrong page" and event["event"] == "ram":
            return {**event, "wrong_pages": 1}
        if what == "RAM that was not checked" and event["event"] == "ram":
            return None
        if what == "a wrong byte of a flow" and event["event"] == "socket" and event.get("workload") == "upload":
            return {**event, "integrity": False, "wrong_bytes": 1} if event["who"] == "c1" else event
        return event

    made.change(change)
    if what == "a wrong answer":
        with np.load(made.folder / "c1.requests.npz") as arrays:
            changed = {name: arrays[name].copy() for name in arrays}
        changed["right"][3] = False
        np.savez(made.folder / "c1.requests.npz", **changed)
    trial = row(made.analyse())
    assert not trial["integrity"]
    assert ("RAM was not checked" in (trial["notes"] or "")) == (what == "RAM that was not checked")


def test_a_dirtier_that_could_not_keep_up_and_a_step_that_failed_too_late_are_said(records):
    made = records()
    assert "as fast as asked" not in (row(made.analyse())["notes"] or "")

    def change(event):
        if event["event"] == "ram":
            return {**event, "pages_written": 900, "pages_skipped": 100}
        if event["event"] == "announced":
            unseen = {**event, "event": "announcement-unseen", "place": "a"}
            return [event, unseen, {**event, "event": "trouble", "step": "revive", "reason": "no room.", "place": "b"}]
        return event

    made.change(change)
    notes = row(made.analyse())["notes"]
    assert "as fast as asked: 10.0% of it was left out." in notes
    assert "The announcement of the guest at its destination was not seen at a:" in notes
    assert "At b, revive failed when there was no way back: no room." in notes


@pytest.mark.parametrize(("drops", "missing"), [(1, 0), (0, 1), (3, 3)])
def test_a_capture_with_drops_or_without_all_it_saw_is_not_complete(records, drops, missing):
    made = records()

    def change(event):
        if event["event"] == "capture" and event["point"] == "guest-a":
            return {**event, "drops": drops, "packets": event["packets"] + missing}
        return event

    made.change(change)
    tables = made.analyse()
    assert not row(tables)["captures_complete"]
    complete = tables["captures"].set_index("point")["complete"]
    assert complete.to_dict() == {"c1": True, "guest-a": False, "guest-b": True}


def test_unanswered_requests_are_missing_values_and_not_times_of_zero(records):
    made = records()
    with np.load(made.folder / "c1.requests.npz") as arrays:
        changed = {name: arrays[name].copy() for name in arrays}
    changed["answered_ns"][-2:], changed["right"][-2:], changed["sent_ns"][-1] = 0, False, 0
    np.savez(made.folder / "c1.requests.npz", **changed)
    tables = made.analyse()
    requests = schema.validate("requests", tables["requests"])
    assert requests["answered_ns"].isna().sum() == 2
    assert requests["sent_ns"].isna().sum() == 1
    assert row(tables)["integrity"]  # an answer that never came is no wrong one


def test_a_round_s_rates_are_its_own(records):
    tables = records().analyse()
    for entry in tables["rounds"].itertuples():
        assert entry.bit_per_s == pytest.approx(entry.bytes * 8e9 / entry.duration_ns)
        assert entry.dirty_pages_per_s == pytest.approx(entry.dirty_pages * 1e9 / entry.duration_ns)


def test_what_a_second_look_after_a_round_found_is_what_was_left_of_it(records):
    made = records()
    first = made.analyse()["rounds"].iloc[0]

    def look_again(event):
        if event["event"] != "round" or event["round"] != 0:
            return event
        found = event | {"event": "looked-again", "dirty_pages": event["dirty_pages"] + 7}
        return [event, found]

    made.change(look_again)
    again = made.analyse()["rounds"].iloc[0]
    assert again["dirty_pages"] == first["dirty_pages"] + 7
    assert again["dirty_pages_per_s"] == first["dirty_pages_per_s"]  # the round's own


def test_no_events_at_all_are_an_error_and_no_empty_table(records):
    made = records()
    (made.folder / "events.jsonl").write_text("")
    with pytest.raises(RecordError):
        made.analyse()
    (made.folder / "events.jsonl").write_text(json.dumps({"event": "phase"}) + "\n")
    with pytest.raises(RecordError, match="line 1"):
        made.analyse()


@pytest.mark.parametrize(("late", "noted"), [(5, False), (50, True)])
def test_frames_that_a_link_with_a_delay_brought_too_late_are_noted(records, late, noted):
    made = records()
    relay = {
        "l0-0": {"sent": 600, "late": 0, "latest_ns": 0},
        "l0-1": {"sent": 400, "late": late, "latest_ns": 7 * 10**6},
    }

    def change(event):
        is_last = event["event"] == "phase" and event["phase"] == "end"
        return [{**event, "event": "links", "lost": {}, "dropped": {}, "relay": relay}, event] if is_last else event

    made.change(change)
    notes = row(made.analyse())["notes"] or ""
    sentence = "Of the frames on links with a delay, 5.0% came more than 0.3 ms late, by up to 7.0 ms"
    assert (sentence in notes) == noted


def test_a_scheduled_change_whose_moment_never_came_is_noted(records):
    made = records()

    def change(event):
        missed = {"event": "link-missed", "link": "s1-s2", "change": "cut", "moment": "round 9"}
        is_last = event["event"] == "phase" and event["phase"] == "end"
        return [{**event, **missed}, event] if is_last else event

    made.change(change)
    assert "The link s1-s2 was never changed (cut): round 9 never came." in row(made.analyse())["notes"]
