import subprocess
import sys
import time

import pytest

from unnoticed.experiments.child import Child, ChildError
from unnoticed.experiments.watch import Watch

OBEDIENT = """
import os, signal, sys
from unnoticed.control import Control, ParentGoneError
control = Control()
control.reply("ready")
try:
    while True:
        for command in control.receive():
            if command["command"] == "die":
                print("the last words", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            if command["command"] == "fail":
                control.reply("error", message="The guest is gone.")
            if command["command"] == "stop":
                control.reply("done")
                sys.exit(0)
except ParentGoneError:
    pass
"""


@pytest.fixture
def children(tmp_path):
    """Two children, c1 and c2, that are ready."""
    started = []
    for name in ("c1", "c2"):
        stderr = tmp_path / f"{name}.stderr"
        with stderr.open("wb") as file:
            argv = [sys.executable, "-c", OBEDIENT]
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file)
        started.append(Child(process, name=name, stderr=stderr))
    for child in started:
        child.wait_ready(20)
    yield started
    for child in started:
        child.kill()
        child.close()


@pytest.fixture
def watch(children):
    watch = Watch(children)
    watch.phase = "warm-up"
    return watch


def test_a_child_that_dies_while_nobody_is_waited_for_is_named_with_the_phase_and_its_last_words(children, watch):
    children[1].command("die")
    with pytest.raises(ChildError) as failure:
        watch.sleep(300)
    assert str(failure.value) == "c2 was killed by SIGKILL during warm-up; its stderr ends:\n    the last words"


def test_a_child_that_dies_ends_the_wait_for_another(children, watch):
    children[1].command("die")
    with pytest.raises(ChildError, match=r"^c2 was killed by SIGKILL during warm-up"):
        watch.wait_reply(children[0], "done", 300)


def test_an_error_of_one_child_ends_the_wait_for_another(children, watch):
    children[1].command("fail")
    with pytest.raises(ChildError, match=r"^c2 failed: The guest is gone\."):
        watch.wait_reply(children[0], "done", 300)


def test_the_child_that_is_waited_for_may_be_the_one_that_dies(children, watch):
    children[0].command("die")
    with pytest.raises(ChildError, match=r"^c1 was killed by SIGKILL"):
        watch.wait_reply(children[0], "done", 300)


def test_a_child_that_has_said_that_it_is_done_may_end(children, watch):
    for child in children:
        child.command("stop")
    assert watch.wait_reply(children[1], "done", 20) == {"reply": "done"}
    while not all(child.ended for child in children):
        watch.sleep(0.01)
    assert watch.wait_reply(children[0], "done", 20) == {"reply": "done"}


def test_a_reply_that_the_child_can_no_longer_give_is_not_waited_for(children, watch):
    children[0].command("stop")
    with pytest.raises(ChildError, match=r'^c1 ended with status 0 before it answered "verified"'):
        watch.wait_reply(children[0], "verified", 300)


def test_a_child_that_stays_silent_is_named_with_the_time(children, watch):
    with pytest.raises(ChildError, match=r'^c2 did not answer "done" within 0.05 s'):
        watch.wait_reply(children[1], "done", 0.05)


def test_the_sleep_lasts_as_long_as_it_should(watch):
    before = time.monotonic()
    watch.sleep(0.05)
    assert time.monotonic() >= before + 0.05
