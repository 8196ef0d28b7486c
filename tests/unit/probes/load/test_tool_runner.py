import contextlib
import fcntl
import json
import os
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from unnoticed.probes.tools import ENDED_EARLY

SHELL = ["sh", "-c", "trap 'echo interrupted; exit 3' INT; echo $$; while :; do sleep 0.02; done"]


@pytest.fixture
def runner(tmp_path):
    """Starts the child; `say` sends a command, `hear` waits for a reply."""
    started = []

    class Runner:
        output = tmp_path / "tool.out"
        fifo = tmp_path / "fifo"

        def __init__(self, argv, **others):
            settings = json.dumps({"argv": argv, "output": str(self.output), **others})
            self.process = subprocess.Popen(
                [sys.executable, "-m", "unnoticed.probes.tool_runner", settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.append(self.process)

        def say(self, command):
            self.process.stdin.write(json.dumps({"command": command}).encode() + b"\n")
            self.process.stdin.flush()

        def hear(self):
            return json.loads(self.process.stdout.readline())

        def tool_pid(self):
            while not (self.output.exists() and self.output.read_text().endswith("\n")):
                time.sleep(0.01)
            return int(self.output.read_text().split()[0])

        def await_output(self):
            """Of a tool that ends when it has said it; and its end."""
            while not (self.output.exists() and self.output.read_text()) or self.has_child():
                time.sleep(0.01)

        def has_child(self):
            """Whether the tool still runs."""
            pid = self.process.pid
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0] != "Z":
                        return True
            return False

    yield Runner
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_tool_runs_from_start_to_stop_and_has_the_last_word(runner):
    made = runner(SHELL)
    assert made.hear() == {"reply": "ready"}
    assert not made.output.exists()
    made.say("start")
    made.tool_pid()
    made.say("stop")
    assert made.hear() == {"reply": "done", "status": 3, "ended_early": False}
    assert made.output.read_text().endswith("interrupted\n")


def test_a_tool_that_gave_up_by_itself_is_said_to_have(runner):
    made = runner(["sh", "-c", "echo no route >&2; exit 2"])
    made.hear()
    made.say("start")
    made.await_output()
    made.say("stop")
    assert made.hear() == {"reply": "done", "status": 2, "ended_early": True}
    assert made.output.read_text() == "no route\n"


def test_a_tool_that_ends_by_itself_is_waited_for_and_not_interrupted(runner):
    os.mkfifo(runner.fifo)
    waiting = "trap 'echo interrupted' INT; echo $$; read line <$0; sleep 0.3; echo $line"
    made = runner(["sh", "-c", waiting, str(runner.fifo)], seconds=30)
    made.hear()
    made.say("start")
    made.tool_pid()
    made.say("stop")
    while fcntl.ioctl(made.process.stdin, termios.FIONREAD, bytes(4)) != bytes(4):  # until it has been heard
        time.sleep(0.001)
    runner.fifo.write_text("the end\n")
    assert made.hear() == {"reply": "done", "status": 0, "ended_early": False}
    assert made.output.read_text().splitlines()[1:] == ["the end"]


def test_a_tool_that_ended_by_itself_before_the_stop_is_marked(runner):
    made = runner(["echo", "over"], seconds=30)
    made.hear()
    made.say("start")
    made.await_output()
    made.say("stop")
    assert made.hear() == {"reply": "done", "status": 0, "ended_early": True}
    assert made.output.read_text() == f"over\n\n{ENDED_EARLY}\n"


@pytest.mark.parametrize("end", ["kill", "close"])
def test_a_tool_does_not_outlive_its_runner_however_that_ends(runner, end):
    made = runner(SHELL)
    made.hear()
    made.say("start")
    pid = made.tool_pid()
    if end == "kill":
        made.process.kill()
    else:
        made.process.stdin.close()
    made.process.wait(10)
    deadline_s = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_process_of_the_test_is_alive():
    assert alive(os.getpid())
