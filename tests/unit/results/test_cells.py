from __future__ import annotations

import pandas as pd

from unnoticed.results.cells import cells


def _trials(rows):
    frame = pd.DataFrame(rows)
    return frame.assign(trial_id=[f"t{n}" for n in range(len(frame))], expected="completed", disturbed=False)


def test_cases_keep_the_order_of_the_plan_and_what_only_tells_cases_apart_is_no_setting(synthetic):
    found = cells(synthetic.trials(), synthetic.run().cases)
    assert [cell.label for cell in found] == list(synthetic.run().cases)
    assert all(cell.settings == () and len(cell.trials) == 5 for cell in found)


def test_factors_that_vary_within_a_case_make_settings_in_the_order_of_their_size():
    rates = ["150 MiB/s", "0 MiB/s", "20 MiB/s", "1 GiB/s", "512 KiB/s"]
    found = cells(_trials([{"case": "", "guest.dirty_rate": rate} for rate in rates * 2]))
    assert [cell.label for cell in found] == [
        "dirty rate 0 MiB/s",
        "dirty rate 512 KiB/s",
        "dirty rate 20 MiB/s",
        "dirty rate 150 MiB/s",
        "dirty rate 1 GiB/s",
    ]
    assert all(len(cell.trials) == 2 for cell in found)


def test_milliseconds_come_before_seconds_and_numbers_before_words():
    values = ["1 s", "auto", "20 ms", "100 µs"]
    found = cells(_trials([{"case": "", "link.delay": value} for value in values]))
    assert [cell.settings[0][1] for cell in found] == ["100 µs", "20 ms", "1 s", "auto"]


def test_a_run_without_cases_and_factors_is_one_cell():
    (cell,) = cells(_trials([{"case": ""}, {"case": ""}]))
    assert cell.label == "all trials"
    assert cell.rows_of(pd.DataFrame({"trial_id": ["t0", "other"]}))["trial_id"].tolist() == ["t0"]


def test_the_rows_of_trials_that_the_machine_disturbed_are_not_among_those_of_their_cell():
    (cell,) = cells(_trials([{"case": ""}] * 3).assign(disturbed=[False, True, pd.NA]))
    assert cell.rows_of(pd.DataFrame({"trial_id": ["t0", "t1", "t2"]}))["trial_id"].tolist() == ["t0", "t2"]
    assert (len(cell.trials), len(cell.counted), cell.left_out) == (3, 2, 1)
