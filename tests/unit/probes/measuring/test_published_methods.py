"""Each published rule on a constructed path whose outage is known to the nanosecond."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unnoticed.probes.availability import Availability
from unnoticed.probes.published_methods import (
    METHODS,
    Method,
    figures,
    first_gap_in_numbers,
    late_times_interval,
    longest_arrival_gap,
    longest_spike,
    lost_times_interval,
    of_names,
    ping_pong,
    skipped_times_interval,
    yardstick,
)
from unnoticed.probes.samples import NEVER, Samples

MS, S = 1_000_000, 1_000_000_000
RTT = 200_000
START = 7 * S


def path(*cuts, hold=(), seconds=6, skip=()):
    """A record at 1 kHz from START: what is sent within a cut is lost, within a hold is answered at its end (ms)."""
    sent = START + np.arange(seconds * 1000, dtype=np.int64) * MS
    for begin, end in skip:
        sent = sent[(sent < START + begin * MS) | (sent >= START + end * MS)]
    answered = sent + RTT
    for begin, end in cuts:
        answered[(sent >= START + begin * MS) & (sent < START + end * MS)] = NEVER
    for begin, end in hold:
        inside = (sent >= START + begin * MS) & (sent < START + end * MS)
        answered[inside] = START + end * MS + RTT
    return Availability(Samples(intended_ns=sent, sent_ns=sent, answered_ns=answered, period_ns=MS))


def first(ms):
    return START + ms * MS


QUIET = path()


@pytest.mark.parametrize(
    ("begin", "period", "lost"),
    [
        (0, 200, 1),  # pings at 1000, 1200, ...: the one at 1200 is lost, the one at 1250 is none
        (50, 200, 0),  # at 1050 and 1250
        (0, 1000, 0),
        (1001 - 1000, 100, 2),  # at 1101 and 1201
    ],
)
def test_lost_pings_times_the_interval_depend_on_where_the_pings_fall(begin, period, lost):
    cut = path((1100, 1250))
    assert lost_times_interval(cut, first(begin), period_ns=period * MS) == lost * period * MS


def test_a_ping_s_late_answer_is_an_answer():
    assert lost_times_interval(path(hold=[(1000, 2500)]), first(0), period_ns=200 * MS) == 0


def test_tempest_sums_the_losses_of_the_whole_test():
    assert lost_times_interval(path((1000, 1001), (3000, 3001)), first(0), period_ns=200 * MS) == 400 * MS


def test_fping_takes_an_answer_later_than_its_period_for_none():
    held = path(hold=[(1000, 1025)])  # at 1000, 1010 and 1020; the last one waits for 5 ms
    assert late_times_interval(held, first(0), period_ns=10 * MS) == 20 * MS
    assert late_times_interval(path((1001, 1025)), first(0), period_ns=10 * MS) == 20 * MS


def test_iperf3_sums_every_loss_but_that_which_nothing_comes_after():
    assert skipped_times_interval(path((1000, 1010), (3000, 3005)), first(0), period_ns=MS) == 15 * MS
    assert skipped_times_interval(path((1000, 1010), (3000, 6000)), first(0), period_ns=MS) == 10 * MS
    assert skipped_times_interval(path(hold=[(1000, 1100)]), first(0), period_ns=MS) == 0
    assert skipped_times_interval(path((0, 6000)), first(0), period_ns=MS) is None


def test_sockperf_reports_the_longest_round_trip_before_the_first_loss_and_stops_there():
    cut = path((2000, 2500), hold=[(1000, 1007), (3000, 3400)])
    assert ping_pong(cut, first(0), period_ns=MS) == 7 * MS + RTT
    assert ping_pong(path((2000, 2500)), first(0), period_ns=MS) == RTT
    assert ping_pong(path((0, 10)), first(0), period_ns=MS) is None


def test_sockperf_measures_a_freeze_that_loses_nothing():
    assert ping_pong(path(hold=[(3000, 3400)]), first(0), period_ns=MS) == 400 * MS + RTT


def test_yardstick_counts_60_ms_for_each_echo_without_an_answer_in_50():
    # Echoes at 0, 10.2, 20.4, ... ms; the one at 1009.8 meets the cut, waits until 1059.8, the next one is at 1069.8.
    assert yardstick(path((1005, 1060)), first(0)) == 60 * MS
    assert yardstick(path((1005, 1075)), first(0)) == 120 * MS
    assert yardstick(path((1001, 1009)), first(0)) == 0  # between the echoes at 999.6 and 1009.8


def test_yardstick_takes_an_answer_after_50_ms_for_none():
    assert yardstick(path(hold=[(1000, 1045)]), first(0)) == 0
    assert yardstick(path(hold=[(1000, 1065)]), first(0)) == 60 * MS


def test_xenrt_counts_the_first_gap_in_the_numbers_and_no_other():
    cut = path((1050, 1320), (3000, 4000))
    assert first_gap_in_numbers(cut, first(0), period_ns=100 * MS) == 300 * MS  # at 1100, 1200 and 1300


def test_xenrt_says_nothing_where_no_ping_is_lost():
    assert first_gap_in_numbers(path((1010, 1090)), first(0), period_ns=100 * MS) is None
    assert first_gap_in_numbers(QUIET, first(0), period_ns=100 * MS) is None


def test_xenrt_takes_a_loss_before_the_migration_for_the_migration():
    cut = path((499, 501), (2000, 2600))
    assert first_gap_in_numbers(cut, first(0), period_ns=100 * MS) == 100 * MS


def test_mig_mon_reports_its_own_period_where_nothing_happens():
    assert longest_arrival_gap(QUIET, first(0), period_ns=50 * MS) == 50 * MS


def test_mig_mon_s_longest_gap_is_that_between_the_arrivals_around_the_outage():
    cut = path((1010, 1095))  # at 1050 lost; 1000 and 1100 arrive
    assert longest_arrival_gap(cut, first(0), period_ns=50 * MS) == 100 * MS
    # A freeze holds the one at 1050 and lets it go at 1095: arrivals at 1000.1, 1095.1 and 1100.1.
    assert longest_arrival_gap(path(hold=[(1010, 1095)]), first(0), period_ns=50 * MS) == 95 * MS


def test_mig_mon_s_spike_log_has_nothing_below_twice_the_first_gap():
    assert longest_spike(path(hold=[(1010, 1095)]), first(0), period_ns=50 * MS) == 0
    assert longest_spike(path((1010, 1095)), first(0), period_ns=50 * MS) == 100 * MS
    assert longest_spike(QUIET, first(0), period_ns=50 * MS) == 0


def test_mig_mon_learns_its_threshold_from_the_first_two_packets_whatever_they_met():
    delayed = path((40, 210), (1010, 1195))  # the first gap is 250 ms: nothing below 500 ms is a spike any more
    assert longest_spike(delayed, first(0), period_ns=50 * MS) == 0
    assert longest_arrival_gap(delayed, first(0), period_ns=50 * MS) == 200 * MS


def test_mig_mon_counts_whole_milliseconds():
    record = path()
    record.samples.answered_ns[1050:] += 900_000
    assert longest_arrival_gap(record, first(0), period_ns=50 * MS) == 51 * MS


@pytest.mark.parametrize("rule", [longest_arrival_gap, longest_spike])
def test_mig_mon_has_no_figure_before_its_second_gap(rule):
    assert rule(path((70, 6000)), first(0), period_ns=50 * MS) is None


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_quiet_path_is_reported_as_such_or_with_the_method_s_own_period(method):
    reported = figures(method, QUIET)
    expected = {"mig_mon, longest gap": 50 * MS, "xenrt": None, "sockperf, 1 kHz": RTT}.get(method.name, 0)
    assert set(reported.figures) == {expected}
    assert reported.silent == (1.0 if expected is None else 0.0)
    assert reported.guessed == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1500, 3000), st.integers(1, 1500))
def test_the_figures_of_a_counting_method_lie_within_a_period_of_a_cut(begin, length):
    cut = path((begin, begin + length))
    for method in of_names(["ping, 1 s", "tempest", "fping, 10 ms", "iperf3 -u, 1 kHz"]):
        known = figures(method, cut, phases=20).known
        assert all(abs(figure - length * MS) <= method.period_ns for figure in known)
        assert all(figure % method.period_ns == 0 for figure in known)


def test_over_all_phases_lost_pings_times_the_interval_are_right_only_on_average():
    reported = figures(of_names(["tempest"])[0], path((1100, 1150)), phases=100)
    assert set(reported.known) == {0, 200 * MS}
    assert sum(reported.known) / 100 == pytest.approx(50 * MS, abs=2 * MS)
    assert reported.median_ns == 0


def test_the_longest_gap_of_arrivals_is_up_to_two_periods_above_a_cut():
    for length in (20, 83, 240):
        known = figures(of_names(["mig_mon, longest gap"])[0], path((1100, 1100 + length))).known
        assert known[0] >= max(length - 1, 50) * MS
        assert known[-1] <= (length + 101) * MS


def test_a_method_is_asked_at_phases_spread_over_its_period():
    asked = []
    method = Method(name="it", rule="", why="", period_ns=100, report=lambda path, first_ns: asked.append(first_ns))
    assert figures(method, path(), phases=4).figures == (None,) * 4
    assert asked == [START, START + 25, START + 50, START + 75]


def test_what_is_not_recorded_is_a_guess_and_shown_as_one():
    holed = path((1100, 1200), skip=[(1150, 1260)])
    # The last probe known to be lost was sent at 1149, the next one, at 1260, came through: half-way is 1204.5.
    assert holed.answered_ns(np.array([first(1204), first(1205)])).tolist() == [NEVER, first(1205) + RTT]
    guessed = holed.is_guess(np.array([first(1149), first(1151), first(1258), first(1259)]))
    assert guessed.tolist() == [False, True, True, False]
    assert figures(of_names(["iperf3 -u, 1 kHz"])[0], holed).guessed == pytest.approx(108 / 6000, abs=3 / 6000)


def test_a_held_probe_is_answered_when_the_recorded_ones_were_and_never_before_it_can_be():
    held = path(hold=[(1000, 1100)])
    asked = np.array([first(1000) + 300_000, first(1099) + 400_000, first(1099) + 499_000])
    answered = held.answered_ns(asked)
    assert answered.tolist() == [first(1100) + RTT] * 3
    assert (answered >= asked + RTT).all()


def test_without_a_record_no_method_reports_anything():
    none = np.zeros(0, np.int64)
    empty = Availability(Samples(intended_ns=none, sent_ns=none, answered_ns=none, period_ns=MS))
    for method in METHODS:
        reported = figures(method, empty)
        assert reported.known == []
        assert reported.median_ns is None
        assert reported.silent == 1
