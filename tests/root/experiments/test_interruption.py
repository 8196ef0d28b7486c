"""A run that is interrupted, or that loses its reader, its folder or its disk: it stops as it should, and cleanly."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time

import pytest

from unnoticed.topology.runs import REGISTRY

pytestmark = pytest.mark.root


def left_of(run_id):
    return (REGISTRY / run_id).exists()


@pytest.mark.parametrize(
    ("first", "phase"),
    [
        (signal.SIGINT, "migration"),
        pytest.param(signal.SIGTERM, "warm-up", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "quiesce", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "end", marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_the_run_cleanly_and_what_is_done_is_reported(start_run, machine, first, phase):
    before = machine()
    run = start_run("run", "--repeats", "3")
    run.wait_for_phase(phase, 2)
    run_id = run.id
    run.process.send_signal(first)
    time.sleep(0.01)
    for second in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they come in the middle of the taking down
        run.process.send_signal(second)
        time.sleep(0.05)
    assert run.wait() == 130
    assert "Already stopping" in run.stderr()
    assert "Traceback" not in run.stderr()
    assert run.stdout().startswith("Interrupted: 1 of 3 trials are done; --resume goes on after them.")
    assert f"Report: {run.out}/report.html" in run.stdout()
    assert run.outcomes()[0][0] == "completed"
    assert run.processes() == []
    assert not left_of(run_id)
    assert list(run.temporary.iterdir()) == []
    assert machine.is_again(before)


@pytest.mark.parametrize("moment_s", [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
def test_a_signal_while_the_trial_comes_up_leaves_nothing(start_run, machine, moment_s):
    before = machine()
    run = start_run("run")
    while not run.is_registered:
        assert not run.has_ended()
        time.sleep(0.001)
    run_id = run.id
    time.sleep(moment_s)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130, run.stderr() + run.stdout()
    assert "Traceback" not in run.stderr()
    # If it came before there was a bench to close, there is nothing to count.
    assert run.stdout().startswith("Interrupted: 0 of 1 trials are done") or run.stderr() == "Interrupted.\n"
    assert run.processes() == []
    assert not left_of(run_id)
    assert machine.is_again(before)


def test_a_terminal_that_goes_away_stops_the_run_cleanly(start_run):
    terminal, theirs = pty.openpty()
    run = start_run(
        "run", popen={"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    )  # fmt: skip
    os.close(theirs)
    run.wait_for_phase("warm-up")
    run_id = run.id
    os.close(terminal)
    run.process.send_signal(signal.SIGHUP)  # the kernel sends it where the terminal is the controlling one
    assert run.wait() == 130
    assert run.processes() == []
    assert not left_of(run_id)


def test_a_run_goes_on_when_nobody_reads_what_it_says(start_run):
    reader, writer = os.pipe()
    run = start_run("run", popen={"stdout": writer, "stderr": writer})
    os.close(writer)
    os.close(reader)
    assert run.wait() == 0
    assert [outcome for outcome, _ in run.outcomes()] == ["completed"]


def test_a_run_whose_folder_is_deleted_ends_with_one_sentence(start_run, machine):
    before = machine()
    run = start_run("run", "--repeats", "2")
    run.wait_for_phase("warm-up")
    run_id = run.id
    shutil.rmtree(run.out)
    assert run.wait() == 1
    lines = run.stderr().splitlines()
    assert lines[-1] == f"{run.out}: the run's folder was removed or changed while the run went on; it has ended."
    assert "Traceback" not in run.stderr()
    assert run.processes() == []
    assert not left_of(run_id)
    assert machine.is_again(before)


def test_a_full_disk_ends_the_run_with_one_sentence(tmp_path, small_plan):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=1500k none "$1" && shift && exec "$@"'
    command = [sys.executable, "-m", "unnoticed", "run", str(small_plan), "--out", str(disk / "run")]
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(disk), *command]
    argv += ["--set", "clients.request_response.rate=2 kHz", "--set", "phases.warm_up=5 s"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"{disk}/run: the disk is full; make room, then go on with --resume --out {disk}/run."
    )
    assert "Traceback" not in done.stderr
