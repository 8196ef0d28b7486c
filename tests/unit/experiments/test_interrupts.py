import os
import signal

import pytest

from unnoticed.experiments.interrupts import one_interrupt, shielded


def test_the_first_signal_interrupts_and_the_second_is_only_answered():
    notes = []
    with one_interrupt(notes.append):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert notes == ["Already stopping: the trial is being taken down."]


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
