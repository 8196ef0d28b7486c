"""Frames between two captures: what was lost and what was overtaken, told apart by the IP-ID."""

import numpy as np
import pytest

from unnoticed.probes.crossing import Crossing, crossing


@pytest.fixture
def cross(trace):
    """`cross(left, arrived)`: frames as (IP-ID, where they start), in the order of either capture."""

    def between(left, arrived, **more):
        tables = []
        for frames in (left, arrived):
            one = trace()
            for number, start in frames:
                one.send(start, 100, ip_id=number, **more)
            tables.append(one.table())
        (sent, received), every = tables, [np.arange(len(frames)) for frames in (left, arrived)]
        return crossing(sent, every[0], received, every[1])

    return between


def test_what_left_and_never_arrived_was_lost(cross):
    assert cross([(1, 0), (2, 100), (3, 200)], [(1, 0), (3, 200)]) == Crossing(lost=1, overtaken=0)


def test_what_arrived_after_one_that_had_left_later_was_overtaken_and_not_lost(cross):
    left = [(1, 0), (2, 100), (3, 200), (4, 300)]
    assert cross(left, [(1, 0), (3, 200), (2, 100), (4, 300)]) == Crossing(lost=0, overtaken=1)


def test_a_frame_that_was_lost_and_the_one_sent_again_in_its_stead_are_two(cross):
    left = [(1, 0), (2, 100), (3, 0)]
    assert cross(left, [(2, 100), (3, 0)]) == Crossing(lost=1, overtaken=0)
    assert cross(left, [(2, 100), (1, 0)]) == Crossing(lost=1, overtaken=1)


def test_repeats_without_an_ip_id_are_told_by_how_many_came(cross):
    assert cross([(0, 0), (0, 0), (0, 0)], [(0, 0)]) == Crossing(lost=2, overtaken=0)


def test_a_frame_that_came_twice_was_neither_lost_nor_overtaken(cross):
    assert cross([(1, 0), (2, 100)], [(1, 0), (1, 0), (2, 100)]) == Crossing(lost=0, overtaken=0)


def test_an_ip_id_that_wraps_around_is_another_frame_s_only_with_its_place(cross):
    left = [(65535, 0), (0, 100), (1, 200), (65535, 100 * 65536)]
    assert cross(left, left[:3]) == Crossing(lost=1, overtaken=0)


def test_where_frames_were_cut_on_the_way_or_have_no_ip_id_nothing_is_said(cross):
    assert cross([(1, 0)], [(1, 0), (2, 100)]) is None
    assert cross([(1, 0)], [(1, 0)], ethertype=0x86DD) is None


def test_a_flow_of_which_nothing_arrived_was_lost_whole(cross):
    assert cross([(1, 0), (2, 100)], []) == Crossing(lost=2, overtaken=0)
    assert cross([], []) == Crossing(lost=0, overtaken=0)
