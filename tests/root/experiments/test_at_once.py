"""Trials of one run that are performed at the same time, on networks with the same names and addresses."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.root.experiments.conftest import wait_until

from unnoticed.events import read_events
from unnoticed.results.store import RunFolder
from unnoticed.topology.processes import ancestors, marked_processes
from unnoticed.topology.runs import RUN_MARK

pytestmark = pytest.mark.root


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def phases(run):
    """The phases of each trial that has begun, with their times."""
    found = {}
    for folder in sorted(run.out.glob("trials/*/events.jsonl")):
        events = [event for event in read_events(folder) if event["event"] == "phase"]
        found[folder.parent.name] = {event["phase"]: event["time_ns"] for event in events}
    return found


def test_two_trials_at_once_take_nothing_from_each_other(start_run, machine):
    before = machine()
    run = start_run("run", "--repeats", "2", "--parallel", "2", "--set", "phases.warm_up=2 s")
    assert run.wait() == 0, run.stderr()
    trials = RunFolder(run.out).load().trials
    assert list(trials["outcome"]) == ["completed", "completed"]
    for name in ("integrity", "captures_complete", "kernel_agrees"):
        assert list(trials[name]) == [True, True], name
    first, second = phases(run).values()
    assert max(first["warm-up"], second["warm-up"]) < min(first["end"], second["end"])
    assert machine.is_again(before)


def test_one_that_is_killed_takes_nothing_with_it(start_run, machine):
    before = machine()
    run = start_run("run", "--repeats", "2", "--parallel", "2", "--set", "phases.warm_up=2 s")
    wait_until(lambda: sum("warm-up" in each for each in phases(run).values()) == 2, what="both in warm-up")
    own = [each for each in marked_processes(RUN_MARK) if run.process.pid in ancestors(each.pid)]
    marks = {each.marks[RUN_MARK] for each in own}
    assert len(marks) >= 2
    os.kill(children_of(run.process.pid)[0], signal.SIGKILL)
    assert run.wait() == 1, run.stderr()
    outcomes = dict(run.outcomes())
    assert set(outcomes) == {"completed", "failed"}
    assert "the performer of trials was killed by SIGKILL" in outcomes["failed"]
    assert not marks & {each.marks.get(RUN_MARK) for each in marked_processes(RUN_MARK)}
    assert machine.is_again(before)
