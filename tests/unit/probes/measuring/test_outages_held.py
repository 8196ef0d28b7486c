"""What lost frames can tell of an outage that lost none."""

from __future__ import annotations

import numpy as np

from unnoticed.probes.outages import lost_frames
from unnoticed.probes.samples import samples

MS = 1_000_000


def test_lost_frames_finds_nothing_lost_in_a_freeze_but_does_not_rule_it_out():
    sent = np.arange(1, 1001, dtype=np.int64) * MS
    answered = sent + 100_000
    frozen = (sent >= 400 * MS) & (sent < 480 * MS)
    answered[frozen] = 480 * MS + 100_000
    outage = lost_frames(
        samples(intended_ns=sent, sent_ns=sent, answered_ns=answered, period_ns=MS), from_ns=390 * MS, to_ns=500 * MS
    )
    assert outage.outage_ns == 0
    assert outage.low_ns == 0
    assert outage.high_ns is not None
    assert outage.high_ns >= 80 * MS
