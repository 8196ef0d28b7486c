"""Whole migrations: two agents, a guest, a client under load."""

import itertools
from pathlib import Path

import pytest

from unnoticed.agents.tracking import available

pytestmark = pytest.mark.root


def test_a_guest_goes_back_and_forth_and_nobody_is_harmed(stage):
    stage.boot()
    client = stage.load()
    for source, destination in (("a", "b"), ("b", "a")) * 3:
        report = stage.migrate(source, destination)
        assert (report["outcome"], report["reason"]) == ("completed", "")
        assert report["paused_ns"] < report["resumed_ns"]
        assert report["connections"] >= 12
        assert report["tracker"] == available()[0]
        stage.agents[destination].wait_reply("arrival", 10)
    stage.check_guest("a", resumes=7)
    stage.check_unharmed(client)
    migrations = stage.events("migration")
    assert [event["outcome"] for event in migrations] == ["completed"] * 6
    assert not stage.events("trouble") + stage.events("connection-lost") + stage.events("refused")


def test_a_migration_in_one_go_needs_no_tracking(stage):
    stage.boot()
    client = stage.load(bulk=False)
    report = stage.migrate("a", "b", mode="stop-and-copy", policy="none")
    assert (report["outcome"], report["rounds"], report["tracker"]) == ("completed", 0, "none")
    assert report["bytes_sent"] > 64 << 20
    stage.check_guest("b")
    stage.check_unharmed(client)


def test_the_steps_of_a_cutover_are_logged_in_order_and_enclose_the_blackout(stage):
    stage.boot()
    stage.load(bulk=False, connect_hz=0)
    report = stage.migrate("a", "b")
    stage.agents["b"].wait_reply("arrival", 10)
    steps = stage.events("step")
    of = {place: [step for step in steps if step["place"] == place] for place in "ab"}
    assert [step["step"] for step in of["a"]] == [
        *("hush", "pause", "hold", "scan", "send", "settle", "close-gate", "dump", "await-ready", "relinquish"),
    ]
    assert [step["step"] for step in of["b"]] == [
        *("receive", "restore", "await-relinquish", "open-gate", "announce", "revive", "resume"),
    ]
    for ordered in of.values():
        times = [time for step in ordered for time in (step["start_ns"], step["end_ns"])]
        assert times == sorted(times)
    resume = of["b"][-1]
    assert resume["start_ns"] <= report["resumed_ns"] <= resume["end_ns"]
    pause = of["a"][1]
    assert pause["start_ns"] <= report["paused_ns"] <= pause["end_ns"]
    (announced,) = stage.events("announced")
    announce = of["b"][4]
    assert announced["frames"] == 1
    assert of["b"][3]["end_ns"] <= announced["time_ns"] <= announce["end_ns"]
    rounds = stage.events("round")
    assert [event["round"] for event in rounds] == list(range(report["rounds"]))
    assert rounds[0]["pages"] == 64 << 20 >> 12
    assert all(later["pages"] == earlier["dirty_pages"] for earlier, later in itertools.pairwise(rounds))


def test_the_readings_at_the_dump_are_of_every_connection_that_moves(stage):
    stage.boot()
    stage.load(connections=3, connect_hz=0)
    report = stage.migrate("a", "b")
    readings = [event for event in stage.events("socket") if event["reason"] == "dump"]
    assert len(readings) == report["connections"] == 5
    assert sorted(event["workload"] for event in readings) == ["download", "request", "request", "request", "upload"]
    assert all(event["segs_in"] > 0 and event["local"] == "10.77.0.100:7000" for event in readings)


@pytest.mark.parametrize("working_set_bytes", [0, 8 << 20])
def test_a_guest_without_connections_moves_as_well(stage, working_set_bytes):
    stage.boot(working_set_bytes=working_set_bytes)
    for source, destination in (("a", "b"), ("b", "a")):
        report = stage.migrate(source, destination)
        assert (report["outcome"], report["connections"], report["rto_min_ns"]) == ("completed", 0, None)
    stage.check_guest("a", resumes=3)
    stage.check_unharmed(stage.load(bulk=False))


def test_a_digest_of_all_ram_can_be_compared_before_the_guest_resumes(stage):
    stage.boot()
    client = stage.load(bulk=False)
    assert stage.migrate("a", "b", verify=True)["outcome"] == "completed"
    assert stage.migrate("b", "a", verify=True, mode="stop-and-copy")["outcome"] == "completed"
    stage.check_guest("a")
    stage.check_unharmed(client)


def test_a_page_that_is_corrupted_on_its_way_is_caught_before_the_guest_resumes(stage, middleman):
    stage.boot()
    client = stage.load(bulk=False)
    middleman("flip", 40 << 20)
    report = stage.migrate("a", "b", via="control", verify=True)
    assert report["outcome"] == "failed"
    assert "its digest differs" in report["reason"]
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    stage.check_guest("a")
    assert stage.migrate("a", "b", verify=True)["outcome"] == "completed"
    stage.check_guest("b")
    stage.check_unharmed(client)


def test_without_the_digest_the_same_page_is_found_by_what_the_guest_knows_of_its_writes(stage, middleman):
    stage.boot()
    middleman("flip", 40 << 20)
    assert stage.migrate("a", "b", via="control")["outcome"] == "completed"
    assert stage.verify("b")["wrong_pages"] == 1


def test_giving_up_leaves_the_guest_where_it_is(stage):
    stage.boot(working_set_bytes=48 << 20, dirty_bytes_per_s=400 << 20)
    client = stage.load(bulk=False)
    report = stage.migrate(
        "a", "b", rate_bytes_per_s=100_000_000, parameters={"max_rounds": 2, "patience": 1, "default_rto_ns": 1}
    )
    assert report["outcome"] == "gave-up"
    assert "the tcp-timeout policy sees no end" in report["reason"]
    assert report["paused_ns"] is report["resumed_ns"] is None
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    stage.check_guest("a")
    stage.check_unharmed(client)


def test_a_guest_ends_when_the_agents_parent_does(stage):
    stage.boot()
    agent = stage.agents["a"]
    (guest,) = stage.children_of(agent)
    assert agent.close() == 0  # its stdin is closed
    stage.wait_until(lambda: not Path(f"/proc/{guest}").exists())


def test_a_guest_ends_when_its_agent_is_killed(stage):
    stage.boot()
    (guest,) = stage.children_of(stage.agents["a"])
    stage.agents["a"].kill()
    stage.wait_until(lambda: not Path(f"/proc/{guest}").exists())
