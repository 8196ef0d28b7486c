import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.experiments.analysis.waterfall import (
    BETWEEN,
    NO_FRAME,
    NOT_MOVING,
    RUNNING,
    STALLED,
    UNKNOWN,
    Moments,
    Part,
    Repeated,
    TimedStep,
    Wait,
    switch_waits,
    timer_waits,
    waterfall,
)

NO_ROUTE = "switch s1 not re-taught"

TIMES = st.integers(0, 60)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["dump", "send", "receive", "restore", "await-ready", "await-relinquish"]),
        TIMES,
        st.integers(0, 20),
    ),
    max_size=6,
).map(lambda rows: [TimedStep(name=name, start_ns=start, end_ns=start + length) for name, start, length in rows])
MOMENTS = st.builds(
    Moments,
    steps=STEPS,
    paused_ns=st.none() | TIMES,
    resumed_ns=st.none() | TIMES,
    turned_ns=st.none() | TIMES,
    waits=st.lists(
        st.builds(Wait, name=st.sampled_from(["one", "two", "three"]), until_ns=st.none() | TIMES), max_size=3
    ),
    stalls=st.lists(st.tuples(TIMES, TIMES).map(sorted).map(tuple), max_size=2),
)
SPANS = st.tuples(TIMES, st.integers(1, 60)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def step(name, start, end):
    return TimedStep(name=name, start_ns=start, end_ns=end)


def moments(*steps, paused=10, resumed=50, relearned=None, first_frame=None):
    waits = [*switch_waits([] if relearned is None else [("s1", relearned)]), Wait(name=NO_FRAME, until_ns=first_frame)]
    return Moments(steps=steps, paused_ns=paused, resumed_ns=resumed, waits=waits)


def test_from_when_frames_are_held_the_steps_are_the_reason_though_the_guest_still_runs():
    steps = [step("divert", 2, 4), step("await-announcement", 4, 9), step("plug", 5, 7), step("dump", 11, 50)]
    known = Moments(steps=steps, paused_ns=10, resumed_ns=50, turned_ns=5)
    assert names(waterfall(known, start_ns=3, end_ns=12)) == [
        (RUNNING, 3, 5),
        ("plug", 5, 7),
        ("await-announcement", 7, 11),
        ("dump", 11, 12),
    ]


def names(parts):
    return [(part.name, part.start_ns, part.end_ns) for part in parts]


@given(MOMENTS, SPANS)
def test_parts_are_contiguous_and_sum_to_the_outage_exactly(known, span):
    parts = waterfall(known, start_ns=span[0], end_ns=span[1])
    assert (parts[0].start_ns, parts[-1].end_ns) == span
    assert all(one.end_ns == two.start_ns for one, two in itertools.pairwise(parts))
    assert all(part.end_ns > part.start_ns for part in parts)
    assert sum(part.end_ns - part.start_ns for part in parts) == span[1] - span[0]


@given(MOMENTS, SPANS)
def test_neighbouring_parts_differ(known, span):
    parts = waterfall(known, start_ns=span[0], end_ns=span[1])
    assert all(one.name != two.name for one, two in itertools.pairwise(parts))


@given(MOMENTS, SPANS)
def test_each_instant_has_the_reason_that_it_has_when_looked_at_alone(known, span):
    for part in waterfall(known, start_ns=span[0], end_ns=span[1]):
        for instant in range(part.start_ns, part.end_ns):
            alone = waterfall(known, start_ns=instant, end_ns=instant + 1)
            assert alone == [Part(name=part.name, start_ns=instant, end_ns=instant + 1)]


@given(MOMENTS, SPANS)
def test_a_step_is_named_only_in_the_blackout_or_while_frames_are_held(known, span):
    own = {RUNNING, STALLED, UNKNOWN, NOT_MOVING, "one", "two", "three"}
    for part in waterfall(known, start_ns=span[0], end_ns=span[1]):
        if part.name not in own:
            assert known.paused_ns is not None
            assert part.start_ns >= min(
                known.paused_ns, known.paused_ns if known.turned_ns is None else known.turned_ns
            )
            assert known.resumed_ns is None or part.end_ns <= known.resumed_ns


def test_a_stall_of_the_machine_is_the_reason_only_where_the_migration_has_none():
    known = Moments(
        steps=[step("dump", 10, 50)],
        paused_ns=10,
        resumed_ns=50,
        waits=[Wait(name=NO_ROUTE, until_ns=60)],
        stalls=[(4, 20), (55, 70)],
    )
    assert names(waterfall(known, start_ns=2, end_ns=75)) == [
        (RUNNING, 2, 4),
        (STALLED, 4, 10),
        ("dump", 10, 50),
        (NO_ROUTE, 50, 60),
        (STALLED, 60, 70),
        (UNKNOWN, 70, 75),
    ]


def test_an_empty_outage_has_no_parts():
    assert waterfall(moments(), start_ns=20, end_ns=20) == []


def test_every_part_of_a_full_cutover_is_named_in_order():
    known = moments(step("dump", 10, 20), step("send", 20, 35), step("resume", 35, 50), relearned=60, first_frame=70)
    assert names(waterfall(known, start_ns=5, end_ns=80)) == [
        (RUNNING, 5, 10),
        ("dump", 10, 20),
        ("send", 20, 35),
        ("resume", 35, 50),
        (NO_ROUTE, 50, 60),
        (NO_FRAME, 60, 70),
        (UNKNOWN, 70, 80),
    ]


def test_of_overlapping_steps_the_one_that_began_first_is_the_reason():
    known = moments(step("send", 10, 30), step("restore", 20, 50))
    assert names(waterfall(known, start_ns=10, end_ns=50)) == [("send", 10, 30), ("restore", 30, 50)]


@pytest.mark.parametrize("waiting", ["await-ready", "await-relinquish"])
def test_a_step_that_waits_loses_against_one_that_works_although_it_began_first(waiting):
    known = moments(step(waiting, 10, 50), step("restore", 20, 30))
    expected = [(waiting, 10, 20), ("restore", 20, 30), (waiting, 30, 50)]
    assert names(waterfall(known, start_ns=10, end_ns=50)) == expected


def test_while_the_destination_receives_what_the_source_does_is_the_reason_and_the_network_only_then():
    known = moments(
        *(step("send", 10, 14), step("receive", 11, 30), step("dump", 16, 24), step("await-ready", 24, 45)),
        *(step("restore", 30, 40), step("await-relinquish", 40, 50)),
    )
    assert names(waterfall(known, start_ns=10, end_ns=50)) == [
        *(("send", 10, 14), ("receive", 14, 16), ("dump", 16, 24), ("receive", 24, 30), ("restore", 30, 40)),
        *(("await-ready", 40, 45), ("await-relinquish", 45, 50)),
    ]


def test_connections_that_are_restored_while_others_are_dumped_count_once():
    known = moments(step("dump", 10, 40), step("restore", 15, 44), step("await-ready", 40, 48))
    assert names(waterfall(known, start_ns=10, end_ns=50)) == [
        *(("dump", 10, 40), ("restore", 40, 44), ("await-ready", 44, 50)),
    ]


def test_the_time_between_two_steps_is_the_former_s_and_before_the_first_it_has_a_name():
    known = moments(step("dump", 15, 20), step("send", 30, 40))
    assert names(waterfall(known, start_ns=10, end_ns=50)) == [(BETWEEN, 10, 15), ("dump", 15, 30), ("send", 30, 50)]


def test_switches_taught_before_the_resume_cost_nothing():
    known = moments(step("dump", 10, 50), relearned=45, first_frame=55)
    assert names(waterfall(known, start_ns=45, end_ns=60)) == [("dump", 45, 50), (NO_FRAME, 50, 55), (UNKNOWN, 55, 60)]


def test_switches_that_learn_after_the_outage_explain_all_of_it_since_the_resume():
    known = moments(step("dump", 10, 50), relearned=1000, first_frame=None)
    assert names(waterfall(known, start_ns=50, end_ns=90)) == [(NO_ROUTE, 50, 90)]


def test_without_a_pause_there_was_no_cutover():
    assert names(waterfall(moments(paused=None, resumed=None), start_ns=0, end_ns=9)) == [(NOT_MOVING, 0, 9)]


def test_a_guest_that_never_resumed_stays_in_its_last_step():
    known = moments(step("dump", 10, 20), step("send", 20, 30), resumed=None)
    assert names(waterfall(known, start_ns=25, end_ns=99)) == [("send", 25, 99)]


def test_each_switch_is_named_until_it_has_learned_and_all_that_have_not_are():
    waits = switch_waits([("s2", 70), ("s1", 60), ("s3", 65)])
    known = Moments(steps=[], paused_ns=10, resumed_ns=50, waits=waits)
    assert names(waterfall(known, start_ns=50, end_ns=80)) == [
        ("switches s1, s2 and s3 not re-taught", 50, 60),
        ("switches s2 and s3 not re-taught", 60, 65),
        ("switch s2 not re-taught", 65, 70),
        (UNKNOWN, 70, 80),
    ]


def test_a_wait_that_was_over_before_the_one_ahead_of_it_explains_nothing():
    waits = [Wait(name="network", until_ns=70), Wait(name="timer", until_ns=60), Wait(name="answer", until_ns=80)]
    known = Moments(steps=[], paused_ns=10, resumed_ns=50, waits=waits)
    assert names(waterfall(known, start_ns=50, end_ns=80)) == [("network", 50, 70), ("answer", 70, 80)]


def test_timers_are_told_by_whose_they_are_and_by_the_rung_of_their_ladder():
    def again(time_ns, sender, kind, sequence=1):
        return Repeated(time_ns=time_ns, sender=sender, type=kind, sequence=sequence)

    waits = timer_waits(
        [
            again(900, "client", "rto"),
            again(30, "client", "tlp"),
            again(200, "client", "rto"),
            again(210, "client", "rto", sequence=2),
            again(400, "guest", "rto"),
            again(950, "guest", "fast"),
        ]
    )
    assert [(wait.name, wait.until_ns) for wait in waits] == [
        ("client's tail-loss probe timer", 30),
        ("client's retransmission timer, 1st time", 200),
        ("client's retransmission timer, 1st time", 210),
        ("guest's retransmission timer, 1st time", 400),
        ("client's retransmission timer, 2nd time", 900),
        ("guest's fast recovery", 950),
    ]
