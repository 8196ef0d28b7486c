"""What each policy decides on histories that were made up for it."""

import math
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.forecast import Outlook, Round, forecast
from unnoticed.agents.policy import Action, Decision, Policy, parameters_of
from unnoticed.agents.policy_catalogue import catalogue, make_policy
from unnoticed.agents.stock_policies import (
    STOCK,
    Clark,
    Deadline,
    DowntimeLimit,
    FixedRounds,
    TcpTimeout,
    Threshold,
)

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
    return [policy.decide(rounds[: n + 1], outlook).action for n in range(len(rounds))]


ON, SW, UP = Action.ITERATE, Action.SWITCH, Action.GIVE_UP


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
        if TcpTimeout().decide(rounds[: n + 1], QUICK).action is SW:
            assert forecast(rounds[: n + 1], QUICK).blackout_ns <= QUICK.smallest_rto_ns
    if len(rounds) >= 30:
        assert TcpTimeout().decide(rounds, QUICK).action is not ON


def dirtied(*bit_per_s, left=10 * MIB):
    """Rounds in which pages were dirtied at these rates."""
    return [
        Round(number=n, sent_bytes=20 * MIB, duration_ns=left * 8 * 10**9 // rate, remaining_bytes=left)
        for n, rate in enumerate(bit_per_s)
    ]


def test_clark_sends_round_0_at_the_least_rate():
    assert Clark().begin(Outlook()) == Decision(ON, rate_bit_per_s=100_000_000)


def test_clark_sends_each_round_at_the_rate_of_dirtying_and_a_constant_more():
    decision = Clark().decide(dirtied(50_000_000, 200_000_000), QUICK)
    assert decision.action is ON
    assert decision.rate_bit_per_s == pytest.approx(250_000_000, rel=1e-6)


def test_clark_never_goes_below_its_least_rate():
    assert Clark().decide(dirtied(1_000_000), QUICK).rate_bit_per_s == 100_000_000


@pytest.mark.parametrize(
    "rounds",
    [dirtied(451_000_000), dirtied(1_000_000, left=256 << 10), dirtied(*[200_000_000] * 30)],
    ids=["more than the highest rate", "little is left", "after its most rounds"],
)
def test_clark_switches_and_sends_the_rest_at_the_highest_rate(rounds):
    assert Clark().decide(rounds, QUICK) == Decision(SW, rate_bit_per_s=500_000_000)


def test_clark_refuses_a_least_rate_above_the_highest():
    with pytest.raises(ValueError, match="min_rate is more than max_rate"):
        Clark(min_rate_bit_per_s=600_000_000)


def test_downtime_limit_switches_when_the_rest_takes_at_most_so_long_at_the_measured_rate():
    policy = DowntimeLimit(downtime_limit_ns=80_000_000)
    fits = 80_000_000 * BYTE_PER_S // 10**9
    assert decisions(policy, [fits + 4096]) == [ON]
    assert decisions(policy, [fits]) == [SW]
    assert decisions(policy, [0]) == [SW]


def test_downtime_limit_gives_up_after_its_most_rounds():
    assert decisions(DowntimeLimit(max_rounds=2), [60 * MIB] * 2) == [ON, UP]


def throttles(policy, remaining):
    rounds = history(*remaining)
    return [policy.decide(rounds[: n + 1], QUICK).throttle_ppm // 10_000 for n in range(len(rounds))]


def test_auto_converge_throttles_at_each_second_round_that_leaves_more_than_half_of_what_it_sent():
    assert throttles(DowntimeLimit(), [60 * MIB] * 7) == [0, 20, 20, 30, 30, 40, 40]
    assert throttles(DowntimeLimit(), [60 * MIB] * 40)[-1] == 99
    assert throttles(DowntimeLimit(), [60 * MIB, 30 * MIB, 15 * MIB, 7 * MIB]) == [0] * 4
    assert throttles(DowntimeLimit(auto_converge=False), [60 * MIB] * 7) == [0] * 7


def at(elapsed_ms):
    return Outlook(smallest_rto_ns=200_000_000, elapsed_ns=elapsed_ms * 10**6)


def test_deadline_ends_round_0_when_time_is_up():
    assert Deadline(deadline_ns=10**9).begin(at(100)) == Decision(ON, limit_ns=900_000_000)


def test_deadline_switches_when_the_time_left_is_the_blackout_that_is_to_be_expected():
    rounds, policy = history(20 * MIB), Deadline(deadline_ns=10**9)
    expected_ns = forecast(rounds, at(0)).blackout_ns
    before = policy.decide(rounds, at(500))
    assert (before.action, before.limit_ns) == (ON, round(500_000_000 - expected_ns))
    assert policy.decide(rounds, at(999)).action is SW
    assert policy.decide(rounds, at(5000)).action is SW


def test_deadline_does_not_wait_for_it_when_little_is_left():
    assert Deadline().decide(history(256 << 10), at(1)).action is SW


@given(
    name=st.sampled_from(sorted(STOCK)),
    remaining=st.lists(st.integers(0, 1 << 34), min_size=1, max_size=8),
    elapsed_ms=st.integers(0, 10_000),
)
def test_every_policy_decides_on_every_history_and_again_the_same(name, remaining, elapsed_ms):
    policy, rounds = make_policy(name, {}), history(*remaining)
    decision = policy.decide(rounds, at(elapsed_ms))
    assert decision == policy.decide(rounds, at(elapsed_ms))
    assert 0 <= decision.throttle_ppm < 1_000_000
    assert decision.rate_bit_per_s is None or decision.rate_bit_per_s > 0
    assert decision.limit_ns is None or decision.limit_ns >= 0


def test_policies_are_made_by_name_with_their_parameters():
    assert make_policy("fixed-rounds", {"rounds": 7}) == FixedRounds(rounds=7)
    assert make_policy("threshold", {"threshold_bytes": 5, "max_rounds": 2}) == Threshold(5, 2)
    assert make_policy("tcp-timeout", {}) == TcpTimeout()


def test_an_unknown_policy_is_refused_with_those_that_exist():
    known = "clark, deadline, downtime-limit, fixed-rounds, tcp-timeout, threshold"
    with pytest.raises(ValueError, match=f"unknown policy 'hope'; known are {known}"):
        make_policy("hope", {})


def test_a_parameter_of_another_policy_is_refused():
    with pytest.raises(TypeError, match="threshold_bytes"):
        make_policy("fixed-rounds", {"threshold_bytes": 1})


def test_a_parameter_out_of_its_bounds_is_refused():
    with pytest.raises(ValueError, match="rounds = 0 is out of range: it must be at least 1"):
        make_policy("fixed-rounds", {"rounds": 0})
    with pytest.raises(ValueError, match="it must be at most 990000"):
        make_policy("downtime-limit", {"max_throttle_ppm": 1_000_000})


def test_a_policy_without_a_number_as_a_default_is_none():
    @dataclass(frozen=True)
    class Vague(Policy):
        hope: str = "some"

        def decide(self, rounds, outlook):
            raise NotImplementedError

    with pytest.raises(TypeError, match="its parameter hope has no whole number, true or false as a default"):
        parameters_of(Vague)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that holds a module and names policies, for the length of the test."""

    def install(module, entries):
        (tmp_path / "somebodys.py").write_text(module)
        info = tmp_path / "somebodys-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[unnoticed.policies]\n" + entries)
        monkeypatch.syspath_prepend(tmp_path)
        catalogue.cache_clear()

    yield install
    sys.modules.pop("somebodys", None)
    monkeypatch.undo()
    catalogue.cache_clear()


@pytest.mark.parametrize(
    ("module", "entries", "complaint"),
    [
        ("", "hope = somebodys:Hope\n", "the policy \"hope\" of somebodys cannot be used: .*has no attribute 'Hope'"),
        ("def Hope(): ...", "hope = somebodys:Hope\n", "is not a subclass of unnoticed.agents.policy.Policy"),
        ("1 / 0", "hope = somebodys:Hope\n", "division by zero"),
    ],
)
def test_a_package_whose_policy_is_broken_spoils_no_other_and_is_told_when_it_is_named(
    installed, module, entries, complaint
):
    installed(module, entries)
    assert make_policy("threshold", {}) == Threshold()
    with pytest.raises(ValueError, match=complaint):
        make_policy("hope", {})


def test_no_package_can_replace_a_stock_policy(installed):
    installed("Threshold = None", "threshold = somebodys:Threshold\n")
    assert make_policy("threshold", {}) == Threshold()
