import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from unnoticed.experiments.interrupts import Terminated, every_interrupt, one_interrupt, shielded


def test_the_first_signal_interrupts_and_the_second_is_only_answered():
    notes = []
    with one_interrupt(notes.append):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert notes == ["Already stopping: first the trial at hand is taken down, and what is done is reported."]


def test_a_terminal_that_goes_away_interrupts_too_unless_it_was_told_not_to():
    with one_interrupt(print), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with one_interrupt(print):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_answer_that_nobody_can_read_disturbs_nothing():
    def note(_):
        raise BrokenPipeError

    with one_interrupt(note):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_one_inside_another_leaves_the_signals_to_the_outer_one():
    notes = []
    with one_interrupt(notes.append):
        with one_interrupt(print), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert len(notes) == 1


def test_what_is_shielded_is_finished_before_the_interrupt_comes_through():
    done = []

    def take_down():
        with shielded(), shielded():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("taken down")

    with one_interrupt(done.append), pytest.raises(KeyboardInterrupt):
        take_down()
    assert done == ["taken down"]


def test_a_shield_without_an_interrupt_changes_nothing():
    with one_interrupt(print), shielded():
        pass


def test_the_handlers_from_before_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with one_interrupt(print):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


ENDING = """
import atexit, os, signal, sys
from unnoticed.experiments.interrupts import one_interrupt_for_good
notes = []
atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGTERM)))
try:
    with one_interrupt_for_good(notes.append):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGINT)
            sys.exit(130)
finally:
    os.kill(os.getpid(), signal.SIGINT)
    assert len(notes) == 1
"""


def test_no_signal_disturbs_the_end_of_a_process_that_was_interrupted():
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_console_that_waits_for_input_hears_a_signal_whose_coming_did_not_end_the_wait(number, raised):
    def send():
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), number)  # it comes to this thread, and the other one waits on

    end, other = os.pipe()
    sender = threading.Thread(target=send)
    sender.start()
    with every_interrupt(), pytest.raises(raised):
        os.read(end, 1)
    sender.join()
    os.close(end)
    os.close(other)
