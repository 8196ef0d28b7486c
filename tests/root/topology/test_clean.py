"""What a killed runner leaves, and that `clean` removes it and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.processes import users_of
from unnoticed.topology.runs import clean

pytestmark = pytest.mark.root

# argv: registry, run id. Its children ignore their stdin, so nothing but `clean` ends them.
RUNNER = """
import subprocess, sys, time
from pathlib import Path
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.runs import Run
print("go", flush=True)
with Run(registry=Path(sys.argv[1]), run_id=sys.argv[2]) as run:
    (run.folder / "socket").write_text("")
    with Fabric(FabricSpec(shape="tree", clients=2), run_id=run.id) as fabric:
        for place in ("a", "guest-a", "s1"):
            fabric.popen(place, ["setsid", "sleep", "1000"], stdin=subprocess.DEVNULL)
        subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, start_new_session=True)
        print("up", flush=True)
        time.sleep(1000)
"""


@pytest.fixture
def start_runner(tmp_path):
    started = []

    def start(run_id):
        argv = [sys.executable, "-c", RUNNER, str(tmp_path / "registry"), run_id]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "go\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(5)
        process.stdout.close()
    clean(registry=tmp_path / "registry")


def namespaces(processes):
    return {process.net_namespace for process in processes.values()} - {str(Path("/proc/self/ns/net").readlink())}


def test_clean_removes_a_killed_run_and_leaves_a_live_one_alone(start_runner, run, processes_of, tmp_path, traces):
    before = traces()
    with Fabric(FabricSpec(shape="single"), run_id=run.id) as alive:
        runner = start_runner("killed00")
        assert runner.stdout.readline() == "up\n"
        left = namespaces(processes_of("killed00"))
        assert len(left) == 10
        untouched = set(processes_of(run.id)) - {runner.pid}  # which was started from this environment

        assert "killed00" in clean(registry=tmp_path / "registry").alive  # nothing to do while it lives
        assert namespaces(processes_of("killed00")) == left

        runner.send_signal(signal.SIGKILL)
        runner.wait(5)
        assert len(processes_of("killed00")) >= 4  # at least those that hold no terminal of the runner's
        report = clean(registry=tmp_path / "registry")

        assert "killed00" in report.runs
        assert run.id not in report.runs
        assert report.stuck == ()
        assert processes_of("killed00") == {}
        assert users_of(left) == []
        folder = tmp_path / "registry" / "killed00"
        assert set(report.files) == {str(folder), str(folder / "run.json"), str(folder / "socket")}
        assert list((tmp_path / "registry").iterdir()) == [run.folder]
        assert set(processes_of(run.id)) == untouched
        assert alive.check_reachability() >= 0
    assert traces() == before


@pytest.mark.parametrize("moment_s", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
def test_whenever_a_runner_is_killed_clean_finds_all_of_it(start_runner, processes_of, tmp_path, traces, moment_s):
    before = traces()
    runner = start_runner("killed01")
    time.sleep(moment_s)
    runner.send_signal(signal.SIGKILL)
    runner.wait(5)
    left = namespaces(processes_of("killed01"))
    clean(registry=tmp_path / "registry")
    assert processes_of("killed01") == {}
    assert users_of(left) == []
    registry = tmp_path / "registry"
    assert not registry.exists() or list(registry.iterdir()) == []
    assert traces() == before


def test_node_shells_end_by_themselves_when_their_runner_is_killed(start_runner, processes_of):
    runner = start_runner("killed02")
    assert runner.stdout.readline() == "up\n"
    shells = [pid for pid, process in processes_of("killed02").items() if process.name == "bash"]
    assert len(shells) == 10
    runner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in shells) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in shells if Path(f"/proc/{pid}").exists()] == []
    assert [process.name for process in processes_of("killed02").values()] == ["sleep"] * 4
    assert os.getpid() not in processes_of("killed02")
