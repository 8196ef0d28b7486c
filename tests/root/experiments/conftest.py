"""Runs of the whole product as its users start it, and what can be seen of them from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from unnoticed.topology.processes import Process, marked_processes
from unnoticed.topology.runs import REGISTRY, RUN_MARK, clean, read_record

SMALL = """question = "Does what is left of a run disturb anybody?"
repeats = 1
[fabric]
shape = "single"
link = { rate = "1 Gbit/s", queue = "10 ms" }
[guest]
memory = "48 MiB"
working_set = "4 MiB"
dirty_rate = "2 MiB/s"
[clients]
count = 1
congestion_control = "cubic"
request_response = { connections = 2, rate = "100 Hz" }
download = { connections = 1, rate = "5 Mbit/s" }
connect = { rate = "5 Hz" }
[phases]
warm_up = "300 ms"
cool_down = "300 ms"
"""

UNNOTICED = (sys.executable, "-m", "unnoticed")


def wait_until(condition, *, what, timeout_s=60.0):
    """Poll; AssertionError says what did not happen."""
    deadline_s = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline_s, f"within {timeout_s:g} s not: {what}"
        time.sleep(0.002)
    return result


@dataclass
class StartedRun:
    """One `unnoticed run`. Its temporary files go to `temporary`, its words to files beside its output."""

    process: subprocess.Popen
    out: Path
    temporary: Path
    id: str = ""

    @property
    def is_registered(self) -> bool:
        """Whether the registry has it; from then on its id is known."""
        for folder in REGISTRY.iterdir() if REGISTRY.is_dir() else ():
            record = read_record(folder)
            if record is not None and record.output == str(self.out):
                self.id = record.id
                return True
        return False

    def processes(self) -> list[Process]:
        """Those that carry its mark, the runner not among them."""
        registered = self.is_registered
        assert registered or self.id or not self.has_ended(), "nobody has looked for its id while it was there"
        return [each for each in marked_processes(RUN_MARK) if each.marks.get(RUN_MARK) == self.id]

    def trial(self, number: int = 1) -> Path | None:
        return next(iter(self.out.glob(f"trials/{number:04d}-*")), None)

    def events(self, number: int = 1) -> list[dict]:
        trial = self.trial(number)
        if trial is None or not (trial / "events.jsonl").exists():
            return []
        lines = (trial / "events.jsonl").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def phase(self, number: int = 1) -> str:
        """The phase that the trial has come to; empty before the first."""
        phases = [event["phase"] for event in self.events(number) if event["event"] == "phase"]
        return phases[-1] if phases else ""

    def wait_for_phase(self, phase: str, number: int = 1) -> None:
        wait_until(lambda: self.phase(number) == phase or self.has_ended(), what=f"trial {number} in {phase}")
        assert self.is_registered
        assert not self.has_ended(), f"it ended before trial {number} came to {phase}: {self.stderr()}"

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, timeout_s: float = 120.0) -> int:
        return self.process.wait(timeout_s)

    def stdout(self) -> str:
        return self.out.with_suffix(".stdout").read_text()

    def stderr(self) -> str:
        return self.out.with_suffix(".stderr").read_text()

    def outcomes(self) -> list[tuple[str, str]]:
        """(outcome, reason) of every recorded trial, in order."""
        from unnoticed.results.store import RunFolder

        trials = RunFolder(self.out).load().trials
        return [(str(row.outcome), str(row.reason)) for row in trials.itertuples()]


@pytest.fixture
def small_plan(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def start_run(tmp_path, small_plan):
    """Starts `unnoticed run` on the small plan; whatever is still there at the end of the test is removed."""
    started = []

    def start(name="run", *options, popen=None, resume_of=None):
        out = resume_of.out if resume_of else tmp_path / name
        temporary = tmp_path / f"{name}.tmp"
        temporary.mkdir(exist_ok=True)
        # The policy that never gives up, however slow this machine is just now.
        policy = (
            () if any("migration.mode" in option for option in options) else ("--set", "migration.policy=threshold")
        )
        argv = [*UNNOTICED, "run", str(small_plan), "--out", str(out), *policy, *options]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        with out.with_suffix(".stdout").open("wb") as stdout, out.with_suffix(".stderr").open("wb") as stderr:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr, **(popen or {})}
            process = subprocess.Popen(argv, env=environment, **pipes)
        started.append(StartedRun(process=process, out=out, temporary=temporary))
        return started[-1]

    yield start
    for run in started:
        run.process.kill()
        run.process.wait(10)
    clean()


HOST_WIDE = [  # what Mininet raises when it is initialised its own way, and what a fabric sets in its own namespaces
    "fs/file-max",
    "kernel/pty/max",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/ip_forward",
    "net/ipv4/neigh/default/gc_thresh1",
    "net/ipv4/neigh/default/gc_thresh2",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv4/route/max_size",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/default/disable_ipv6",
]


class Machine:
    """Everything outside a run's own namespaces that it could have touched, as one comparable value.

    A network that comes up elsewhere, of another test, shows for moments: only what stays is looked at.
    """

    def __call__(self):
        """What is there, and was there a moment before."""
        seen = [self._look()]

        def is_settled():
            time.sleep(0.05)
            seen.append(self._look())
            return seen[-1] == seen[-2]

        wait_until(is_settled, what="this machine is the same twice", timeout_s=20.0)
        return seen[-1]

    def is_again(self, before):
        """Whether it is as it was before, or becomes so at once."""
        deadline_s = time.monotonic() + 5.0
        while (now := self._look()) != before and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert now == before
        return True

    def _look(self):
        settings = {name: Path("/proc/sys", name) for name in HOST_WIDE}
        return {
            "links": [line.split(":")[1] for line in self._lines("ip", "-o", "link", "show")],
            "addresses": self._lines("ip", "-o", "-4", "address", "show"),
            "queues": self._lines("tc", "qdisc", "show"),
            "named namespaces": self._lines("ip", "netns", "list"),
            "shared memory": sorted(path.name for path in Path("/dev/shm").iterdir()),
            "sysctls": {name: file.read_text() for name, file in settings.items() if file.exists()},
            "limits": {pid: Path(f"/proc/{pid}/limits").read_text() for pid in ("self", os.getppid())},
            "mounts": Path("/proc/self/mounts").read_text(),
        }

    @staticmethod
    def _lines(*command):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return sorted(done.stdout.splitlines())


@pytest.fixture
def machine():
    return Machine()
