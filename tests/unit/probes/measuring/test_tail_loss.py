from __future__ import annotations

from unnoticed.probes.tail_loss import LEAST_WINDOW, PROBE_LEAST_NS, harmless_blackout_ns

MS = 1_000_000


def test_a_sender_that_goes_on_probes_two_round_trips_after_the_last_of_its_segments():
    assert harmless_blackout_ns(rtt_ns=MS, interval_ns=0) == MS + PROBE_LEAST_NS
    assert harmless_blackout_ns(rtt_ns=20 * MS, interval_ns=0) == 20 * MS + PROBE_LEAST_NS


def test_the_second_segment_starts_the_timer_anew():
    early, late = (harmless_blackout_ns(rtt_ns=MS, interval_ns=interval * MS) for interval in (10, 20))
    assert late - early == 10 * MS


def test_so_does_every_one_that_comes_before_the_timer_until_the_window_is_full():
    slow, fast = (harmless_blackout_ns(rtt_ns=rtt * MS, interval_ns=10 * MS) for rtt in (3, 5))
    assert slow == 10 * MS + 3 * MS + PROBE_LEAST_NS
    assert fast == (LEAST_WINDOW - 1) * 10 * MS + 5 * MS + PROBE_LEAST_NS


def test_who_sends_nothing_more_waits_for_the_timeout():
    assert harmless_blackout_ns(rtt_ns=MS, interval_ns=None) == 200 * MS
    assert harmless_blackout_ns(rtt_ns=50 * MS, interval_ns=None) == 200 * MS


def test_the_timeout_is_never_later_for_a_second_segment():
    assert harmless_blackout_ns(rtt_ns=MS, interval_ns=1000 * MS) == 200 * MS
