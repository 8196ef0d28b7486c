"""What each policy decides on histories that were made up for it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.forecast import Outlook, Round, forecast
from unnoticed.agents.policy import Decision, FixedRounds, TcpTimeout, Threshold, make_policy

MIB = 1 << 20
BYTE_PER_S = 125_000_000  # 1 Gbit/s
QUICK = Outlook(smallest_rto_ns=200_000_000)


def history(*remaining, sent=None, byte_per_s=BYTE_PER_S):
    """Rounds that each send what the one before left, at a rate; the first sends `sent` (64 MiB)."""
    sent_now, rounds = 64 * MIB if sent is None else sent, []
    for number, left in enumerate(remaining):
        rounds.append(
            Round(
                number=number,
                sent_bytes=sent_now,
                duration_ns=sent_now * 1_000_000_000 // byte_per_s,
                remaining_bytes=left,
            )
        )
        sent_now = left
    return rounds


def decisions(policy, remaining, outlook=QUICK, **options):
    rounds = history(*remaining, **options)
    return [policy.decide(rounds[: n + 1], outlook) for n in range(len(rounds))]


ON, SW, UP = Decision.ITERATE, Decision.SWITCH, Decision.GIVE_UP


def test_fixed_rounds_counts_and_looks_at_nothing_else():
    assert decisions(FixedRounds(rounds=3), [MIB, 99 * MIB, 0, 5]) == [ON, ON, SW, SW]
    assert decisions(FixedRounds(rounds=1), [99 * MIB]) == [SW]


def test_threshold_switches_once_little_enough_is_left():
    policy = Threshold(threshold_bytes=MIB)
    assert decisions(policy, [10 * MIB, MIB + 1, MIB, 0]) == [ON, ON, SW, SW]


def test_threshold_switches_after_its_most_rounds_however_much_is_left():
    assert decisions(Threshold(threshold_bytes=0, max_rounds=3), [50 * MIB] * 3) == [ON, ON, SW]


def test_tcp_timeout_switches_exactly_when_the_rest_fits_under_the_smallest_timeout():
    left = 20 * MIB
    blackout_ns = math.ceil(forecast(history(left), QUICK).blackout_ns)
    assert decisions(TcpTimeout(), [left], Outlook(smallest_rto_ns=blackout_ns)) == [SW]
    assert decisions(TcpTimeout(), [left], Outlook(smallest_rto_ns=blackout_ns - 1)) == [ON]


def test_tcp_timeout_counts_against_the_timeout_what_is_not_pages():
    many = Outlook(smallest_rto_ns=200_000_000, connections=1000, connection_ns=200_000)
    assert decisions(TcpTimeout(), [0], many) == [ON]


def test_tcp_timeout_without_connections_takes_the_least_timeout_of_linux():
    nobody, least = Outlook(smallest_rto_ns=None), Outlook(smallest_rto_ns=200_000_000)
    for left in range(0, 60 * MIB, MIB):
        assert decisions(TcpTimeout(), [left], nobody) == decisions(TcpTimeout(), [left], least)


def test_tcp_timeout_does_not_take_an_impossible_timeout_of_zero_for_no_connections():
    assert decisions(TcpTimeout(), [0], Outlook(smallest_rto_ns=0)) == [ON]


def test_tcp_timeout_gives_up_once_the_rest_has_not_shrunk_for_five_rounds():
    assert decisions(TcpTimeout(), [60 * MIB] + [50 * MIB] * 8) == [ON] * 6 + [UP] * 3


def test_tcp_timeout_goes_on_while_the_rest_shrinks_though_slowly():
    shrinking = [int(60 * MIB * 0.98**n) for n in range(20)]
    assert decisions(TcpTimeout(), shrinking) == [ON] * 20


def test_tcp_timeout_gives_up_after_its_most_rounds():
    shrinking = [int(600 * MIB * 0.9**n) for n in range(10)]
    assert decisions(TcpTimeout(max_rounds=10), shrinking) == [ON] * 9 + [UP]


@given(remaining=st.lists(st.integers(0, 1 << 34), min_size=1, max_size=31))
def test_tcp_timeout_never_switches_beyond_its_limit_and_always_comes_to_an_end(remaining):
    rounds = history(*remaining)
    for n in range(len(rounds)):
        if TcpTimeout().decide(rounds[: n + 1], QUICK) is SW:
            assert forecast(rounds[: n + 1], QUICK).blackout_ns <= QUICK.smallest_rto_ns
    if len(rounds) >= 30:
        assert TcpTimeout().decide(rounds, QUICK) is not ON


def test_policies_are_made_by_name_with_their_parameters():
    assert make_policy("fixed-rounds", {"rounds": 7}) == FixedRounds(rounds=7)
    assert make_policy("threshold", {"threshold_bytes": 5, "max_rounds": 2}) == Threshold(5, 2)
    assert make_policy("tcp-timeout", {}) == TcpTimeout()


def test_an_unknown_policy_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown policy 'hope'; known are fixed-rounds, tcp-timeout, threshold"):
        make_policy("hope", {})


def test_a_parameter_of_another_policy_is_refused():
    with pytest.raises(TypeError, match="threshold_bytes"):
        make_policy("fixed-rounds", {"threshold_bytes": 1})
