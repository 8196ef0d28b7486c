"""The tables beside the pictures, and the one rule on which trials they count."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from unnoticed.results import summaries
from unnoticed.results.cells import cells
from unnoticed.results.plots import retransmits, rounds
from unnoticed.results.statistics import ENOUGH_REPEATS

DISTURBED = ("00-001", "00-003")  # the two repeats of the claim in which a request flow sent a segment again
EVERY = tuple(f"00-{repeat:03}" for repeat in range(5))


@pytest.fixture(scope="module")
def tables(synthetic_folder):
    return synthetic_folder.load()


def _claim(tables, *, disturbed):
    """The setting `the claim`, with these of its trials disturbed by the machine."""
    marked = tables.trials.assign(disturbed=tables.trials["trial_id"].isin(disturbed))
    return next(cell for cell in cells(marked) if cell.case == "the claim")


def _column(grid, title):
    place = [head.title for head in grid.heads].index(title)
    return [row[place] for row in grid.rows]


def test_rounds_are_medians_over_the_trials_that_count_and_the_others_are_said(tables):
    calm, whole = _claim(tables, disturbed=DISTURBED), _claim(tables, disturbed=())
    assert _column(summaries.rounds([whole], tables.rounds), "trials") == ["5"] * 4
    grid = summaries.rounds([calm], tables.rounds)
    assert _column(grid, "trials") == ["3"] * 4
    assert grid.note == "Without 2 trials that the machine disturbed."
    assert summaries.rounds([whole], tables.rounds).note == ""


def test_segments_sent_again_are_summed_over_the_trials_that_count(tables):
    calm, whole = _claim(tables, disturbed=DISTURBED), _claim(tables, disturbed=())
    by_flow = {row[1:3]: row[5] for row in summaries.retransmits([whole], tables.flows).rows}
    assert (by_flow["request", "client"], by_flow["download", "guest"]) == ("2", "10")
    grid = summaries.retransmits([calm], tables.flows)
    by_flow = {row[1:3]: row[5] for row in grid.rows}
    assert (by_flow["request", "client"], by_flow["download", "guest"]) == ("0", "6")
    assert "Without 2 trials" in grid.note


def test_pages_that_came_after_the_guest_are_told_where_there_are_any(tables):
    cell = _claim(tables, disturbed=())
    assert summaries.later_pages([cell], tables.faults) is None
    later = {"catch_up_ns": 80_000_000, "faults": 3, "pushed_bytes": 1 << 20, "demanded_bytes": 12288}
    marked = replace(cell, trials=cell.trials.assign(**later))
    faults = pd.DataFrame(
        {"trial_id": ["00-000"] * 4, "start_ns": 0, "latency_ns": [100_000, 90_000, 110_000, 2_000_000]}
    )
    (row,) = summaries.later_pages([marked], faults).rows
    assert row == ("the claim", "5", "80.00", "1.00 MiB", "12.0 KiB", "3", "0.105", "1.943", "2.000")


def test_steps_are_compared_with_the_trials_that_count(tables):
    # The blackout of repeat r is 12 + r/2 ms, and the step `last pages` 38 % of it.
    typical = tables.of_trial("00-000").steps
    calm = summaries.steps(typical, _claim(tables, disturbed=("00-003", "00-004")), tables.steps)
    at = _column(calm, "step").index("last pages")
    assert _column(calm, "median")[at] == f"{0.38 * 12.5:.3f}"
    assert _column(calm, "most")[at] == f"{0.38 * 13:.3f}"
    assert calm.note == "Over 3 trials of this setting, without 2 that the machine disturbed."
    assert summaries.steps(typical, _claim(tables, disturbed=()), tables.steps).note == "Over 5 trials of this setting."


def test_steps_of_a_setting_without_a_trial_that_counts_have_no_median(tables):
    grid = summaries.steps(tables.of_trial("00-000").steps, _claim(tables, disturbed=EVERY), tables.steps)
    assert set(_column(grid, "median")) == {"–"}
    assert "–" not in _column(grid, "this trial")


def test_the_overview_says_how_many_of_the_trials_count(tables):
    assert summaries.overview([_claim(tables, disturbed=())]).rows[0][1] == "5 completed"
    assert summaries.overview([_claim(tables, disturbed=DISTURBED)]).rows[0][1] == "5 completed, 3 counted"


def test_pictures_count_the_same_trials(tables):
    calm = _claim(tables, disturbed=DISTURBED)
    (download,) = retransmits.rows_of(calm, tables.flows, tables.retransmits)
    assert download.per_trial["rounds"] == pytest.approx(2.0)  # averaged over three trials, not five
    assert "shrinking in 3 of 3 trials" in rounds.draw([calm], tables.rounds)


def test_a_setting_without_a_trial_that_counts_says_so_in_every_picture(tables):
    every = _claim(tables, disturbed=EVERY)
    assert "every trial was disturbed" in rounds.draw([every], tables.rounds)
    assert "every trial was disturbed" in retransmits.draw([every], tables.flows, tables.retransmits)
    assert summaries.rounds([every], tables.rounds).rows == ()


def test_pages_by_encoding_are_summed_over_the_trials_that_count(tables):
    one, all_five = (
        summaries.encodings([_claim(tables, disturbed=disturbed)], tables.encodings) for disturbed in (DISTURBED, ())
    )
    assert _column(all_five, "encoding") == ["none", "zero"]
    assert _column(all_five, "share") == ["100 %", "0 %"]
    assert _column(one, "pages") != _column(all_five, "pages")


def test_a_percentile_that_the_trials_cannot_resolve_is_not_given(tables):
    few = _claim(tables, disturbed=())
    assert set(_column(summaries.downtime([few]), "p95")) == {"–"}
    many = replace(few, trials=few.trials.loc[few.trials.index.repeat(ENOUGH_REPEATS // len(few.trials))])
    assert "–" not in _column(summaries.downtime([many]), "p95")
