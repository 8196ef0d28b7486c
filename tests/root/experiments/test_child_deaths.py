"""A process of a trial that is killed ends that trial at once, with a sentence that names it; the run goes on."""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = pytest.mark.root

# What a child runs, as its command line shows it, and what the sentence calls it.
KINDS = {
    "agent-a": ("unnoticed.agents.agent", '"place": "a"', "agent-a was killed by SIGKILL during {}"),
    "agent-b": ("unnoticed.agents.agent", '"place": "b"', "agent-b was killed by SIGKILL during {}"),
    "guest": ("unnoticed.agents.guest", "guest-a", "agent-a failed: The guest process (pid {pid}) was killed by SIG"),
    "observer": ("unnoticed.probes.observer", "", "observer was killed by SIGKILL during {}"),
    "control": ("unnoticed.probes.echo", "", "control was killed by SIGKILL during {}"),
    "prober": ("unnoticed.probes.prober", "", "c1-prober was killed by SIGKILL during {}"),
    "client": ("unnoticed.probes.client", '"request_response"', "c1-requests was killed by SIGKILL during {}"),
}  # fmt: skip


def pid_of(run, module, text):
    for process in run.processes():
        try:
            with open(f"/proc/{process.pid}/cmdline") as file:  # noqa: PTH123 (it may be gone)
                words = file.read().split("\0")
        except OSError:
            continue
        if module in words and text in words[-2]:
            return process.pid
    raise AssertionError(f"no process of the run is {module} with {text}")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ("guest", "prober") else pytest.mark.slow) for kind in KINDS]
)
def test_a_child_killed_in_warm_up_fails_its_trial_at_once_and_the_next_one_begins(start_run, kind):
    module, text, sentence = KINDS[kind]
    run = start_run("run", "--repeats", "2", "--set", "phases.warm_up=60 s")
    run.wait_for_phase("warm-up")
    pid = pid_of(run, module, text)
    os.kill(pid, signal.SIGKILL)
    run.wait_for_phase("warm-up", 2)  # not that of the first trial, which would last a minute
    assert f": failed: {sentence.format('warm-up', pid=pid)}" in run.stderr()
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130
    ((outcome, reason),) = run.outcomes()
    assert outcome == "failed"
    assert reason.startswith(sentence.format("warm-up", pid=pid))
    assert "stderr" in reason
    assert run.processes() == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_child_killed_in_the_migration_does_not_keep_its_trial_waiting(start_run, kind):
    module, text, sentence = KINDS[kind]
    # 20 s for the first round; but the source looks after its guest only at the end of a round.
    rate = "200 Mbit/s" if kind == "guest" else "20 Mbit/s"
    run = start_run("run", "--set", f"migration.rate_limit={rate}")
    run.wait_for_phase("migration")
    pid = pid_of(run, module, text)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    assert run.wait(15) == 1  # with the report, on a machine under load
    ((outcome, reason),) = run.outcomes()
    assert outcome == "failed"
    if kind == "guest":
        assert reason.startswith("agent-a has lost the guest in the migration: ")
        assert "The guest's process has ended." in reason
    else:
        assert reason.startswith(sentence.partition(" during")[0])
    assert run.processes() == []
