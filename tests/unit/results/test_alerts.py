from __future__ import annotations

from dataclasses import replace

import pytest

from unnoticed.results import alerts, schema
from unnoticed.results.alerts import Severity
from unnoticed.results.cells import cells


@pytest.fixture(scope="module")
def tables(synthetic_folder):
    return synthetic_folder.load()


def _find(run, tables):
    return alerts.find(run, tables, cells(tables.trials, run.cases))


def _changed(tables, trial_id, **values):
    trials = tables.trials.copy()
    for column, value in values.items():
        trials.loc[trials["trial_id"] == trial_id, column] = value
    return replace(tables, trials=schema.validate("trials", trials))


def test_a_clean_run_of_few_repeats_has_that_one_warning(synthetic, tables):
    (alert,) = _find(synthetic.run(), tables)
    assert alert.severity is Severity.WARNING
    assert "Only 5 trials of a setting" in alert.headline


def test_a_setting_with_a_single_trial_is_said_to_have_no_interval(synthetic, tables):
    once = tables.trials[tables.trials["repeat"] == 0]
    run = replace(synthetic.run(), planned=tuple(once["trial_id"]))
    (alert,) = _find(run, replace(tables, trials=once))
    assert alert.headline.startswith("Only 1 trial of a setting: no interval can be given for it. Run at least 20")


@pytest.mark.parametrize(
    ("disturbed", "said"),
    [
        (("00-001", "00-003"), "Only 3 trials of a setting: intervals are narrower than they should be."),
        (tuple(f"00-{repeat:03}" for repeat in range(5)), "No trial of “"),
    ],
)
def test_trials_that_do_not_count_are_no_repeats(synthetic, tables, disturbed, said):
    trials = tables.trials.assign(disturbed=tables.trials["trial_id"].isin(disturbed))
    headlines = [alert.headline for alert in _find(synthetic.run(), replace(tables, trials=trials))]
    assert any(headline.startswith(said) for headline in headlines)


@pytest.mark.parametrize(
    ("values", "headline", "detail"),
    [
        ({"outcome": "failed", "reason": "the peer went away"}, "1 trial failed.", "the peer went away"),
        ({"outcome": "gave-up"}, "1 trial did not end as the plan expects.", "gave-up, completed was expected"),
        ({"integrity": False}, "In 1 trial data was lost, repeated or changed.", "RAM"),
        ({"integrity": None}, "In 1 trial integrity could not be checked.", "00-001"),
        ({"resets": 2}, "In 1 trial connections were reset.", "00-001"),
        ({"captures_complete": False}, "In 1 trial a capture is incomplete: frames are missing.", "00-001"),
        ({"captures_complete": None}, "In 1 trial captures could not be checked.", "00-001"),
        ({"kernel_agrees": False}, "In 1 trial the kernel counted other retransmissions than we did.", "00-001"),
    ],
)
def test_what_went_wrong_in_a_trial_is_a_failure_that_names_it(synthetic, tables, values, headline, detail):
    first, *_ = _find(synthetic.run(), _changed(tables, "00-001", **values))
    assert first.severity is Severity.FAILURE
    assert first.headline == headline
    assert "00-001" in first.details[0]
    assert detail in first.details[0]


def test_disturbed_trials_and_notes_are_warnings(synthetic, tables):
    found = _find(synthetic.run(), _changed(tables, "00-001", disturbed=True, host_stall_ns=27_000_000, notes="odd"))
    assert {alert.severity for alert in found} == {Severity.WARNING}
    details = [line for alert in found for line in alert.details]
    assert "00-001: 27.0 ms" in details
    assert "00-001 (the claim): odd" in details


def test_planned_trials_without_a_record_are_a_failure(synthetic, tables):
    run = replace(synthetic.run(), planned=(*synthetic.run().planned, "04-000"))
    first, *_ = _find(run, tables)
    assert "1 of 21 planned trials have no record" in first.headline
    assert first.details == ("04-000",)


def test_a_flow_on_which_the_kernel_disagrees_is_named_with_both_counts(synthetic, tables):
    changed = _changed(tables, "00-001", kernel_agrees=False)
    flows = changed.flows.copy()
    chosen = (flows["trial_id"] == "00-001") & (flows["workload"] == "upload") & (flows["sender"] == "client")
    flows.loc[chosen & (flows["client"] == "c2"), "kernel_retransmits"] = 4
    first, *_ = _find(synthetic.run(), replace(changed, flows=flows))
    assert first.details == ("00-001, upload of c2, sent by the client: 0 in the capture, 4 counted by the kernel",)


def test_every_waterfall_of_the_synthetic_run_sums_to_its_outage_and_a_wrong_one_is_found(synthetic, tables):
    assert (alerts.waterfall_errors(tables)["error_ns"] == 0).all()
    waterfall = tables.waterfall.copy()
    last = waterfall[(waterfall["trial_id"] == "00-001") & (waterfall["client"] == "c1")].index[-1]
    waterfall.loc[last, "end_ns"] += 1_000_001
    first, *_ = _find(synthetic.run(), replace(tables, waterfall=waterfall))
    assert first.headline == "In 1 trial the waterfall does not sum to the perceived downtime."
    assert first.details == ("00-001, c1: off by 1.00 ms",)


def test_a_gap_in_a_waterfall_is_found_although_the_parts_sum(synthetic, tables):
    waterfall = tables.waterfall.copy()
    third = waterfall[(waterfall["trial_id"] == "00-001") & (waterfall["client"] == "c1")].index[3]
    waterfall.loc[third, ["start_ns", "end_ns"]] += 10
    first, *_ = _find(synthetic.run(), replace(tables, waterfall=waterfall))
    assert first.headline == "In 1 trial the parts of the waterfall do not follow one another."
    assert first.details == ("00-001, c1: dump connections", "00-001, c1: close gate")


def test_what_this_machine_cannot_tell_from_none_is_said(synthetic, tables):
    changed = _changed(tables, "00-001", perceived_ns=1_200_000)
    found = alerts.find(synthetic.run(), changed, cells(tables.trials, synthetic.run().cases), resolution_ns=1_300_000)
    (alert,) = [alert for alert in found if "could not tell" in alert.headline]
    assert alert.severity is Severity.WARNING
    assert alert.details == ("00-001: 1.20 ms",)
    assert not [alert for alert in _find(synthetic.run(), changed) if "could not tell" in alert.headline]


def test_what_an_expected_loss_takes_with_it_is_no_failure(synthetic, tables):
    lost = {"outcome": "lost", "expected": "lost", "integrity": False, "resets": 12, "kernel_agrees": False}
    found = _find(synthetic.run(), _changed(tables, "00-001", **lost, reason="the source is gone"))
    assert not [alert.headline for alert in found if alert.severity is Severity.FAILURE]
    (said,) = [alert for alert in found if "the guest was lost" in alert.headline]
    assert said.details[0].endswith(": the source is gone")
    unexpected = _find(synthetic.run(), _changed(tables, "00-001", **{**lost, "expected": "completed"}))
    assert [alert.headline for alert in unexpected if alert.severity is Severity.FAILURE] == [
        "1 trial did not end as the plan expects."
    ]
