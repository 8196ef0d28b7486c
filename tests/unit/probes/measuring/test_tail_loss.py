from __future__ import annotations

from unnoticed.probes.tail_loss import PROBE_LEAST_NS, harmless_blackout_ns

MS = 1_000_000


def test_a_sender_that_goes_on_probes_two_round_trips_after_the_last_of_its_segments():
    assert harmless_blackout_ns(rtt_ns=MS, interval_ns=0) == MS + PROBE_LEAST_NS
    assert harmless_blackout_ns(rtt_ns=20 * MS, interval_ns=0) == 20 * MS + PROBE_LEAST_NS


def test_a_second_segment_starts_the_timer_anew():
    early, late = (harmless_blackout_ns(rtt_ns=MS, interval_ns=interval * MS) for interval in (1, 10))
    assert late - early == 9 * MS


def test_who_sends_nothing_more_waits_for_the_timeout():
    assert harmless_blackout_ns(rtt_ns=MS, interval_ns=None) == 200 * MS
    assert harmless_blackout_ns(rtt_ns=50 * MS, interval_ns=None) == 200 * MS


def test_the_timeout_is_never_later_for_a_second_segment():
    assert harmless_blackout_ns(rtt_ns=MS, interval_ns=1000 * MS) == 200 * MS
