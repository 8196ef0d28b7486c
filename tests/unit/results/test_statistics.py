from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from unnoticed.results.statistics import (
    bootstrap_interval,
    compute,
    difference_interval,
    estimate,
    note_on_coverage,
    numbers,
    quantiles_by,
    wilson_interval,
)


def test_missing_values_are_left_out_and_truth_counts_as_one():
    assert numbers(pd.Series([1, pd.NA, 3], dtype="Int64")).tolist() == [1.0, 3.0]
    assert numbers(pd.Series([True, pd.NA, False], dtype="boolean")).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("statistic", "value"),
    [("min", 1), ("median", 3), ("mean", 22), ("max", 100), ("p95", 80.8), ("p99", 96.16)],
)
def test_each_statistic_has_its_known_value(statistic, value):
    assert compute(statistic, np.array([1.0, 2.0, 3.0, 4.0, 100.0])) == pytest.approx(value)


def test_nothing_has_no_statistic():
    with pytest.raises(ValueError, match="no value"):
        estimate("median", np.array([]))


def test_a_share_is_only_of_yes_and_no():
    assert compute("share", np.array([1.0, 0.0, 1.0, 1.0])) == 0.75
    with pytest.raises(ValueError, match="yes and no"):
        compute("share", np.array([0.5]))


def test_the_same_data_always_gives_the_same_interval():
    values = np.random.default_rng(7).normal(10, 1, 30)
    assert bootstrap_interval("median", values) == bootstrap_interval("median", values)
    assert bootstrap_interval("median", values) != bootstrap_interval("median", values, seed=2)


def test_the_interval_of_the_median_covers_it_about_as_often_as_it_says():
    rng = np.random.default_rng(20)
    truth, covered = float(np.log(2)), 0
    for _ in range(200):
        low, high = bootstrap_interval("median", rng.exponential(1.0, 20))
        covered += low <= truth <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_a_perfect_share_of_few_trials_is_not_certain():
    low, high = wilson_interval(1.0, 5)
    assert high == 1.0
    assert low == pytest.approx(0.5655, abs=1e-3)


def test_extremes_and_single_values_have_no_interval():
    assert estimate("max", np.array([1.0, 2.0])).low is None
    assert estimate("median", np.array([1.0])).low is None


def test_few_repeats_are_said():
    assert "too narrow" in note_on_coverage("median", 19)
    assert note_on_coverage("median", 20) == ""
    assert "it takes 20" in note_on_coverage("p95", 19)
    assert note_on_coverage("p95", 20) == ""
    assert "it takes 100" in note_on_coverage("p99", 99)
    assert note_on_coverage("max", 2) == ""


def test_a_difference_between_equal_samples_includes_zero_and_a_shift_does_not():
    values = np.random.default_rng(1).normal(10, 1, 40)
    low, high = difference_interval("median", values, values)
    assert low < 0 < high
    low, high = difference_interval("median", values, values + 5)
    assert 3 < low < 5 < high < 7


def test_quantiles_are_taken_within_each_group():
    frame = pd.DataFrame({"case": ["b", "a", "b", "a"], "x": pd.Series([1, pd.NA, 3, pd.NA], dtype="Int64")})
    result = quantiles_by(frame, ["case"], "x", per_cent=(50,))
    assert result["case"].tolist() == ["b", "a"]
    assert result["n"].tolist() == [2, 0]
    assert result["p50"].iloc[0] == 2
    assert pd.isna(result["p50"].iloc[1])
