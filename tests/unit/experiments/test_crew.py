from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unnoticed.errors import MachineError, PlanError
from unnoticed.experiments import crew as crew_module
from unnoticed.experiments.analysis.trial import analyse
from unnoticed.experiments.crew import Crew
from unnoticed.experiments.fake.bench import FakeBench
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.experiments.progress import RunProgress
from unnoticed.experiments.run_folder import begin
from unnoticed.experiments.runner import run

PLAN = """question = "Do they get in each other's way?"
repeats = 1
seed = 3
[guest]
memory = "32 MiB"
working_set = "4 MiB"
dirty_rate = ["0 MiB/s", "1 MiB/s", "2 MiB/s", "3 MiB/s"]
[clients]
count = 1
request_response = { connections = 2, rate = "100 Hz" }
"""

# A member that performs nothing: its answer, or its end, is that of the trial's number.
MEMBER = """import json, os, signal, sys
answers = json.loads({answers!r})
for line in sys.stdin:
    trial = json.loads(line)["trial"]
    answer = answers.get(trial[:4], {{"reply": "performed", "row": {{"outcome": "completed"}}}})
    if answer == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps(answer), flush=True)
"""


class Told(RunProgress):
    """What the runner is told, in order."""

    def __init__(self):
        super().__init__()
        self.told = []
        self.run_begins(total=4, done=0, at_once=2)

    def trial_begins(self, trial):
        super().trial_begins(trial)
        self.told.append(("begins", trial.number))

    def trial_ends(self, trial, row):
        super().trial_ends(trial, row)
        self.told.append((row["outcome"], trial.number))


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return load_plan(str(path))


@pytest.fixture
def make_crew(tmp_path, monkeypatch, others):
    crews = []

    def make(answers="{}", **options):
        monkeypatch.setattr(crew_module, "_MEMBER", (sys.executable, "-S", "-c", MEMBER.format(answers=answers)))
        crews.append(Crew(2, folder=tmp_path, plan_name="", **options))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()
    assert children() <= others


def children():
    """The pids of this process's children."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture
def others():
    """The children that this process has before, of other tests that are under way."""
    return children()


def nobody_failed(trial, reason):
    raise AssertionError((trial, reason))


def test_two_at_a_time_are_handed_out_in_the_plans_order(plan, make_crew):
    told = Told()
    make_crew().perform(trials(plan), progress=told, failed=nobody_failed)
    assert told.told[:2] == [("begins", 1), ("begins", 2)]
    assert [number for word, number in told.told if word == "begins"] == [1, 2, 3, 4]
    assert sorted(number for word, number in told.told if word == "completed") == [1, 2, 3, 4]


def test_one_that_dies_costs_its_trial_and_no_other(plan, make_crew):
    told, failures, cleaned = Told(), {}, []
    crew = make_crew('{"0002": "dies"}', clean_up=lambda: cleaned.append(True))
    crew.perform(trials(plan), progress=told, failed=lambda trial, reason: failures.update({trial.number: reason}))
    assert sorted(number for word, number in told.told if word == "completed") == [1, 3, 4]
    [reason] = failures.values()
    assert "the performer of trials was killed by SIGKILL in trial 0002-" in reason
    assert cleaned == [True]


@pytest.mark.parametrize(("family", "kind"), [("MachineError", MachineError), ("PlanError", PlanError)])
def test_what_no_trial_can_go_on_for_is_raised_as_it_was(plan, make_crew, family, kind):
    crew = make_crew(f'{{"0001": {{"reply": "stopped", "family": "{family}", "problems": ["no root", "no ip"]}}}}')
    with pytest.raises(kind, match="no root\nno ip"):
        crew.perform(trials(plan), progress=Told(), failed=nobody_failed)


def test_an_interrupt_leaves_nobody_at_work(plan, make_crew, others):
    class Interrupted(Told):
        def trial_ends(self, trial, row):
            raise KeyboardInterrupt

    crew = make_crew()
    with pytest.raises(KeyboardInterrupt):
        crew.perform(trials(plan), progress=Interrupted(), failed=nobody_failed)
    crew.close()
    assert children() <= others


def test_a_run_by_a_crew_records_what_one_after_the_other_would(plan, tmp_path, others):
    store = begin(tmp_path / "run", plan, {"trials_at_once": 2})
    crew = Crew(2, folder=store.path, plan_name=str(tmp_path / "plan.toml"), bench="fake")
    report = store.path / "report.html"
    result = run(plan, store, bench=crew, analyse=analyse, report=lambda _: report, progress=RunProgress())
    assert (result.exit_code, result.recorded, result.at_once) == (0, 4, 2)
    alone = begin(tmp_path / "alone", plan, {})
    bench = FakeBench(seed=plan.seed)
    run(plan, alone, bench=bench, analyse=analyse, report=lambda _: report, progress=RunProgress())
    columns = ["trial_id", "outcome", "blackout_ns", "rounds", "perceived_ns", "guest.dirty_rate"]
    assert store.load().trials[columns].equals(alone.load().trials[columns])
    assert children() <= others
