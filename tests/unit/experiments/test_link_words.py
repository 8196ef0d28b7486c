from __future__ import annotations

import pytest

from unnoticed.errors import PlanError
from unnoticed.experiments.lab.link_words import parse
from unnoticed.topology.direction import LinkChange


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("s1 s2 down", ("s1-s2", None, False)),
        ("s1>s2 up", ("s1>s2", None, True)),
        ("s1 s2 loss 1%", ("s1-s2", LinkChange(link="s1-s2", loss_ppm=10_000), None)),
        (
            "s1>c1 delay 5 ms jitter 1ms rate 10 Mbit/s",
            (
                "s1>c1",
                LinkChange(link="s1>c1", delay_ns=5_000_000, jitter_ns=1_000_000, rate_bit_per_s=10_000_000),
                None,
            ),
        ),
    ],
)
def test_what_is_typed_is_understood(line, expected):
    assert parse(line) == expected


@pytest.mark.parametrize("line", ["", "s1", "s1 s2", "s1 s2 sideways", "s1>s2", "s1 s2 1% loss"])
def test_what_is_not_understood_gets_the_usage(line):
    with pytest.raises(PlanError, match=r"usage: link NODE NODE up\|down"):
        parse(line)


def test_every_value_that_cannot_be_is_told():
    with pytest.raises(PlanError) as refusal:
        parse("s1 s2 loss 200 % delay 5")
    assert sorted(refusal.value.problems) == [
        'delay: "5" has no unit; write "5 ms" if that is what you mean.',
        'loss: "200 %" is out of range: it must be at most 100 %.',
    ]


def test_a_value_that_is_there_twice_is_refused():
    with pytest.raises(PlanError, match=r"^link: loss is there twice; give it one value\.$"):
        parse("s1 s2 loss 1% delay 5 ms loss 2%")
