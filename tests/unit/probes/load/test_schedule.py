"""Open-loop schedules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.probes.schedule import Schedule


def test_nothing_is_due_before_the_start_and_the_first_slot_is_due_at_it():
    schedule = Schedule.at_rate(start_ns=5_000, rate_hz=1000)
    assert schedule.due(0) == 0
    assert schedule.due(4_999) == 0
    assert schedule.due(5_000) == 1
    assert schedule.due(5_000 + 999_999) == 1
    assert schedule.due(5_000 + 1_000_000) == 2


def test_a_schedule_may_begin_in_the_midst_of_its_period():
    schedule = Schedule.at_rate(start_ns=5_000, rate_hz=1000, phase=0.25)
    assert [schedule.intended_ns(slot) for slot in range(2)] == [255_000, 1_255_000]


@given(start_ns=st.integers(0, 1 << 60), rate_hz=st.floats(0.01, 1e6), slot=st.integers(0, 10_000_000))
def test_a_slot_is_due_exactly_from_its_intended_time_on(start_ns, rate_hz, slot):
    schedule = Schedule.at_rate(start_ns=start_ns, rate_hz=rate_hz)
    intended_ns = schedule.intended_ns(slot)
    assert schedule.due(intended_ns) == slot + 1
    assert schedule.due(intended_ns - 1) == slot


def test_a_million_slots_at_a_rate_that_does_not_divide_a_second_drift_by_less_than_a_millisecond():
    schedule = Schedule.at_rate(start_ns=0, rate_hz=3)
    assert abs(schedule.intended_ns(1_000_000) - 1_000_000_000_000_000 // 3) < 1_000_000


@pytest.mark.parametrize("rate_hz", [0, -1, 2e9])
def test_a_rate_without_a_period_is_refused(rate_hz):
    with pytest.raises(ValueError, match="rate must be"):
        Schedule.at_rate(start_ns=0, rate_hz=rate_hz)
