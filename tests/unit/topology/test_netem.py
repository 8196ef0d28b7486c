"""The shape of tc's answers is that of iproute2's tc/q_netem.c (print_json): times in seconds, shares from 0 to 1."""

from __future__ import annotations

import pytest

from unnoticed.errors import FabricError
from unnoticed.topology.direction import Direction
from unnoticed.topology.netem import limit_frames, netem_differences, netem_line

PLAIN = Direction(rate_bit_per_s=100_000_000, delay_ns=5_000_000, loss_ppm=10_000)
ALL = Direction(
    rate_bit_per_s=100_000_000, delay_ns=20_000_000, jitter_ns=1_500_000, reorder_ppm=2_500, duplicate_ppm=50
)


def answer(**options):
    plain = {"limit": 1976, "delay": {"delay": 0.005, "jitter": 0, "correlation": 0}, "ecn": False, "gap": 0}
    return [{"kind": "netem", "handle": "1:", "root": True, "refcnt": 2, "options": {**plain, **options}}]


def test_a_delay_alone_is_a_line_with_a_delay_and_no_loss():
    assert netem_line(PLAIN, "l0-1") == "qdisc add dev l0-1 root handle 1: netem limit 1976 delay 5000.000us"


def test_a_change_takes_back_the_rate_that_a_jitter_needed():
    assert netem_line(PLAIN, "l0-1", verb="change").endswith(" delay 5000.000us rate 0bit")


def test_jitter_keeps_the_order_by_a_rate_and_shares_are_exact():
    assert netem_line(ALL, "l0-1", verb="change") == (
        "qdisc change dev l0-1 root handle 1: netem limit 5199 delay 20000.000us 1500.000us reorder 0.2500% "
        "duplicate 0.0050% rate 80000000000bit"
    )


def test_the_limit_holds_what_the_rate_lets_pass_in_the_delay_and_is_bounded():
    assert limit_frames(Direction(rate_bit_per_s=1_000_000_000, delay_ns=100_000_000)) == 1000 + 195312
    assert limit_frames(Direction(rate_bit_per_s=None, delay_ns=1_000_000_000)) == 1 << 20


def test_what_was_asked_for_is_found_in_what_tc_prints():
    assert netem_differences(PLAIN, answer()) == []
    options = {
        "limit": 5199,
        "delay": {"delay": 0.02, "jitter": 0.0015, "correlation": 0},
        "reorder": {"reorder": 0.0025, "correlation": 0},
        "duplicate": {"duplicate": 0.00005, "correlation": 0},
        "rate": {"rate": 10_000_000_000, "packetoverhead": 0, "cellsize": 0, "celloverhead": 0},
        "gap": 1,
    }
    assert netem_differences(ALL, answer(**options)) == []


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"limit": 1000}, ["limit is 1000 instead of 1976"]),
        ({"delay": {"delay": 0.006, "jitter": 0}}, ["delay_ns is 6000000 instead of 5000000"]),
        ({"delay": {"delay": 0.005, "jitter": 0.001}}, ["jitter_ns is 1000000 instead of 0"]),
        ({"loss-random": {"loss": 0.01, "correlation": 0}}, ["loss is 0.01 instead of 0"]),
        ({"duplicate": {"duplicate": 0.1}}, ["duplicate_ppm is 100000 instead of 0"]),
    ],
)
def test_what_is_not_as_asked_is_told_by_the_setting(options, wrong):
    assert netem_differences(PLAIN, answer(**options)) == wrong


def test_a_device_without_netem_is_an_error():
    with pytest.raises(FabricError, match="should have netem and nothing else"):
        netem_differences(PLAIN, [{"kind": "noqueue", "options": {}}])
