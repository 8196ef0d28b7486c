"""How long is waited on slow machines."""

import pytest

from unnoticed.patience import VARIABLE, patient


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [("", 20), ("1", 20), ("10", 200), ("2.5", 50), ("0.1", 20), ("inf", 20), ("nan", 20), ("x", 20)],
)
def test_a_wait_is_so_many_times_as_long_and_never_shorter(monkeypatch, said, wait_s):
    monkeypatch.setenv(VARIABLE, said)
    assert patient(20) == wait_s


def test_unasked_a_wait_is_as_long_as_it_is(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert patient(20) == 20
