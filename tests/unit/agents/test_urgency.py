"""Urgency: of this thread and another process, as far as the machine permits; and back."""

import gc
import os
import subprocess
import sys

import pytest
from tests.realtime import is_permitted

from unnoticed.agents.urgency import Urgency


@pytest.fixture
def other():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


def test_what_was_hurried_goes_its_ordinary_way_afterwards(other):
    hurried = os.SCHED_FIFO if is_permitted() else os.SCHED_OTHER
    urgency = Urgency()
    urgency.begin(other.pid)
    assert [os.sched_getscheduler(pid) for pid in (0, other.pid)] == [hurried, hurried]
    assert not gc.isenabled()
    for _ in range(2):
        urgency.end()
        assert [os.sched_getscheduler(pid) for pid in (0, other.pid)] == [os.SCHED_OTHER, os.SCHED_OTHER]
        assert gc.isenabled()


def test_a_guest_that_has_ended_is_no_hindrance(other):
    other.communicate()
    urgency = Urgency()
    urgency.begin(other.pid)
    urgency.end()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert gc.isenabled()


def test_what_begins_with_one_may_go_on_with_others(other):
    hurried = os.SCHED_FIFO if is_permitted() else os.SCHED_OTHER
    urgency = Urgency()
    urgency.begin()
    assert [os.sched_getscheduler(pid) for pid in (0, other.pid)] == [hurried, os.SCHED_OTHER]
    urgency.begin(other.pid)
    assert [os.sched_getscheduler(pid) for pid in (0, other.pid)] == [hurried, hurried]
    urgency.end()
    assert [os.sched_getscheduler(pid) for pid in (0, other.pid)] == [os.SCHED_OTHER, os.SCHED_OTHER]
    assert gc.isenabled()
