"""Migrations that fail: up to RELINQUISH the guest stays where it is, its clients unharmed; after it, it runs there."""

import json
import time

import pytest

from unnoticed.agents.wire import Type

pytestmark = pytest.mark.root

AT_THE_SOURCE = ["hush", "pause", "hold", "settle", "close-gate", "dump", "scan", "send", "await-ready", "relinquish"]
AT_THE_DESTINATION = ["restore", "await-relinquish"]
WITH_NO_WAY_BACK = ["announce"]


def check_stays(stage, client, report):
    """It failed and runs on at A, and a migration that follows works."""
    assert report["outcome"] == "failed"
    assert report["resumed_ns"] is None
    found = stage.verify("a")
    assert (found["here"], found["wrong_pages"]) == (True, 0)
    assert not stage.verify("b")["here"]
    assert (stage.fabric.gate("a"), stage.fabric.gate("b")) == (3, 0)
    again = stage.migrate("a", "b")
    assert (again["outcome"], again["reason"]) == ("completed", "")
    stage.check_guest("b")
    stage.check_unharmed(client)


@pytest.mark.parametrize("step", AT_THE_SOURCE)
def test_a_source_that_fails_before_it_has_relinquished_keeps_the_guest(stage, step):
    stage.boot()
    client = stage.load(connections=5, rate_hz=200)
    report = stage.migrate("a", "b", fail_at=step)
    assert f"Step {step} at a was asked to fail" in report["reason"]
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    check_stays(stage, client, report)


@pytest.mark.parametrize("step", AT_THE_DESTINATION)
def test_a_destination_that_fails_before_it_was_given_the_guest_leaves_it_at_the_source(stage, step):
    stage.boot()
    client = stage.load(connections=5, rate_hz=200)
    report = stage.migrate("a", "b", fail_there=step)
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    assert f"Step {step} at b was asked to fail" in report["reason"]
    assert not stage.children_of(stage.agents["b"])
    check_stays(stage, client, report)


@pytest.mark.parametrize("step", WITH_NO_WAY_BACK)
def test_a_destination_that_fails_after_it_was_given_the_guest_runs_it_all_the_same(stage, step):
    stage.boot()
    client = stage.load(bulk=False)
    assert stage.migrate("a", "b", fail_there=step)["outcome"] == "completed"
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "resumed"
    (trouble,) = stage.events("trouble")
    assert (trouble["step"], trouble["reason"]) == (step, f"Step {step} at b was asked to fail.")
    stage.check_guest("b")
    stage.check_unharmed(client)


def test_a_destination_that_is_killed_during_the_rounds_harms_nobody(stage):
    stage.boot(dirty_bytes_per_s=40 << 20)
    client = stage.load(bulk=False)
    stage.begin_migration("a", "b", policy="fixed-rounds", parameters={"rounds": 1000})
    stage.wait_until(lambda: len(stage.events("round")) > 3)
    stage.kill(stage.agents["b"].pid)
    report = stage.end_migration("a")
    assert report["rounds"] > 3
    stage.replace_agent("b")
    check_stays(stage, client, report)


def test_a_destination_that_is_killed_while_the_source_awaits_ready_harms_nobody(stage, middleman):
    stage.boot()
    client = stage.load(bulk=False)
    held = middleman("hold", Type.READY)
    stage.begin_migration("a", "b", via="control")
    assert held.stdout.readline() == "held\n"
    stage.kill(stage.agents["b"].pid)
    held.stdin.write("go\n")
    held.stdin.flush()
    report = stage.end_migration("a")
    assert "while the conversation was committed" in report["reason"]
    stage.replace_agent("b")
    check_stays(stage, client, report)


def test_a_path_that_breaks_when_relinquish_is_due_never_makes_the_guest_run_twice(stage, middleman):
    """The one doubt that cannot be settled between two: then it runs nowhere, and the source says so."""
    stage.boot()
    stage.load(bulk=False)
    held = middleman("cut-after", Type.READY)
    stage.begin_migration("a", "b", via="control")
    assert held.stdout.readline() == "held\n"
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    held.kill()
    report = stage.end_migration("a")
    assert report["outcome"] == "failed"
    assert "if it runs, then at the destination" in report["reason"]
    assert not stage.verify("a")["here"]
    assert not stage.verify("b")["here"]
    assert (stage.fabric.gate("a"), stage.fabric.gate("b")) == (0, 0)


def test_a_source_that_is_killed_after_it_relinquished_loses_nothing(stage, middleman):
    stage.boot()
    client = stage.load(bulk=False)
    held = middleman("hold", Type.RESUMED)
    stage.begin_migration("a", "b", via="control")
    assert held.stdout.readline() == "held\n"
    stage.kill(stage.agents["a"].pid)
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "resumed"
    stage.replace_agent("a")
    stage.check_guest("b")
    stage.check_unharmed(client)


def test_an_agent_with_another_key_is_refused(stage):
    stage.boot()
    client = stage.load(bulk=False)
    stage.replace_agent("b", key="11" * 32)
    report = stage.migrate("a", "b")
    assert report["outcome"] == "failed"
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    assert "right tag: another key" in stage.events("refused")[0]["reason"]
    stage.replace_agent("b")
    check_stays(stage, client, report)


def test_a_host_that_has_a_guest_takes_no_other(stage):
    stage.boot()
    client = stage.load(bulk=False)
    stage.agents["b"].command(
        "boot", memory_bytes=16 << 20, working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform"
    )
    stage.agents["b"].wait_reply("booted", 20)
    report = stage.migrate("a", "b")
    assert "Host b already has a guest" in report["reason"]
    stage.replace_agent("b")
    check_stays(stage, client, report)


def test_nobody_there_is_a_failed_migration(stage):
    stage.boot()
    client = stage.load(bulk=False)
    stage.agents["b"].kill()
    stage.begin_migration("a", "b", expected=False)
    report = stage.end_migration("a")
    assert "cannot be reached" in report["reason"]
    stage.replace_agent("b")
    check_stays(stage, client, report)


@pytest.mark.parametrize("moment", ["rounds", "cutover"])
def test_a_guest_whose_process_ends_during_its_migration_is_reported_and_the_agent_lives(stage, middleman, moment):
    stage.boot(dirty_bytes_per_s=40 << 20)
    (guest,) = stage.children_of(stage.agents["a"])
    if moment == "rounds":
        stage.begin_migration("a", "b", policy="fixed-rounds", parameters={"rounds": 1000})
        stage.wait_until(lambda: len(stage.events("round")) > 3)
        stage.kill(guest)
    else:
        held = middleman("hold", Type.READY)
        stage.begin_migration("a", "b", via="control")
        assert held.stdout.readline() == "held\n"
        stage.kill(guest)
        time.sleep(0.05)
        held.stdin.write("go\n")
        held.stdin.flush()
    report = stage.end_migration("a")
    assert report["outcome"] == "failed"
    assert "The guest's process has ended." in report["reason"]
    assert not stage.verify("a")["here"]
    stage.boot()
    assert stage.migrate("a", "b")["outcome"] == "completed"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            {"command": "migrate", "policy": "hope", "mode": "pre-copy", "number": 0, "destination": "x"},
            "unknown policy",
        ),
        ({"command": "migrate", "speed": "high"}, "speed"),
        (
            {
                "command": "boot",
                "memory_bytes": 1 << 50,
                "working_set_bytes": 0,
                "dirty_bytes_per_s": 0,
                "pattern": "x",
            },
            "already has a guest",
        ),
    ],
)
def test_a_command_that_cannot_be_obeyed_is_answered_and_the_guest_runs_on(stage, command, says):
    stage.boot()
    client = stage.load(bulk=False)
    agent = stage.agents["a"]
    agent.command(**command)
    with pytest.raises(Exception, match=says):
        agent.wait_reply("migrated", 10)
    stage.check_guest("a", resumes=1)
    stage.check_unharmed(client)


def test_a_guest_larger_than_the_machine_is_refused_and_the_agent_lives(stage):
    agent = stage.agents["a"]
    agent.command("boot", memory_bytes=1 << 50, working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
    with pytest.raises(Exception, match="of memory are available"):
        agent.wait_reply("booted", 10)
    stage.boot()
    stage.check_guest("a")


@pytest.mark.parametrize("junk", ["", "GET / HTTP/1.0\r\n\r\n", "\x01" + "\x00" * 3 + "\x10" + "\x00" * 3 + "short"])
def test_whoever_else_speaks_to_an_agent_is_sent_away(stage, junk):
    stage.boot()
    code = (
        "import json, socket, sys; s = socket.create_connection((sys.argv[1], 7100)); "
        "s.sendall(json.loads(sys.argv[2]).encode()); s.shutdown(socket.SHUT_WR); s.recv(100)"
    )
    stranger = stage.python("c1", code, stage.fabric.places["b"].ipv4, json.dumps(junk))
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    stranger.wait()
    assert stage.migrate("a", "b")["outcome"] == "completed"
