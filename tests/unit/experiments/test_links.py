from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from unnoticed.experiments.links import measuring, table
from unnoticed.experiments.links.judging import Measured, binomial_bounds, differences
from unnoticed.experiments.links.measuring import Verified, account, verify
from unnoticed.topology.direction import Direction

MS = 1_000_000
ASKED = Direction(rate_bit_per_s=100_000_000, delay_ns=5 * MS, loss_ppm=10_000)
MEASURED = Measured(
    sent=2000, lost=20, repeated=0, overtaken=0, early=0, delay_ns=5_050_000, least_ns=5_010_000, most_ns=5_200_000,
    rate_bit_per_s=99_500_000.0,
)  # fmt: skip


def measured(**changes):
    return dataclasses.replace(MEASURED, **changes)


@pytest.mark.parametrize(
    ("n", "share", "expected"), [(2000, 0.01, (10, 32)), (100, 0.5, (37, 63)), (10, 0.001, (0, 1))]
)
def test_bounds_are_those_of_the_binomial_distribution(n, share, expected):
    # expected: summed with exact fractions
    assert binomial_bounds(n, share) == expected


def test_what_cannot_happen_and_what_must_leave_no_room():
    assert binomial_bounds(2000, 0) == (0, 0)
    assert binomial_bounds(2000, 1) == (2000, 2000)


def test_bounds_hold_what_chance_does_and_little_more():
    draws = np.random.default_rng(1).binomial(2000, 0.01, 20_000)
    low, high = binomial_bounds(2000, 0.01)
    outside = ((draws < low) | (draws > high)).mean()
    assert 0.001 < outside <= 0.0115


def test_a_link_that_is_what_was_asked_for_has_no_differences():
    assert differences(ASKED, MEASURED) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lost": 60}, "60 of 2000 frames were lost, where 10 to 32 were to be expected"),
        ({"lost": 2}, "2 of 2000 frames were lost"),
        ({"repeated": 1}, "1 of 1980 frames came twice, where 0 to 0 were to be expected"),
        ({"overtaken": 3}, "3 frames were overtaken"),
        ({"delay_ns": 5_400_000}, "the delay is 5.40 ms instead of 5.00 ms"),
        ({"delay_ns": 4_600_000}, "the delay is 4.60 ms instead of 5.00 ms"),
        ({"rate_bit_per_s": 96_000_000.0}, "the rate is 96 Mbit/s instead of 100"),
        ({"rate_bit_per_s": 104_000_000.0}, "the rate is 104 Mbit/s instead of 100"),
        ({"lost": 2000, "delay_ns": None, "least_ns": None, "most_ns": None}, "no frame arrived"),
    ],
)
def test_each_difference_is_told(change, sentence):
    assert any(sentence in each for each in differences(ASKED, measured(**change)))


def test_jitter_is_judged_by_its_range():
    asked = dataclasses.replace(ASKED, jitter_ns=2 * MS)
    wide = {"delay_ns": 6 * MS, "least_ns": 3_100_000, "most_ns": 7_200_000}
    assert differences(asked, measured(**wide)) == []
    assert "the shortest delay is 2.90 ms" in differences(asked, measured(**{**wide, "least_ns": 2_900_000}))[0]
    assert "up to 7.40 ms" in differences(asked, measured(**{**wide, "most_ns": 7_400_000}))[0]


@pytest.mark.parametrize("jitter_ms", [0.5, 2, 50, 500])
def test_a_jitter_that_does_not_show_is_none(jitter_ms):
    jitter_ns = int(jitter_ms * MS)
    asked = dataclasses.replace(ASKED, delay_ns=jitter_ns, jitter_ns=jitter_ns)
    constant = {"delay_ns": jitter_ns, "least_ns": jitter_ns, "most_ns": jitter_ns + 100_000}
    assert "delays differ by 0.10 ms" in differences(asked, measured(**constant))[0]
    # As a relay does it: each frame is held for its own time, and none passes the one before.
    held = np.random.default_rng(1).integers(0, 2 * jitter_ns, 2000)
    sent = np.arange(2000) * MS
    delays = np.sort(np.maximum.accumulate(sent + held) - sent)
    times = {"delay_ns": int(delays[1000]), "least_ns": int(delays[0]), "most_ns": int(delays[1980])}
    assert differences(asked, measured(**times)) == []


def test_of_a_frame_in_a_hundred_a_machine_that_stands_still_may_be_the_reason_but_not_of_seconds():
    assert differences(ASKED, measured(most_ns=8 * MS)) == []
    assert "up to 2000.00 ms, more than 5.00 ms" in differences(ASKED, measured(most_ns=2000 * MS))[0]


def test_reordered_frames_may_be_overtaken_and_as_many_as_asked_for_pass_without_the_delay():
    asked = dataclasses.replace(ASKED, reorder_ppm=10_000)
    assert differences(asked, measured(overtaken=100, early=20)) == []
    for early in (0, 900):
        assert f"{early} of 1980 frames passed without the delay" in differences(asked, measured(early=early))[0]
    assert "0 of 1980 frames" in differences(dataclasses.replace(asked, reorder_ppm=300_000), MEASURED)[0]
    most = dataclasses.replace(asked, reorder_ppm=600_000)
    assert "the delay is 500.00 ms" in differences(most, measured(early=1188, delay_ns=500 * MS))[0]
    everyone = dataclasses.replace(asked, reorder_ppm=1_000_000)
    nothing = {"delay_ns": None, "least_ns": None, "most_ns": None}
    assert differences(everyone, measured(early=1980, overtaken=0, **nothing)) == []


def test_without_a_delay_to_speak_of_nobody_can_tell_which_frames_are_early():
    asked = Direction(rate_bit_per_s=None, delay_ns=200_000, reorder_ppm=100_000)
    fast = {"lost": 0, "delay_ns": 200_000, "least_ns": 10_000, "most_ns": 300_000, "rate_bit_per_s": None}
    assert differences(asked, measured(**fast, overtaken=3)) == []


def test_frames_are_accounted_for_by_their_numbers():
    sent = np.array([1000, 2000, 3000, 4000, 5000]) * MS
    numbers = np.array([0, 2, 1, 2, 4])
    arrived = np.array([1001, 3005, 3006, 3007, 5003]) * MS
    found = account(numbers, arrived, sent_ns=sent)
    assert (found.sent, found.lost, found.repeated, found.overtaken) == (5, 1, 1, 1)
    assert (found.least_ns, found.delay_ns) == (MS, 4 * MS)


def test_early_frames_are_left_out_of_the_times():
    sent = np.array([1000, 2000, 3000, 4000]) * MS
    found = account(
        np.array([1, 0, 2, 3]), np.array([2000, 1010, 3010, 4012]) * MS, sent_ns=sent, early_below_ns=5 * MS
    )
    assert (found.early, found.least_ns, found.delay_ns, found.overtaken) == (1, 10 * MS, 10 * MS, 1)


def test_nothing_that_arrived_is_no_delay():
    nothing = np.zeros(0, np.int64)
    found = account(nothing, nothing, sent_ns=np.zeros(7, np.int64))
    assert (found.lost, found.delay_ns, found.most_ns) == (7, None, None)


def test_the_table_shows_asked_and_measured_and_what_is_not_as_asked():
    slow = measured(rate_bit_per_s=None, lost=0, delay_ns=MS, most_ns=MS)
    head, good, bad = table.lines([
        table.row("c1>s1", ASKED, MEASURED, "HTB, relay"),
        table.row("s1>c1", Direction(rate_bit_per_s=None), slow, "veth"),
    ])  # fmt: skip
    assert head.split()[0] == "link"
    assert good == "c1>s1  100: 99.5     5: 5.05    1: 1.00  HTB, relay  as asked"
    assert bad.startswith("s1>c1  none: -")
    assert bad.endswith("the delay is 1.00 ms instead of 0.00 ms")
    assert table.document("c1>s1", ASKED, MEASURED, "HTB")["differences"] == []


@pytest.fixture
def looks(monkeypatch):
    """Ways of these names, and what looks at them find: the first one, and the second where there is one."""

    @dataclasses.dataclass(frozen=True)
    class Way:
        name: str
        asked: Direction = ASKED

    def make(**found):
        left = {name: list(each) for name, each in found.items()}

        def measure(ways, **_):
            return [Verified(way=way, measured=left[way.name].pop(0)) for way in ways]

        monkeypatch.setattr(measuring, "measure", measure)
        return [Way(name) for name in found], left

    return make


def test_what_is_not_as_asked_is_measured_once_more_and_the_rest_is_not(looks):
    unlucky, wrong, slow = measured(lost=36), measured(lost=60), measured(rate_bit_per_s=90e6)
    ways, left = looks(right=[MEASURED], unlucky=[unlucky, MEASURED], wrong=[wrong, wrong], other=[slow, wrong])
    found = {one.way.name: one for one in verify(ways)}
    assert not any(left.values())
    assert (found["right"].measured, found["right"].before) == (MEASURED, None)
    assert (found["unlucky"].measured, found["unlucky"].before) == (MEASURED, unlucky)
    unlucky_said = "36 of 2000 frames were lost, where 10 to 32 were to be expected"
    said = {name: table.row(name, ASKED, one.measured, "HTB", before=one.before)[-1] for name, one in found.items()}
    assert said == {
        "right": "as asked",
        "unlucky": f"as asked (measured again; at first {unlucky_said})",
        "wrong": "60 of 2000 frames were lost, where 10 to 32 were to be expected",
        "other": "60 of 2000 frames were lost, where 10 to 32 were to be expected",
    }
