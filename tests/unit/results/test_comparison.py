from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace

import pytest

from unnoticed.errors import PlanError
from unnoticed.results.comparison import Change, compare, fisher_p, names_of
from unnoticed.results.store import RunFolder

MS = 1_000_000


@pytest.fixture(scope="module")
def slower(synthetic, tmp_path_factory):
    """The synthetic run again, every blackout of the claim 5 ms longer, on another kernel."""
    light = replace(synthetic, rate_hz=20, clients=("c1",))
    changed = {f"00-{n:03}": {"blackout_ns": 17 * MS + n * MS // 2} for n in range(5)}
    folder = light.write(tmp_path_factory.mktemp("runs") / "slower", changed=changed)
    environment = folder.environment()
    environment["kernel"]["release"] = "6.18.0"
    folder.write_environment({**environment, "taken_utc": "2027-01-01T00:00:00+00:00"})
    return folder


@pytest.fixture(scope="module")
def comparison(synthetic_folder, slower):
    return compare(synthetic_folder.path, slower.path)


def _row(comparison, setting, metric):
    return next(row for row in comparison.rows if row.setting == setting and row.metric.name == metric)


def test_a_change_is_found_with_its_size_and_interval(comparison):
    row = _row(comparison, "the claim", "blackout_ns")
    assert row.difference == 5 * MS
    assert row.low is not None
    assert 3 * MS <= row.low <= 5 * MS <= row.high <= 7 * MS
    assert row.change is Change.MORE


def test_what_did_not_change_is_not_called_a_change(comparison):
    for setting, metric in (("no announcement", "blackout_ns"), ("the claim", "perceived_ns"), ("the claim", "rounds")):
        assert _row(comparison, setting, metric).change is Change.NONE
    assert not any(row.metric.name == "blackout_ns" for row in comparison.rows if "above" in row.setting)


def test_different_environments_and_few_repeats_are_said_but_not_the_date(comparison):
    assert [(each.name, each.first, each.second) for each in comparison.environment] == [
        ("kernel.release", "6.12.0", "6.18.0")
    ]
    assert "these differ: kernel.release." in comparison.warnings[0]
    assert "As few as 5 trials" in comparison.warnings[1]


def test_settings_of_only_one_run_are_said(synthetic, synthetic_folder, tmp_path):
    folder = RunFolder(tmp_path / "half")
    folder.write_run(synthetic.run())
    folder.write_plan(synthetic_folder.plan())
    folder.write_environment({})
    folder.write_trial("00-000", replace(synthetic, rate_hz=20).trial("the claim", 0))
    found = compare(synthetic_folder.path, folder.path)
    assert found.only_first == ("no announcement", "stop-and-copy", "dirty rate above the link")
    assert found.only_second == ()
    assert any(warning.startswith("Only in synthetic: no announcement") for warning in found.warnings)
    assert _row(found, "the claim", "blackout_ns").change is Change.UNKNOWN  # one trial has no interval
    assert "Only 1 trial of a setting: no interval can be given for it; 20 repeats are enough." in found.warnings


def test_runs_are_named_by_as_much_of_their_paths_as_tells_them_apart(tmp_path):
    before, after, old = (tmp_path / name for name in ("before", "after", "old/after"))
    assert names_of(before, after) == ("before", "after")
    assert names_of(after, old) == (f"{tmp_path.name}/after", "old/after")
    assert names_of(after, after) == (str(after), str(after))
    assert names_of(tmp_path / "x" / ".." / "after", before) == ("after", "before")


def test_runs_without_a_common_setting_cannot_be_compared(synthetic, synthetic_folder, tmp_path):
    folder = RunFolder(tmp_path / "other")
    folder.write_run(synthetic.run())
    folder.write_plan(synthetic_folder.plan())
    folder.write_environment({})
    tables = replace(synthetic, rate_hz=20).trial("the claim", 0)
    folder.write_trial("00-000", tables | {"trials": tables["trials"].assign(case="another")})
    with pytest.raises(PlanError) as refusal:
        compare(synthetic_folder.path, folder.path)
    assert str(refusal.value) == (
        "The two runs have no setting in common, so that nothing can be compared: synthetic has the claim, "
        "no announcement, stop-and-copy and dirty rate above the link; other has another."
    )


def test_the_text_is_a_table_with_the_warnings_first(comparison):
    lines = comparison.to_text().splitlines()
    assert lines[0].startswith("Warning: ")
    row = next(line for line in lines if line.startswith("the claim") and " blackout " in line)
    assert re.search(r"13\.0 ms +18\.0 ms +\+5\.00 ms +.* to .* +more$", row)


def test_the_page_needs_no_network_and_shows_every_row(comparison):
    page = comparison.to_html()
    assert not re.findall(r"https?://", page)
    assert page.count("<tr") == len(comparison.rows) + 1 + len(comparison.environment) + 1


def test_the_document_is_json(comparison):
    document = json.loads(json.dumps(comparison.to_json()))
    row = next(row for row in document["rows"] if row["metric"] == "blackout_ns" and row["setting"] == "the claim")
    assert (row["first"], row["second"], row["change"]) == (13 * MS, 18 * MS, "more")


def test_fishers_test_has_its_known_values():
    assert fisher_p((3, 4), (1, 4)) == pytest.approx(0.485714, abs=1e-6)  # the lady tasting tea
    assert fisher_p((20, 20), (0, 20)) < 1e-9
    assert fisher_p((5, 5), (4, 5)) == pytest.approx(1.0)


def test_where_the_plans_differ_is_said_with_both_values(synthetic, tmp_path):
    first, second = synthetic.write(tmp_path / "one"), synthetic.write(tmp_path / "two")
    plan = tomllib.loads(first.plan())
    assert not compare(first.path, second.path).plan
    second.write_plan(first.plan() + '\n[phases]\ncool_down = "9 s"\n')
    assert "phases" not in plan
    compared = compare(first.path, second.path)
    assert [each.name for each in compared.plan] == ["phases.cool_down"]
    assert "The two plans differ in phases.cool_down: nothing in one, 9 s in two." in compared.warnings


def test_a_wait_that_was_not_over_is_compared_as_a_lower_bound(synthetic, tmp_path):
    changed = {f"00-{n:03}": {"unfinished": True} for n in range(5)}
    first, second = synthetic.write(tmp_path / "one"), synthetic.write(tmp_path / "two", changed=changed)
    text = compare(first.path, second.path).to_text()
    (line,) = [line for line in text.splitlines() if re.match(r"the claim +perceived downtime ", line)]
    assert line.count("≥") == 1
