"""`unnoticed audit` on a run of the fake bench, whose truth is known."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from unnoticed.errors import RecordError
from unnoticed.experiments import cli
from unnoticed.experiments.analysis.audit import audit_trial
from unnoticed.results.plots import audit as plot

GOLDEN = Path(__file__).parents[2] / "golden/tools"
MS = 1_000_000
PUBLISHED = {"ping, 1 s", "tempest", "xenrt", "yardstick", "mig_mon, longest gap", "mig_mon, spike log"}


def call(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def methods(audit):
    return {entry.name: entry for entry in audit.entries}


def test_the_outage_of_the_audit_is_that_of_the_trial_and_holds_the_truth(records):
    made = records()
    audit = audit_trial(made.trial, made.raw())
    start, end = made.truth["probe_cut"]
    assert audit.truth.low_ns <= end - start <= audit.truth.high_ns
    assert audit.client == "c1"
    assert methods(audit)["blackout"].figures_ns == (made.truth["blackout_ns"],)


def test_every_method_has_a_figure_on_one_trial(records):
    made = records()
    found = methods(audit_trial(made.trial, made.raw()))
    assert set(found) >= PUBLISHED | {"blackout", "fping, 10 ms", "iperf3 -u, 1 kHz", "longest request"}
    assert all(len(found[name].figures_ns) == 100 for name in PUBLISHED)
    start, end = made.truth["probe_cut"]
    assert found["iperf3 -u, 1 kHz"].typical_ns == pytest.approx(end - start, abs=2 * MS)


def test_the_client_can_be_chosen_and_is_the_worst_one_by_default(records):
    made = records("clients.count=2")
    assert audit_trial(made.trial, made.raw(), client="c2").client == "c2"


def test_what_the_bench_let_through_after_the_cool_down_is_no_answer(records):
    made = records(case="silent")
    start, end = made.truth["probe_cut"]
    middle = (start + end) // 2

    def change(event):
        is_it = event["event"] == "phase" and event["phase"] == "quiesce"
        return {**event, "time_ns": middle} if is_it else event

    made.change(change)
    audit = audit_trial(made.trial, made.raw())
    assert audit.truth.is_open
    assert not (audit.answered_ns >= middle).any()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, small_plan_text):
    folder = tmp_path_factory.mktemp("audited")
    (folder / "small.toml").write_text(small_plan_text)
    result = call("run", folder / "small.toml", "--bench", "fake", "--out", folder / "run", "--repeats", 1)
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_the_command_shows_every_method_of_a_typical_trial_and_leaves_a_page(run_folder):
    result = call("audit", run_folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Trial 000")
    assert "announced" in result.stdout.splitlines()[0]
    for name in (*PUBLISHED, "blackout", "longest request"):
        assert f"\n  {name} " in result.stdout
    assert "QEMU's own downtime is not here" in result.stdout
    assert f"Picture: {run_folder / 'audit.html'}" in result.stdout
    assert (run_folder / "audit.html").read_text().count("<svg") == 1


def test_where_the_page_cannot_be_written_the_table_is_there_and_one_sentence(run_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    (folder / "audit.html").unlink(missing_ok=True)
    (folder / "audit.html").mkdir()
    result = call("audit", folder)
    assert result.exit_code == 1
    assert "audit.html cannot be written: Is a directory." in result.stderr
    assert "was without answers for" in result.stdout
    assert not list(folder.glob("*.partial"))
    assert json.loads(call("audit", folder, "--json").stdout)["page"] is None


def test_in_json_it_is_one_document_with_figures_and_errors(run_folder):
    result = call("audit", run_folder, "--all", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [audit["case"] for audit in answer["audits"]] in (["announced", "silent"], ["silent", "announced"])
    for audit in answer["audits"]:
        for method in audit["methods"]:
            if method["reported_ns"] is not None:
                assert method["error_ns"] == method["reported_ns"] - audit["outage_ns"]
    assert answer["page"] == str(run_folder / "audit.html")


def test_a_trial_can_be_named_and_one_that_is_not_there_is_refused_with_those_that_are(run_folder):
    names = sorted(path.name for path in (run_folder / "trials").iterdir())
    assert f"Trial {names[1]}" in call("audit", run_folder, "--trial", names[1]).stdout
    result = call("audit", run_folder, "--trial", "0009-it")
    assert result.exit_code == 2
    assert names[0] in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--client", "c9"), "there are: c1."),
        (("--all", "--trial", "0001-it"), "give only one"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(run_folder, arguments, said):
    result = call("audit", run_folder, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.fixture
def tooled(records):
    """A trial with three tools at its first client, and what they printed."""
    made = records("clients.tools=fping+sockperf+iperf3", "clients.count=2", "phases.warm_up=3 s")
    for name in ("fping", "sockperf", "iperf3"):
        shutil.copy(GOLDEN / f"{name}.txt", made.folder / f"c1-{name}.out")
    return made


def test_what_tools_printed_stands_beside_what_was_computed(tooled):
    audit = audit_trial(tooled.trial, tooled.raw())
    found = {entry.name: entry.figures_ns for entry in audit.entries if entry.group == "tool"}
    assert found == {"fping, run": (40 * MS,), "sockperf, run": (4_139_532,), "iperf3, run": (8 * MS,)}
    assert {"fping, 10 ms", "sockperf, 1 kHz", "iperf3 -u, 1 kHz"} <= set(methods(audit))
    said = " ".join(audit.absent)
    assert "Not run beside our probes: redis-benchmark, wrk (clients.tools of the plan)." in said
    assert "their own traffic is part of the trial" in said


def test_tools_ran_at_the_first_client_which_is_the_one_that_is_shown_then(tooled):
    assert audit_trial(tooled.trial, tooled.raw()).client == "c1"
    other = audit_trial(tooled.trial, tooled.raw(), client="c2")
    assert not [entry for entry in other.entries if entry.group == "tool"]


def test_a_tool_that_printed_no_figure_reports_nothing(tooled):
    (tooled.folder / "c1-fping.out").write_text("10.77.0.100: No route to host")
    (entry,) = [entry for entry in audit_trial(tooled.trial, tooled.raw()).entries if entry.name == "fping, run"]
    assert entry.spread == "no figure"


def test_the_output_of_a_tool_that_is_missing_is_an_incomplete_record(tooled):
    (tooled.folder / "c1-fping.out").unlink()
    with pytest.raises(RecordError, match=r"c1-fping\.out cannot be read"):
        audit_trial(tooled.trial, tooled.raw())


def test_without_tools_those_that_can_be_run_are_named(records):
    made = records()
    said = " ".join(audit_trial(made.trial, made.raw()).absent)
    assert (
        "Not run beside our probes: fping, redis-benchmark, wrk, sockperf, iperf3 (clients.tools of the plan)." in said
    )
    assert "part of the trial" not in said


def test_a_migration_that_gave_up_is_audited_too_and_drawn(records):
    made = records("guest.memory=256 MiB", "guest.working_set=100 MiB", "guest.dirty_rate=300 MiB/s")
    audit = audit_trial(made.trial, made.raw())
    assert "blackout" not in methods(audit)
    assert methods(audit)["mig_mon, longest gap"].typical_ns >= 50 * MS
    assert audit.truth.low_ns == 0
    assert "<svg" in plot.draw(audit)
