from __future__ import annotations

import pytest

from unnoticed.errors import PlanError
from unnoticed.topology.direction import Direction, LinkChange, directions, futures, readings, select

PAIRS = [("s1", "s2"), ("a", "s2"), ("c1", "s1"), ("c2", "s2")]
KINDS = {"s1": "switches", "s2": "switches", "a": "hosts", "c1": "clients", "c2": "clients"}


def asked(*changes):
    both = directions(PAIRS, base=Direction(), changes=changes, kinds=KINDS)
    return {
        f"{one}>{other}": direction
        for pair, ends in zip(PAIRS, both, strict=True)
        for (one, other), direction in zip((pair, pair[::-1]), ends, strict=True)
    }


def test_a_direction_says_everything_that_it_cannot_be():
    with pytest.raises(PlanError) as refusal:
        Direction(rate_bit_per_s=1_000_000, jitter_ns=2_000_000, loss_ppm=1_000_001, reorder_ppm=1)
    assert [problem.split()[1] for problem in refusal.value.problems] == ["queue", "share", "jitter", "can"]


@pytest.mark.parametrize(
    ("settings", "impaired", "holding"),
    [
        ({}, False, False),
        ({"rate_bit_per_s": None}, False, False),
        ({"loss_ppm": 1}, True, False),
        ({"delay_ns": 1}, True, True),
        ({"duplicate_ppm": 1}, True, True),
    ],
)
def test_a_direction_knows_what_it_needs(settings, impaired, holding):
    direction = Direction(**settings)
    assert (direction.is_impaired, direction.needs_holding) == (impaired, holding)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("s1-s2", [("s1", "s2", True)]),
        ("s1 > s2", [("s1", "s2", False)]),
        ("h-1-s1", [("h", "1-s1", True), ("h-1", "s1", True)]),
        ("h-1>s1", [("h-1", "s1", False)]),
        ("s1", []),
        ("s1-", []),
        (">s1", []),
        ("a>b>c", []),
    ],
)
def test_the_name_of_a_link_is_two_nodes(link, expected):
    assert list(readings(link)) == expected


def test_one_way_is_the_way_written_and_two_way_is_both():
    assert select("s2>s1", PAIRS, KINDS) == {(0, False)}
    assert select("s2-s1", PAIRS, KINDS) == {(0, True), (0, False)}
    assert select("clients>switches", PAIRS, KINDS) == {(2, True), (3, True)}
    assert select("switches-switches", PAIRS, KINDS) == {(0, True), (0, False)}
    assert select("switches>switches", [("s1", "s2")], KINDS) == {(0, True), (0, False)}
    assert select("hosts-clients", PAIRS, KINDS) == set()


def test_later_changes_are_laid_over_earlier_ones_and_leave_the_rest():
    found = asked(
        LinkChange(link="clients-switches", delay_ns=5_000_000, loss_ppm=10),
        LinkChange(link="c1>s1", loss_ppm=20),
    )
    assert found["c1>s1"] == Direction(delay_ns=5_000_000, loss_ppm=20)
    assert found["s1>c1"] == found["c2>s2"] == Direction(delay_ns=5_000_000, loss_ppm=10)
    assert found["s1>s2"] == found["s2>a"] == Direction()


def test_every_change_that_cannot_be_is_told_once():
    with pytest.raises(PlanError) as refusal:
        asked(
            LinkChange(link="s1-s9", loss_ppm=1),
            LinkChange(link="s1-s2", jitter_ns=1),
            LinkChange(link="c1-s1", delay_ns=1),
        )
    assert refusal.value.problems == (
        "The fabric has no link 's1-s9'; its links are s1-s2, a-s2, c1-s1, c2-s2.",
        "The link s1-s2: A jitter of 1e-06 ms needs a delay of at least as much, not of 0 ms.",
    )


def test_a_node_with_a_dash_in_its_name_is_found():
    assert select("h-1-s1", [("h-1", "s1")], {}) == {(0, True), (0, False)}


def test_what_a_link_will_be_is_laid_over_what_it_is_by_then():
    asked = directions(PAIRS, base=Direction(), changes=(), kinds=KINDS)
    later = (LinkChange(link="s1>s2", delay_ns=9), LinkChange(link="s1-s2", jitter_ns=0, loss_ppm=1))
    there, back = futures(PAIRS, asked, later=later, cut=("c1-s1",), kinds=KINDS)[0]
    assert there == [Direction(), Direction(delay_ns=9), Direction(delay_ns=9, loss_ppm=1)]
    assert back == [Direction(), Direction(loss_ppm=1)]


def test_every_future_that_cannot_be_is_told():
    asked = directions(PAIRS, base=Direction(), changes=(), kinds=KINDS)
    with pytest.raises(PlanError) as refusal:
        futures(PAIRS, asked, later=(LinkChange(link="s1-s2", jitter_ns=10**6),), cut=("s1-s9",), kinds=KINDS)
    assert refusal.value.problems == (
        "The link s1-s2: A jitter of 1 ms needs a delay of at least as much, not of 0 ms.",
        "The fabric has no link 's1-s9'; its links are s1-s2, a-s2, c1-s1, c2-s2.",
    )


def test_a_cut_takes_both_directions_and_one_alone_is_refused():
    asked = directions(PAIRS, base=Direction(), changes=(), kinds=KINDS)
    with pytest.raises(PlanError) as refusal:
        futures(PAIRS, asked, later=(), cut=("s1 > s2",), kinds=KINDS)
    assert refusal.value.problems == (
        (
            'The link s1 > s2: "s1>s2" is one direction, and a cut takes both: cut "s1-s2", or give "s1>s2" a loss of '
            "100 %."
        ),
    )
