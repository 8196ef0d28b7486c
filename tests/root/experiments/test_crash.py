"""A runner that is killed at any moment: `unnoticed clean` removes all of that run, and leaves another one alone."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.root.experiments.conftest import wait_until

from unnoticed.results.store import RunFolder
from unnoticed.topology.processes import users_of
from unnoticed.topology.runs import REGISTRY

pytestmark = pytest.mark.root

STOP_AND_COPY = ("--set", "migration.mode=stop-and-copy", "--set", "migration.rate_limit=200 Mbit/s")


def has_child(run, name):
    trial = run.trial()
    return trial is not None and (trial / f"{name}.stderr").exists()


def is_running(run, module):
    for process in run.processes():
        with contextlib.suppress(OSError):
            if module.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0"):
                return True
    return False


def in_phase(phase, after_s=0.0):
    def reached(run):
        if run.phase() != phase:
            return False
        time.sleep(after_s)
        return True

    return reached


# Each moment: when it has come, and options of the run. What the last ones wait for exists a fraction of a second.
MOMENTS = {
    "fabric": (lambda run: len(run.processes()) >= 3, ()),
    "children": (lambda run: has_child(run, "agent-a"), ()),
    "boot": (lambda run: is_running(run, "unnoticed.agents.guest"), ("--set", "guest.memory=512 MiB")),
    "warm-up": (in_phase("warm-up", 0.1), ()),
    "round 0": (in_phase("migration", 0.1), ()),
    "cutover": (in_phase("migration", 0.5), STOP_AND_COPY),  # all of RAM at 200 Mbit/s: 2 s between pause and resume
    "cool-down": (in_phase("cool-down", 0.1), ()),
    "quiesce": (in_phase("quiesce", 0.1), ()),
    "analysis": (in_phase("end", 0.1), ()),
    "report": (lambda run: any(run.out.glob("trials/*/tables")), ()),
}
QUICK = ("fabric", "round 0")


def clean():
    done = subprocess.run(
        [sys.executable, "-m", "unnoticed", "clean", "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def network_namespaces():
    """Those that processes are in, by all of /proc."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                found.add(str((entry / "ns" / "net").readlink()))
    return found


def listed_namespaces():
    """Those that lsns knows, which also looks for mounts of them."""
    done = subprocess.run(["lsns", "-t", "net", "-n", "-o", "NS"], capture_output=True, text=True, check=True)
    return {f"net:[{line.strip()}]" for line in done.stdout.splitlines()}


def kill_and_look(run, reached, machine, before):
    """Kill the runner when the moment has come, clean, and see that nothing of the run is there."""
    while not (run.id or run.is_registered) or not reached(run):
        assert not run.has_ended(), f"it ended before the moment came: {run.stderr()}"
        time.sleep(0.001)
    run_id, processes = run.id, run.processes()
    namespaces = {process.net_namespace for process in processes} - {str(Path("/proc/self/ns/net").readlink())}
    run.process.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert run_id

    report = clean()

    assert run_id not in report["alive"]
    assert report["stuck"] == []
    assert run.processes() == []
    # Who was about to end by itself is seen by nobody any more, but may not be gone yet.
    wait_until(
        lambda: not any(Path(f"/proc/{each.pid}/ns/net").exists() for each in processes),
        what="all processes of the run have ended",
        timeout_s=5.0,
    )
    assert users_of(namespaces) == []
    assert not namespaces & network_namespaces()
    assert not namespaces & listed_namespaces()
    assert not (REGISTRY / run_id).exists()
    assert list(run.temporary.iterdir()) == []
    assert machine.is_again(before)
    assert (run.out / "run.json").exists()
    return report, run_id


class Neighbour:
    """Another run, with the same addresses, one after the other, so that one is always alive."""

    def __init__(self, start_run, *options):
        self._start_run = start_run
        self._options = options
        self.runs = []
        self.witnessed = 0
        self._next()

    def _next(self):
        run = self._start_run(f"neighbour-{len(self.runs)}", *self._options)
        self.runs.append(run)
        run.wait_for_phase("warm-up")

    def alive(self):
        """The id of one that is alive, a new one if the last has ended."""
        if self.runs[-1].has_ended() or not self.runs[-1].is_registered:
            self._next()
        return self.runs[-1].id

    def check(self, run_id, report):
        """See that the clean left it alone."""
        assert run_id not in report["runs"]
        if not self.runs[-1].has_ended():
            assert run_id in report["alive"] or not self.runs[-1].is_registered
            self.witnessed += 1

    def end(self):
        """See that all of them came to their end, with every trial as it should be."""
        for run in self.runs:
            assert run.wait(180) == 0, run.stderr()
            trials = RunFolder(run.out).load().trials
            assert set(trials["outcome"]) == {"completed"}
            assert trials["integrity"].all()
            assert trials["captures_complete"].all()
            assert trials["resets"].sum() == 0
            assert not run.is_registered
            assert run.processes() == []
        assert self.witnessed


def kill_at(moments, start_run, machine, *options):
    before = machine()
    neighbour = Neighbour(start_run, *options)
    for moment in moments:
        reached, options = MOMENTS[moment]
        alive = neighbour.alive()
        run = start_run(moment.replace(" ", "-"), *options)
        report, _ = kill_and_look(run, reached, machine, before)
        neighbour.check(alive, report)
    neighbour.end()
    assert machine.is_again(before)


def test_a_killed_run_is_cleaned_away_and_its_neighbour_is_left_alone(start_run, machine):
    kill_at(QUICK, start_run, machine, "--set", "phases.warm_up=5 s")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whenever_a_run_is_killed_it_is_cleaned_away_and_its_neighbour_is_left_alone(start_run, machine):
    kill_at(MOMENTS, start_run, machine, "--repeats", "4")


def test_the_moment_called_cutover_is_in_the_cutover(start_run):
    reached, options = MOMENTS["cutover"]
    run = start_run("run", *options)
    while not reached(run):
        assert not run.has_ended(), run.stderr()
        time.sleep(0.001)
    run.process.send_signal(signal.SIGKILL)
    run.wait()
    clean()
    assert not [event for event in run.events() if event["event"] in ("migration", "round")]


def test_a_killed_run_can_be_resumed(start_run):
    run = start_run("run", "--repeats", "2")
    run.wait_for_phase("migration", 2)
    run.process.send_signal(signal.SIGKILL)
    run.wait()
    clean()
    (first,) = run.out.glob("trials/*/tables")
    written = first.stat().st_mtime_ns
    again = start_run("again", "--repeats", "2", "--resume", resume_of=run)
    assert again.wait() == 0
    assert "Going on after 1 of 2 trials." in again.stderr()
    assert [outcome for outcome, _ in again.outcomes()] == ["completed"] * 2
    assert first.stat().st_mtime_ns == written


def test_without_a_clean_the_processes_of_a_killed_run_end_by_themselves(start_run):
    run = start_run("run")
    run.wait_for_phase("warm-up")
    processes = run.processes()
    assert len(processes) > 10
    run.process.send_signal(signal.SIGKILL)
    run.wait()
    deadline_s = time.monotonic() + 20
    while (left := run.processes()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert left == []
