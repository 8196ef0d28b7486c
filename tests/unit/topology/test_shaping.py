"""The texts are what tc of iproute2 6.1.0 (Debian 12) printed for a veth that was given these settings."""

from __future__ import annotations

import pytest

from unnoticed.errors import FabricError, PlanError
from unnoticed.topology.shaping import Shaping, differences, read_shaping

QDISCS = [
    {
        "kind": "htb",
        "handle": "1:",
        "root": True,
        "refcnt": 3,
        "options": {"r2q": 10, "default": "0x1", "direct_packets_stat": 0, "ver": "3.17", "direct_qlen": 1000},
    },
    {"kind": "bfifo", "handle": "10:", "parent": "1:1", "options": {"limit": 1250000}},
]
CLASSES = (
    "class htb 1:1 root leaf 10: prio 0 quantum 60000 rate 1Gbit ceil 1Gbit linklayer ethernet "
    "burst 125000b/1 mpu 0b cburst 125000b/1 mpu 0b level 0 \n"
)
GIGABIT = Shaping(rate_bit_per_s=1_000_000_000, queue_ns=10_000_000)


def test_the_queue_is_as_long_as_its_time_and_the_burst_a_millisecond():
    assert (GIGABIT.limit_bytes, GIGABIT.burst_bytes) == (1_250_000, 125_000)
    assert Shaping(rate_bit_per_s=100_000_000, queue_ns=10_000_000).burst_bytes == 15_000


def test_what_was_asked_for_is_found_in_what_tc_prints():
    assert differences(GIGABIT, read_shaping(QDISCS, CLASSES)) == []


def test_a_change_names_the_same_class_and_queue_as_the_first_setting():
    first = [line.replace(" add ", " change ") for line in GIGABIT.lines("eth0")]
    assert GIGABIT.change_lines("eth0") == first[1:]


def test_every_line_names_the_device_so_that_it_may_be_called_anything():
    assert all(" dev up " in line for line in GIGABIT.lines("up"))


@pytest.mark.parametrize(
    ("classes", "wrong"),
    [
        (CLASSES.replace("rate 1Gbit", "rate 100Mbit"), ["rate_bit_per_s is 100000000 instead of 1000000000"]),
        (CLASSES.replace("ceil 1Gbit", "ceil 2Gbit"), ["ceil_bit_per_s is 2000000000 instead of 1000000000"]),
        (CLASSES.replace(" burst 125000b", " burst 15Kb"), ["burst_bytes is 15360 instead of 125000"]),
    ],
)
def test_a_class_that_is_not_what_was_asked_for_is_told_by_the_setting(classes, wrong):
    assert differences(GIGABIT, read_shaping(QDISCS, classes)) == wrong


def test_a_queue_of_another_length_is_told():
    qdiscs = [QDISCS[0], {**QDISCS[1], "options": {"limit": 1_000_000}}]
    assert differences(GIGABIT, read_shaping(qdiscs, CLASSES)) == ["limit_bytes is 1000000 instead of 1250000"]


def test_a_rate_that_tc_prints_rounded_is_accepted():
    asked = Shaping(rate_bit_per_s=123_456_789, queue_ns=10_000_000)
    text = CLASSES.replace("1Gbit", "123456Kbit").replace("125000b", "15432b")
    qdiscs = [QDISCS[0], {**QDISCS[1], "options": {"limit": asked.limit_bytes}}]
    assert differences(asked, read_shaping(qdiscs, text)) == []


@pytest.mark.parametrize(
    ("qdiscs", "classes"),
    [
        ([{"kind": "noqueue", "handle": "0:", "root": True, "options": {}}], CLASSES),
        (QDISCS[:1], CLASSES),
        ([{**QDISCS[0], "options": {"default": "0x2"}}, QDISCS[1]], CLASSES),
        (QDISCS, ""),
        (QDISCS, CLASSES + CLASSES.replace("1:1", "1:2")),
        (QDISCS, CLASSES.replace("quantum 60000", "")),
    ],
)
def test_anything_but_one_htb_class_with_a_bfifo_is_an_error(qdiscs, classes):
    with pytest.raises(FabricError):
        read_shaping(qdiscs, classes)


def test_a_queue_that_cannot_hold_one_frame_is_refused_with_the_queue_to_ask_for():
    with pytest.raises(PlanError, match="at least 56 ms"):
        Shaping(rate_bit_per_s=10_000_000, queue_ns=10_000_000)
    assert Shaping(rate_bit_per_s=10_000_000, queue_ns=56_000_000).limit_bytes == 70_000


def test_a_queue_longer_than_can_be_counted_is_refused_with_the_queue_to_ask_for():
    with pytest.raises(PlanError, match="at most 8589 ms"):
        Shaping(rate_bit_per_s=4_000_000_000, queue_ns=100_000_000_000)
    assert Shaping(rate_bit_per_s=4_000_000_000, queue_ns=8_589_000_000).limit_bytes < 1 << 32


@pytest.mark.parametrize("rate_bit_per_s", [-1, 0, 999, 34_000_000_000_001])
def test_a_rate_that_htb_does_not_take_is_refused(rate_bit_per_s):
    with pytest.raises(PlanError, match=f"must be 1 kbit/s to 34 Tbit/s, not {rate_bit_per_s} bit/s"):
        Shaping(rate_bit_per_s=rate_bit_per_s, queue_ns=10_000_000)
