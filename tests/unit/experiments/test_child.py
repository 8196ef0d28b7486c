import subprocess
import sys

import pytest

from unnoticed.experiments.child import Child, ChildError

ECHO = """
import sys
from unnoticed.control import Control, ParentGoneError
control = Control()
print("a stray line, which must not pass for a reply", flush=True)
control.reply("ready")
try:
    while True:
        for command in control.receive():
            if command["command"] == "die":
                print("Traceback: the end", file=sys.stderr)
                sys.exit(3)
            if command["command"] == "fail":
                control.reply("error", message="the gate would not open")
            control.reply(command["command"], got=command.get("value"))
except ParentGoneError:
    pass
"""


@pytest.fixture
def start(tmp_path):
    children = []

    def start_child(program=ECHO):
        stderr = tmp_path / "child.stderr"
        with stderr.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file
            )
        children.append(Child(process, name="agent-a", stderr=stderr))
        return children[-1]

    yield start_child
    for child in children:
        child.close(timeout_s=5)


def test_commands_go_in_and_replies_come_out(start):
    child = start()
    child.wait_ready(20)
    child.command("add", value=3)
    assert child.wait_reply("add", 20) == {"reply": "add", "got": 3}


def test_a_reply_that_nobody_waits_for_yet_is_kept(start):
    child = start()
    child.wait_ready(20)
    child.command("first")
    child.command("second")
    assert child.wait_reply("second", 20)["reply"] == "second"
    assert child.wait_reply("first", 20)["reply"] == "first"
    assert child.replies() == []


def test_a_child_that_dies_is_named_with_its_status_and_the_end_of_its_stderr(start):
    child = start()
    child.wait_ready(20)
    child.command("die")
    with pytest.raises(ChildError) as failure:
        child.wait_reply("done", 20)
    assert str(failure.value) == (
        'agent-a ended with status 3 before it answered "done"; its stderr ends:\n'
        "    a stray line, which must not pass for a reply\n"
        "    Traceback: the end"
    )


def test_a_child_that_was_killed_is_told_by_the_signal(start):
    child = start()
    child.wait_ready(20)
    child.kill()
    with pytest.raises(ChildError, match=r'^agent-a was killed by SIGKILL before it answered "done"'):
        child.wait_reply("done", 20)


def test_an_error_that_the_child_reports_is_raised(start):
    child = start()
    child.wait_ready(20)
    child.command("fail")
    with pytest.raises(ChildError, match=r"^agent-a failed: the gate would not open"):
        child.wait_reply("done", 20)


def test_a_child_that_does_not_answer_is_told_with_the_time(start):
    child = start()
    child.wait_ready(20)
    with pytest.raises(ChildError, match=r'^agent-a did not answer "done" within 0.05 s'):
        child.wait_reply("done", 0.05)


def test_a_line_that_is_no_reply_is_refused(start):
    child = start("print('hello', flush=True); import time; time.sleep(60)")
    with pytest.raises(ChildError, match="agent-a sent a line that is not a reply: 'hello'"):
        child.wait_ready(20)
    child.kill()


def test_closing_ends_the_child_by_the_end_of_its_stdin(start):
    child = start()
    child.wait_ready(20)
    assert child.close(timeout_s=20) == 0


def test_closing_kills_a_child_that_lingers(start):
    child = start('import sys, time; print(\'{"reply": "ready"}\', flush=True); time.sleep(600)')
    child.wait_ready(20)
    assert child.close(timeout_s=0.05) == -9


def test_a_command_to_a_dead_child_says_so(start):
    child = start()
    child.wait_ready(20)
    child.kill()
    with pytest.raises(ChildError, match='was killed by SIGKILL before it was told to "start"'):
        child.command("start")
