import json
import os
import subprocess
import sys
import types

import pandas as pd
import pytest
from click.testing import CliRunner

from unnoticed.errors import FabricError, MachineError
from unnoticed.experiments import cli
from unnoticed.experiments.fake import bench as fake


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Call the command line in an empty folder, with a stand-in for analysis and report."""

    def analyse(trial, folder):
        truth = json.loads((folder / "truth.json").read_text())
        resets = sum(flow["reset"] for flow in truth["flows"].values())
        return {
            "trials": pd.DataFrame(
                [{"outcome": truth["outcome"], "blackout_ns": truth["blackout_ns"], "resets": resets}]
            )
        }

    def write_report(folder):
        (folder / "report.html").write_text("a report")
        return folder / "report.html"

    for name, content in (
        ("unnoticed.experiments.analysis.trial", {"analyse": analyse}),
        ("unnoticed.results.report", {"write_report": write_report}),
    ):
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    return invoke


def test_help_names_every_command(call):
    result = call("--help")
    assert result.exit_code == 0
    for command in ("doctor", "list", "run", "report", "compare", "audit", "analyse", "clean"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", ["doctor", "list", "run", "report", "compare", "audit", "analyse", "clean"])
def test_every_command_has_help_and_json(call, command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_help_loads_nothing_heavy():
    code = "import sys; from unnoticed.experiments import cli; print([name for name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("pandas", "numpy", "pydantic", "matplotlib", "scapy", "rich", "unnoticed.results.store"):
        assert f"'{heavy}'" not in loaded


def test_an_unknown_command_is_answered_with_the_nearest(call):
    result = call("rnu")
    assert result.exit_code == 2
    assert 'there is no command "rnu"; did you mean "run"?' in result.stderr


def test_a_plan_with_five_mistakes_prints_five_lines_and_exits_2(call, tmp_path):
    plan = tmp_path / "bad.toml"
    plan.write_text('repeats = 0\n[guest]\nmemroy = 1\nmemory = "5M"\n[clients]\ncount = "2"\n')
    result = call("run", plan)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{plan}:1: question: is missing; every plan must have it.",
        f"{plan}:1: repeats: 0 is out of range: it must be at least 1.",
        f'{plan}:3: guest.memroy: there is no key "memroy" here; did you mean "memory"?',
        f'{plan}:4: guest.memory: "M" in "5M" is not a unit here; write "5 MiB".',
        f'{plan}:6: clients.count: "2" is not a whole number (write it without quotes).',
    ]


def test_run_without_root_exits_77_and_says_why(call, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = call("run", "demo")
    assert result.exit_code == 77
    assert result.stderr.startswith("Running an experiment needs root: it makes network namespaces")
    assert "sudo unnoticed run demo" in result.stderr


def test_clean_without_root_exits_77(call, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert call("clean").exit_code == 77


def test_list_shows_the_stock_experiments(call):
    result = call("list")
    assert result.exit_code == 0
    assert "claim: Does anybody notice a live migration at 1 Gbit/s?" in result.stdout
    names = [row["name"] for row in json.loads(call("list", "--json").stdout)]
    assert names == ["claim", "demo"]


def test_a_run_answers_with_its_verdicts_and_where_the_report_is(call, small_plan_file, tmp_path):
    result = call("run", small_plan_file, "--bench", "fake", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "4 of 4 trials ended as the plan expects." in result.stdout
    assert "[holds] Nobody is reset." in result.stdout
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in result.stdout
    assert "Trial 4 of 4" in result.stderr
    assert json.loads((tmp_path / "out" / "environment.json").read_text())


def test_a_run_in_json_is_one_document_on_stdout(call, small_plan_file):
    result = call("run", small_plan_file, "--bench", "fake", "--json", "--repeats", 1)
    answer = json.loads(result.stdout)
    assert answer["planned"] == answer["recorded"] == 2
    assert answer["clauses"][0]["finding"] == "holds"
    assert answer["budgets"][0]["at_most"] == 1_000_000_000
    assert answer["folder"].startswith("results/runs/")


def test_a_missed_budget_exits_1(call, small_plan_file):
    small_plan_file.write_text(small_plan_file.read_text().replace('at_most = "1 s"', 'at_most = "1 us"'))
    result = call("run", small_plan_file, "--bench", "fake", "--repeats", 1)
    assert result.exit_code == 1
    assert "Budgets:\n  [fails]" in result.stdout


def test_an_interrupted_run_exits_130_and_can_be_resumed(call, small_plan_file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fake.FakeBench, "perform", _interrupt_at(2, fake.FakeBench.perform))
        result = call("run", small_plan_file, "--bench", "fake")
    assert result.exit_code == 130
    assert "Interrupted: 1 of 4 trials are done; --resume goes on after them." in result.stdout
    result = call("run", small_plan_file, "--bench", "fake", "--resume")
    assert result.exit_code == 0, result.stderr
    assert "4 of 4 trials" in result.stdout
    assert "Going on after 1 of 4 trials." in result.stderr


def _interrupt_at(number, perform):
    def interrupted(self, trial, folder, progress):
        if trial.number == number:
            raise KeyboardInterrupt
        perform(self, trial, folder, progress)

    return interrupted


def test_the_report_of_a_run_can_be_made_again(call, small_plan_file, tmp_path):
    call("run", small_plan_file, "--bench", "fake", "--out", tmp_path / "out", "--repeats", 1)
    (tmp_path / "out" / "report.html").unlink()
    result = call("report", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'out' / 'report.html'}\n"
    assert (tmp_path / "out" / "report.html").exists()


def two_runs(call, plan, tmp_path):
    folders = [tmp_path / name for name in ("before", "after")]
    for folder in folders:
        assert call("run", plan, "--bench", "fake", "--out", folder, "--repeats", 2).exit_code == 0
    return folders


def test_two_runs_are_compared_side_by_side(call, small_plan_file, tmp_path):
    result = call("compare", *two_runs(call, small_plan_file, tmp_path))
    assert result.exit_code == 0, result.stderr
    heads = next(line for line in result.stdout.splitlines() if line.startswith("setting"))
    assert "before" in heads
    assert "after" in heads
    assert any(line.startswith("announced") and "blackout" in line for line in result.stdout.splitlines())
    assert not result.stdout.endswith("\n\n")


def test_runs_with_nothing_in_common_are_refused_in_one_sentence(call, small_plan_file, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    assert call("run", small_plan_file, "--bench", "fake", "--out", before, "--repeats", 1).exit_code == 0
    small_plan_file.write_text(
        small_plan_file.read_text().replace('"announced"', '"said"').replace('"silent"', '"mute"')
    )
    assert call("run", small_plan_file, "--bench", "fake", "--out", after, "--repeats", 1).exit_code == 0
    result = call("compare", before, after)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        (
            "The two runs have no setting in common, so that nothing can be compared: before has announced and silent; "
            "after has said and mute."
        )
    ]


def test_a_comparison_in_json_is_one_document(call, small_plan_file, tmp_path):
    result = call("compare", *two_runs(call, small_plan_file, tmp_path), "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["first"], answer["second"]) == ("before", "after")
    rows = {(row["setting"], row["metric"]): row for row in answer["rows"]}
    blackout = rows["announced", "blackout_ns"]
    assert blackout["first"] == blackout["second"] > 0  # the same plan and seed
    assert blackout["difference"] == 0


@pytest.mark.parametrize("command", [("report",), ("compare", "."), ("audit",)])
def test_a_folder_that_is_no_run_exits_2(call, command):
    result = call(*command, "nowhere")
    assert result.exit_code == 2
    assert "run" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(MachineError("m"), 77), (FabricError("f"), 1), (KeyboardInterrupt(), 130)]
)
def test_each_family_of_errors_has_its_exit_code(call, monkeypatch, error, code):
    from unnoticed.experiments.commands import list as list_command

    def fail():
        raise error

    monkeypatch.setattr(list_command, "stock_plans", fail)
    assert call("list").exit_code == code


def test_doctor_exits_77_naming_what_is_missing_and_how_to_get_it(call, monkeypatch):
    from unnoticed.experiments.commands import doctor as doctor_command
    from unnoticed.experiments.doctor.capabilities import Found

    def find(capability):
        works = capability.name != "mnexec"
        return Found(capability=capability, works=works, detail="fine" if works else "mnexec is not installed")

    monkeypatch.setattr(doctor_command, "find", find)
    monkeypatch.setattr("os.geteuid", lambda: 0)  # anybody else is told to be root, and no more
    result = call("doctor", "--seconds", "0.01")
    assert result.exit_code == 77
    assert "NO   mnexec" in result.stdout
    assert "mnexec: mnexec is not installed; apt-get install --no-install-recommends mininet." in result.stderr
    answer = json.loads(call("doctor", "--seconds", "0.01", "--json").stdout)
    assert answer["able"] is False
    assert answer["machine_noise"]["samples"] == 10


def test_doctor_is_content_without_what_is_optional(call, monkeypatch):
    from unnoticed.experiments.commands import doctor as doctor_command
    from unnoticed.experiments.doctor.capabilities import Found

    def find(capability):
        return Found(capability=capability, works=capability.required, detail="tried")

    monkeypatch.setattr(doctor_command, "find", find)
    monkeypatch.setattr("os.geteuid", lambda: 0)  # anybody else is told to be root, and no more
    result = call("doctor", "--seconds", "0.01")
    assert result.exit_code == 0
    assert "without it: a process of ours keeps the delay of links, up to 1 Gbit/s" in result.stdout


def test_python_dash_m_unnoticed_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "unnoticed", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("unnoticed, version")


def test_a_plan_whose_tool_is_not_installed_exits_77_with_the_package(call, small_plan_file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: None if name == "redis-benchmark" else f"/usr/bin/{name}")
    result = call("run", small_plan_file, "--set", "clients.tools=fping+redis-benchmark")
    assert result.exit_code == 77
    assert "redis-benchmark is not installed; apt-get install --no-install-recommends redis-tools" in result.stderr
