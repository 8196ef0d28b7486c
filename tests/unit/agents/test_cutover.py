"""The cutover's steps: in order, timed, logged only at the end."""

import pytest

from unnoticed.agents.cutover import Cutover
from unnoticed.errors import MigrationError
from unnoticed.events import EventLog, read_events


def names(cutover):
    return [step.name for step in cutover.steps]


def test_steps_are_kept_in_order_and_do_not_overlap():
    cutover = Cutover(place="a", migration=3)
    for name in ("pause", "drain", "dump"):
        with cutover.step(name):
            pass
    assert names(cutover) == ["pause", "drain", "dump"]
    times = [time for step in cutover.steps for time in (step.start_ns, step.end_ns)]
    assert times == sorted(times)


def test_a_step_that_fails_is_timed_as_well():
    cutover = Cutover(place="a", migration=3)
    with pytest.raises(OSError, match="no"), cutover.step("dump"):
        raise OSError("no")
    assert names(cutover) == ["dump"]


def test_a_step_that_is_to_fail_does_nothing_and_is_not_a_step():
    cutover, done = Cutover(place="b", migration=3, fail_at="dump"), []
    with cutover.step("pause"):
        done.append("pause")
    with pytest.raises(MigrationError, match="Step dump at b was asked to fail"), cutover.step("dump"):
        done.append("dump")
    assert done == names(cutover) == ["pause"]


def test_the_log_gets_every_step_at_its_own_time_and_only_when_asked(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path, who="agent-a")
    cutover = Cutover(place="a", migration=3)
    cutover.record("receive", start_ns=5, end_ns=9)
    with cutover.step("restore"):
        pass
    assert path.read_bytes() == b""
    cutover.report(log)
    log.close()
    first, second = read_events(path)
    assert first == {
        "time_ns": 5,
        "who": "agent-a",
        "event": "step",
        "migration": 3,
        "step": "receive",
        "place": "a",
        "start_ns": 5,
        "end_ns": 9,
    }
    assert second["step"] == "restore"
    assert second["time_ns"] == second["start_ns"] <= second["end_ns"]
