from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from unnoticed.results import schema
from unnoticed.results.run import Clause
from unnoticed.results.verdicts import Finding, judge, judge_all

MS = 1_000_000
BLACKOUT = Clause(metric="blackout_ns", statistic="max", bound="at_most", value=14 * MS, where={"case": "the claim"})


@pytest.fixture
def trials(synthetic):
    return schema.validate("trials", synthetic.trials())


def _with(trials, trial_id, **values):
    changed = trials.copy()
    for column, value in values.items():
        changed.loc[changed["trial_id"] == trial_id, column] = value
    return changed


def test_the_clauses_of_the_synthetic_run_come_out_as_its_figures_say(synthetic, trials):
    findings = [verdict.finding for verdict in judge_all(synthetic.run().clauses, trials)]
    holds, fails, unknown = Finding.HOLDS, Finding.FAILS, Finding.UNKNOWN
    assert findings == [holds, holds, holds, fails, unknown, holds, holds, holds]


def test_the_bound_itself_is_allowed(trials):
    assert judge(BLACKOUT, trials).finding is Finding.HOLDS
    assert judge(replace(BLACKOUT, value=14 * MS - 1), trials).finding is Finding.FAILS
    assert judge(replace(BLACKOUT, statistic="min", bound="at_least", value=12 * MS), trials).finding is Finding.HOLDS
    assert judge(replace(BLACKOUT, statistic="median", bound="equals", value=13 * MS), trials).finding is Finding.HOLDS


def test_the_sentence_gives_the_figure_the_interval_the_trials_and_the_bound(trials):
    sentence = judge(replace(BLACKOUT, statistic="median"), trials).sentence
    assert sentence.startswith(
        "Median blackout in case “the claim”: 13.0 ms (95 % interval 12.0 ms to 14.0 ms, 5 trials)"
    )
    assert "at most 14.0 ms was asked" in sentence
    assert "too narrow" in sentence


@pytest.mark.parametrize(
    ("clause", "why"),
    [
        (replace(BLACKOUT, metric="disk_moved"), "no column of the trials is called disk_moved"),
        (replace(BLACKOUT, metric="outcome"), "no column"),
        (replace(BLACKOUT, where={"guest.colour": "red"}), "no factor called guest.colour"),
        (replace(BLACKOUT, where={"case": "nowhere"}), "no trial was run in case “nowhere”"),
        (replace(BLACKOUT, statistic="share"), "not a yes or no"),
        (replace(BLACKOUT, where={"case": "dirty rate above the link"}), "none has a value"),
    ],
)
def test_what_cannot_be_evaluated_never_holds_and_says_why(trials, clause, why):
    for bound in ("at_most", "at_least", "equals"):
        verdict = judge(replace(clause, bound=bound, value=0), trials)
        assert verdict.finding is Finding.UNKNOWN
        assert why in verdict.sentence


def test_a_metric_missing_in_every_trial_cannot_be_evaluated(trials):
    verdict = judge(BLACKOUT, trials.assign(blackout_ns=pd.Series(pd.NA, index=trials.index, dtype="Int64")))
    assert verdict.finding is Finding.UNKNOWN
    assert judge(BLACKOUT, trials.drop(columns="blackout_ns")).finding is Finding.UNKNOWN


def test_disturbed_trials_are_left_out_and_said(trials):
    disturbed = _with(trials, "00-004", disturbed=True, blackout_ns=500 * MS)
    verdict = judge(BLACKOUT, disturbed)
    assert verdict.finding is Finding.HOLDS
    assert (verdict.n, verdict.trials, verdict.disturbed) == (4, 5, 1)
    assert "1 trial disturbed by a stall of the machine was left out" in verdict.sentence


def test_a_run_of_nothing_but_disturbed_trials_cannot_be_evaluated(trials):
    verdict = judge(BLACKOUT, trials.assign(disturbed=True))
    assert verdict.finding is Finding.UNKNOWN
    assert "every one of them was disturbed" in verdict.sentence


def test_a_trial_that_failed_might_have_been_the_worst(trials):
    failed = _with(trials, "00-000", outcome="failed", blackout_ns=pd.NA)
    verdict = judge(BLACKOUT, failed)
    assert verdict.finding is Finding.UNKNOWN
    assert "1 trial that should have a value has none, so that it cannot be decided" in verdict.sentence
    assert judge(replace(BLACKOUT, value=13 * MS), failed).finding is Finding.FAILS  # already missed without it
    assert judge(replace(BLACKOUT, statistic="median"), failed).finding is Finding.HOLDS  # 13.5 or less, however bad


def test_a_failed_trial_breaks_a_perfect_share_unless_it_is_known_to_be_good(trials):
    perfect = Clause(metric="integrity", statistic="share", bound="at_least", value=1)
    assert judge(perfect, trials).finding is Finding.HOLDS
    assert judge(perfect, _with(trials, "00-000", integrity=pd.NA)).finding is Finding.UNKNOWN
    assert judge(perfect, _with(trials, "00-000", integrity=False)).finding is Finding.FAILS
    none = replace(perfect, metric="gave_up", bound="equals", value=0, where={"case": "the claim"})
    assert judge(none, trials).finding is Finding.HOLDS


def test_a_trial_that_gave_up_as_expected_needs_no_value(trials):
    everywhere = judge(replace(BLACKOUT, statistic="median", value=10**10, where={}), trials)
    assert everywhere.finding is Finding.HOLDS
    assert (everywhere.inapplicable, everywhere.unknown) == (5, 0)
    unexpected = _with(trials, "03-000", expected="completed")
    assert judge(replace(BLACKOUT, where={}, value=10**10), unexpected).finding is Finding.UNKNOWN


def test_an_interval_across_the_bound_is_said_to_settle_nothing(trials):
    close = judge(replace(BLACKOUT, statistic="median", value=13 * MS), trials)
    assert close.finding is Finding.HOLDS
    assert not close.settled
    assert "more repeats would settle it" in close.sentence
    assert judge(replace(BLACKOUT, statistic="median", value=50 * MS), trials).settled


def test_where_takes_several_values_and_any_spelling_of_a_number(trials):
    numbered = trials.assign(**{"clients.count": 2.0})
    for value in (2, 2.0, "2", [1, 2]):
        assert judge(replace(BLACKOUT, where={"clients.count": value, "case": "the claim"}), numbered).n == 5
    both = replace(BLACKOUT, where={"case": ["the claim", "no announcement"]})
    assert judge(both, trials).n == 10
    assert judge(replace(BLACKOUT, where={"migration.announce": "none"}), trials).n == 5


def test_an_outcome_can_be_judged_as_a_share(trials):
    as_expected = Clause(metric="as_expected", statistic="share", bound="at_least", value=1)
    assert judge(as_expected, trials).finding is Finding.HOLDS
    assert judge(as_expected, _with(trials, "03-001", outcome="completed")).finding is Finding.FAILS


def test_a_wait_that_was_not_over_can_fail_a_bound_from_above_but_never_keep_it(trials):
    felt = replace(BLACKOUT, metric="perceived_ns", value=10_000 * MS)
    assert judge(felt, trials).finding is Finding.HOLDS
    open_ended = _with(trials, "00-001", unfinished=True)
    verdict = judge(felt, open_ended)
    assert verdict.finding is Finding.UNKNOWN
    assert verdict.is_bound
    assert "One of these values is a lower bound: a client still waited" in verdict.sentence
    assert judge(replace(felt, value=1), open_ended).finding is Finding.FAILS
    assert judge(replace(felt, statistic="min", bound="at_least", value=1), open_ended).finding is Finding.HOLDS
    assert judge(BLACKOUT, open_ended).finding is Finding.HOLDS  # what the agents' clock says was over
