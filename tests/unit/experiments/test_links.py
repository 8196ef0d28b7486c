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
    sent=2000, lost=20, repeated=0, overtaken=0, delay_ns=5_050_000, least_ns=5_010_000, most_ns=5_200_000,
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


def test_reordered_frames_may_be_early_and_overtaken():
    asked = dataclasses.replace(ASKED, reorder_ppm=10_000)
    assert differences(asked, measured(overtaken=100, least_ns=10_000)) == []


def test_frames_are_accounted_for_by_their_numbers():
    sent = np.array([1000, 2000, 3000, 4000, 5000]) * MS
    numbers = np.array([0, 2, 1, 2, 4])
    arrived = np.array([1001, 3005, 3006, 3007, 5003]) * MS
    found = account(numbers, arrived, sent_ns=sent)
    assert (found.sent, found.lost, found.repeated, found.overtaken) == (5, 1, 1, 1)
    assert (found.least_ns, found.delay_ns) == (MS, 4 * MS)


def test_nothing_that_arrived_is_no_delay():
    nothing = np.zeros(0, np.int64)
    found = account(nothing, nothing, sent_ns=np.zeros(7, np.int64))
    assert (found.lost, found.delay_ns, found.most_ns) == (7, None, None)


def test_the_table_shows_asked_and_measured_and_what_is_not_as_asked():
    head, good, bad = table.lines([
        table.row("c1>s1", ASKED, MEASURED, "HTB, relay"),
        table.row("s1>c1", Direction(rate_bit_per_s=None), measured(rate_bit_per_s=None, lost=0, delay_ns=MS), "veth"),
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
