import os
import signal
import time

import pytest

from unnoticed.errors import MachineError
from unnoticed.experiments.doctor.stalls import measure_stalls, quantile
from unnoticed.experiments.doctor.throwaway import TrialError, in_child


def test_an_attempt_runs_in_another_process_and_gives_its_answer():
    assert in_child(os.getpid, timeout_s=20, network=False) != os.getpid()


def test_an_attempt_that_fails_says_why():
    def fail():
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(TrialError, match=r"^Operation not permitted$"):
        in_child(fail, timeout_s=20, network=False)


def test_an_attempt_that_dies_is_not_taken_for_an_answer():
    with pytest.raises(TrialError, match="died"):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), timeout_s=20, network=False)


def test_an_attempt_that_hangs_is_ended():
    with pytest.raises(MachineError, match=r"did not come back within 0.05 s"):
        in_child(lambda: time.sleep(600), timeout_s=0.05, network=False)


def test_a_long_answer_comes_back_whole():
    assert in_child(lambda: list(range(100_000)), timeout_s=20, network=False) == list(range(100_000))


def test_quantiles_are_values_that_were_measured():
    assert quantile([1, 2, 3, 4], 0.5) == 3
    assert quantile([1, 2, 3, 4], 0.99) == 4
    assert quantile([7], 0.5) == 7


def test_stalls_are_ordered_and_counted():
    stalls = measure_stalls(duration_s=0.05)
    assert stalls.samples == 50
    assert 0 <= stalls.p50_ns <= stalls.p99_ns <= stalls.max_ns
    assert stalls.steal is None or 0 <= stalls.steal <= 1
