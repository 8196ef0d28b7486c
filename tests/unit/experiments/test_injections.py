"""What a calibration injects, and what is known of it."""

from __future__ import annotations

from collections import Counter

from unnoticed.experiments.calibration.injections import Injection, Truth, expected_s, schedule

MS, S = 1_000_000, 1_000_000_000


def of(**changed):
    given = {
        "cuts_ns": [5 * MS, 20 * MS],
        "freezes_ns": [7 * MS],
        "one_way_ns": [30 * MS],
        "losses": [0.01],
        "loss_ns": 5 * S,
        "reorderings": [0.02],
        "zero_windows_ns": [100 * MS],
        "quiet_ns": 25 * S,
        "repeats": 3,
        "seed": 1,
    }
    return schedule(**(given | changed))


def test_each_length_comes_as_often_as_asked_and_quiet_comes_last():
    found = of()
    counts = Counter((each.kind, each.duration_ns) for each in found)
    assert counts[("cut", 5 * MS)] == counts[("cut", 20 * MS)] == counts[("freeze", 7 * MS)] == 3
    assert counts[("cut-to-guest", 30 * MS)] == counts[("cut-from-guest", 30 * MS)] == 3
    assert counts[("zero-window", 100 * MS)] == counts[("reordering", S)] == 3
    assert counts[("loss", 5 * S)] == 1
    quiet = [each.duration_ns for each in found if each.kind == "quiet"]
    assert sum(quiet) == 25 * S
    assert [each.kind for each in found[-len(quiet) :]] == ["quiet"] * len(quiet)


def test_the_order_is_random_but_the_same_for_the_same_seed():
    assert of() == of()
    assert of() != of(seed=2)
    assert sorted(map(repr, of())) == sorted(map(repr, of(seed=2)))


def test_after_a_long_outage_there_is_time_for_a_doubled_timer():
    assert Injection(kind="cut", duration_ns=3 * S).after_ns > 3 * S
    assert expected_s([Injection(kind="quiet", duration_ns=S)]) == 1


def test_a_truth_is_the_middle_of_what_its_stamps_allow():
    truth = Truth(
        injection=Injection(kind="cut", duration_ns=10 * MS),
        begin_low_ns=100,
        begin_high_ns=120,
        end_low_ns=10 * MS + 100,
        end_high_ns=10 * MS + 160,
        dropped=3,
        dropped_udp=2,
    )
    assert truth.truth_ns == 10 * MS + 20
    assert truth.uncertainty_ns == 40
    fields = {name: getattr(truth, name) for name in Truth.__dataclass_fields__}
    event = {**fields, "injection": truth.injection.document(), "time_ns": 1, "who": "injector", "event": "injected"}
    assert Truth.from_event(event) == truth
