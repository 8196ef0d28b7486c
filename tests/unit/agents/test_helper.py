"""Helpers: forked by the process that has loaded them, obeyed by, and gone with whom they help."""

import os
import select
import signal
import socket
from pathlib import Path

import pytest

from unnoticed.agents.helper import Helper, Nursery
from unnoticed.errors import MigrationError


@pytest.fixture
def nursery():
    made = Nursery()
    made.begin(["answerer"])
    yield made
    made.close()


@pytest.fixture
def answerer(nursery):
    """What makes one, with nothing to answer; all are closed in the end."""
    (copies, source), injector = os.pipe2(os.O_NONBLOCK), socket.socket()
    made = []

    def make():
        made.append(Helper(nursery, "answerer", fds={"copies_fd": copies, "injector_fd": injector.fileno()}))
        return made[-1]

    yield make
    for helper in made:
        if helper.fileno() >= 0:
            helper.close()
    os.close(copies)
    os.close(source)
    injector.close()


def pid_of(helper):
    lines = Path(f"/proc/self/fdinfo/{helper._pidfd}").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pid:")))


def has_ended(helper):
    return bool(select.select([helper._pidfd], [], [], 10)[0])


def obey(helper):
    positions = os.memfd_create("positions")
    helper.tell("answer", fds=[positions], limit_bytes=1)
    os.close(positions)
    helper.tell("stop")
    return helper.expect("stopped")


def test_several_obey_side_by_side_under_names_of_their_own(answerer):
    helpers = [answerer() for _ in range(3)]
    for helper in (*helpers, *helpers):
        assert obey(helper)["answers"] == 0
    pids = [pid_of(helper) for helper in helpers]
    assert len(set(pids)) == 3
    assert {Path(f"/proc/{pid}/comm").read_text() for pid in pids} == {"answerer\n"}


def test_nothing_is_left_of_one_that_was_closed(nursery, answerer):
    process = nursery._process.pid
    helper = answerer()
    pid = pid_of(helper)
    helper.close()
    obey(answerer())  # the nursery has been busy since
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    assert str(pid) not in children


def test_one_that_is_killed_is_noticed_and_others_go_on(answerer):
    victim, other = answerer(), answerer()
    os.kill(pid_of(victim), signal.SIGKILL)
    assert has_ended(victim)
    with pytest.raises(MigrationError, match="The process answerer ended"):
        victim.expect("stopped")
    assert obey(other)["answers"] == 0


def test_what_fails_in_one_is_said(answerer):
    helper = answerer()
    folder = os.open("/", os.O_RDONLY)
    helper.tell("answer", fds=[folder], limit_bytes=1)
    os.close(folder)
    with pytest.raises(MigrationError, match="Is a directory"):
        helper.expect("stopped")


def test_a_module_that_was_not_loaded_before_is_loaded_then(nursery):
    helper = Helper(nursery, "page_pusher", fds={"owed_fd": 0, "ram_fd": 0}, memory_bytes=4096)
    with pytest.raises(MigrationError):  # what it was given is no such thing
        helper.expect("done")
    helper.close()


def test_they_go_with_the_process_that_made_them_and_none_comes_after_it(nursery, answerer):
    helper = answerer()
    nursery._process.kill()
    assert has_ended(helper)
    with pytest.raises(MigrationError, match="The process that becomes helpers"):
        answerer()
