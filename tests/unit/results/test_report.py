from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import jinja2
import pandas as pd
import pytest

from unnoticed.errors import RecordError
from unnoticed.results import schema
from unnoticed.results.quantities import unbroken
from unnoticed.results.report import Report, environment_of_templates, typical_trial, write_report
from unnoticed.results.run import Run
from unnoticed.results.store import RunFolder


@pytest.fixture(scope="module")
def page(synthetic_folder):
    return write_report(synthetic_folder.path).read_text(encoding="utf-8")


def _plain(page):
    """The text of a page, with its tags and line breaks away."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page))).replace("\u00a0", " ")


class _Balance(HTMLParser):
    """Checks that every element is closed in order."""

    empty = frozenset({"meta", "br", "hr", "img", "link", "path", "use"})

    def __init__(self):
        super().__init__()
        self.open = []
        self.ids = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.empty:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.empty:
            assert self.open.pop() == tag


def test_the_question_comes_first_and_every_clause_has_its_verdict_in_words(page, synthetic):
    text = _plain(page)
    run = synthetic.run()
    assert text.index(run.question) < text.index("Verdicts") < text.index("One migration, from start to end")
    for clause in run.clauses:
        assert clause.text in text
    assert "3 of 5 clauses hold (1 cannot be evaluated); 3 of 3 counter-cases hold; 1 of 1 budget is kept." in text
    assert text.count("✓ holds") == 6
    assert text.count("✗ fails") == 1
    assert text.count("? unknown") == 1
    assert text.count("✓ kept") == 1


def test_the_sections_stand_in_their_order(page):
    ids = ["verdicts", "how", "timeline", "waterfall", "distribution", "rounds", "retransmits", "numbers", "alerts"]
    places = [page.index(f'<section id="{name}">') for name in [*ids, "environment", "plan"]]
    assert places == sorted(places)


def test_the_page_needs_no_network_and_no_script(page):
    assert set(re.findall(r"https?://[^\s\"'<)]*", page)) == {"http://www.w3.org/2000/svg"}
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert "src=" not in page


def test_the_page_is_balanced_and_no_id_is_used_twice(page):
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert len(balance.ids) == len(set(balance.ids))


def test_the_same_run_always_gives_the_same_page(small, tmp_path):
    folder = small.write(tmp_path / "same")
    first = write_report(folder.path).read_text(encoding="utf-8")
    assert write_report(folder.path).read_text(encoding="utf-8") == first


def test_the_report_quotes_the_calibration_of_its_machine(synthetic_folder, monkeypatch):
    assert "it was not calibrated" in Report(synthetic_folder).accuracy
    quoted = {"taken_utc": "2026-01-02T03:04:05+00:00", "error_ns": 620_000, "resolution_ns": 1_030_000}
    monkeypatch.setattr(type(synthetic_folder), "environment", lambda _: {"calibration": quoted})
    said = Report(synthetic_folder).accuracy
    assert "2026-01-02" in said
    assert "620 µs" in said
    assert "1.03 ms" in said


def test_the_page_carries_the_plan_the_environment_and_every_trial(page, synthetic):
    text = _plain(page)
    assert 'working_set = "48 MiB"' in text
    assert "kernel.release 6.12.0" in text
    assert "tools.iperf3 unknown" in text
    for trial_id in synthetic.run().planned:
        assert f"<b>{trial_id}</b>" in page


def test_an_undefined_name_in_a_template_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        environment_of_templates().from_string("{{ report.colour }}").render(report=object())


def test_steps_and_estimators_explain_themselves_where_they_stand(page):
    assert re.search(r'<td class="t" title="A: the guest is told to stop[^"]*">pause</td>', page)
    assert re.search(r'<td class="t" title="The longest outage, by when[^"]*">time-stamp</td>', page)
    text = _plain(page)
    assert "This is the one quoted as perceived downtime." in text
    assert "It can be a little shorter" in text


def test_failures_are_said_at_the_top_and_again_with_the_trial(small, tmp_path):
    failed = {"outcome": "failed", "reason": "the <destination> went away", "blackout_ns": None, "perceived_ns": None}
    folder = small.write(tmp_path / "run", changed={"00-001": failed, "01-000": {"integrity": False}})
    page = write_report(folder.path).read_text(encoding="utf-8")
    text = _plain(page)
    assert text.index("Something went wrong in this run") < text.index("Verdicts")
    assert text.index("1 trial failed.") < text.index("Verdicts")
    assert "00-001 (the claim): the <destination> went away" in text
    assert "the &lt;destination&gt; went away" in page


def test_a_run_in_which_no_guest_was_moved_still_has_a_report(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_run(Run(name="hopeless"))
    folder.write_plan("")
    folder.write_environment({})
    folder.write_trial("03-000", {"trials": small.trial("dirty rate above the link", 0)["trials"]})
    text = _plain(write_report(folder.path).read_text(encoding="utf-8"))
    assert "There is none to show" in text
    assert "The plan puts nothing to the test" in text


def test_an_interrupted_run_has_a_report_that_says_so(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_run(small.run())
    folder.write_plan("")
    folder.write_environment({})
    folder.write_trial("00-001", small.trial("the claim", 1))
    text = _plain(write_report(folder.path).read_text(encoding="utf-8"))
    assert "7 of 8 planned trials have no record" in text


def test_a_damaged_run_has_no_report_but_an_error(small, tmp_path):
    folder = small.write(tmp_path / "run")
    (folder.path / "waterfall.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecordError, match=r"waterfall\.parquet is damaged"):
        write_report(folder.path)
    assert not (folder.path / "report.html").exists()


def test_the_typical_trial_is_an_undisturbed_one_of_median_blackout(synthetic):
    trials = schema.validate("trials", synthetic.trials())
    claim = trials[trials["case"] == "the claim"]
    assert typical_trial(claim) == "00-002"
    assert typical_trial(claim.assign(disturbed=[False, False, True, True, False])) == "00-001"
    assert typical_trial(claim.assign(disturbed=True)) == "00-002"
    assert typical_trial(trials[trials["outcome"] == "gave-up"]) is None


def test_quiet_connections_are_left_out_of_the_page_but_not_those_with_a_retransmission(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_run(small.run())
    tables = small.trial("the claim", 0)
    noisy = (tables["flows"]["workload"] == "connect") & (tables["flows"]["sender"] == "guest")
    tables["flows"].loc[noisy, ["retransmits", "kernel_retransmits"]] = 1
    folder.write_trial("00-000", tables)
    ((_, _, grids),) = Report(folder).trials
    flows = next(grid for grid in grids if grid.caption == "flows")
    kinds = [(row[1], row[3]) for row in flows.rows]
    assert kinds.count(("connect", "guest")) == 1
    assert ("connect", "client") not in kinds
    assert kinds.count(("request", "client")) == 1


@pytest.mark.parametrize(
    ("repeats", "said"),
    [([0], "each was tried once"), ([0, 1, 2], "each was tried 3 times"), ("uneven", "each was tried 1 to 5 times")],
)
def test_the_report_says_how_often_each_setting_was_tried(synthetic_folder, repeats, said):
    report = Report(synthetic_folder)
    trials = report.tables.trials
    uneven = (trials["repeat"] == 0) | (trials["case"] == "the claim")
    kept = uneven if repeats == "uneven" else trials["repeat"].isin(repeats)
    report.tables = replace(report.tables, trials=trials[kept])
    assert report.tried == said
    other = next(example for example in report.examples if example.cell.case != "the claim")
    assert other.words == ("a typical one" if said.endswith("tried 3 times") else "the only one")


def test_of_a_setting_with_one_trial_that_counts_that_one_is_shown_and_said_to_be_it(synthetic_folder):
    report = Report(synthetic_folder)
    others = [f"00-{repeat:03}" for repeat in range(4)]
    trials = report.tables.trials
    report.tables = replace(report.tables, trials=trials.assign(disturbed=trials["trial_id"].isin(others)))
    assert report.example.trial_id == "00-004"
    assert report.example.words == "the only one that counts"


def test_numbers_do_not_part_from_their_units():
    assert unbroken("at most 40.0 ms over 5 trials (95 % interval)") == (
        "at most 40.0\u00a0ms over 5\u00a0trials (95\u00a0% interval)"
    )
    assert unbroken("2 sorts") == "2 sorts"


def test_missing_flags_do_not_become_words(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_run(small.run())
    tables = small.trial("the claim", 0)
    tables["trials"] = tables["trials"].assign(kernel_agrees=pd.array([pd.NA], dtype="boolean"))
    folder.write_trial("00-000", tables)
    report = Report(folder)
    place = [head.title for head in report.every_trial.heads].index("kernel_agrees")
    assert report.every_trial.rows[0][place] == "–"
    assert report.overview.rows[0][-1] == "–"
