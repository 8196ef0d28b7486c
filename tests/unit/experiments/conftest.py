import io
import json
import shutil

import pytest

from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.experiments.analysis.trial import analyse
from unnoticed.experiments.fake.bench import FakeBench
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.experiments.progress import RunProgress

SMALL = """question = "Does anybody notice?"
repeats = 2
[guest]
memory = "32 MiB"
working_set = "4 MiB"
dirty_rate = "10 MiB/s"
[clients]
count = 1
request_response = { connections = 2, rate = "100 Hz" }
upload = { connections = 1, rate = "1 Mbit/s" }
connect = { rate = "5 Hz" }
[phases]
warm_up = "300 ms"
cool_down = "300 ms"
[[case]]
name = "announced"
[[case]]
name = "silent"
migration.announce = "none"
[[clause]]
text = "Nobody is reset."
metric = "resets"
statistic = "max"
equals = 0
[[budget]]
metric = "blackout_ns"
statistic = "max"
at_most = "1 s"
"""


@pytest.fixture(scope="session")
def small_plan_text():
    return SMALL


@pytest.fixture
def small_plan_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def small_plan(small_plan_file):
    return load_plan(small_plan_file)


@pytest.fixture
def trial_of(tmp_path):
    """A function from overrides to the first trial of the small plan, of the case asked for."""

    def make(*overrides, case="announced") -> Trial:
        path = tmp_path / "one.toml"
        path.write_text(SMALL)
        plan = load_plan(path, overrides=overrides)
        return next(trial for trial in trials(plan) if trial.case == case)

    return make


@pytest.fixture
def quiet():
    """A progress that writes into memory: `quiet.text()`."""

    class Quiet(RunProgress):
        def __init__(self):
            self.stream = io.StringIO()
            super().__init__(stream=self.stream)

        def text(self):
            return self.stream.getvalue()

    return Quiet()


class Records:
    """The records of a trial of the fake bench, to be changed before they are analysed."""

    def __init__(self, trial, folder):
        self.trial, self.folder = trial, folder
        self.truth = json.loads((folder / "truth.json").read_text())

    def change(self, change):
        """Replace each event by what `change` makes of it: an event, several in a list, or None."""
        path = self.folder / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        changed = [change(dict(event)) for event in events]
        flat = [one for made in changed if made is not None for one in (made if isinstance(made, list) else [made])]
        path.write_text("".join(json.dumps(event) + "\n" for event in flat))

    def raw(self):
        return RawRecords(self.folder, self.trial.settings)

    def analyse(self):
        return analyse(self.trial, self.folder)


@pytest.fixture(scope="session")
def performed(tmp_path_factory):
    """A function to the folder and trial of the small plan with overrides, performed once by the fake bench."""
    known = {}

    def perform(overrides, case):
        if (overrides, case) not in known:
            folder = tmp_path_factory.mktemp("fake")
            (folder / "plan.toml").write_text(SMALL)
            plan = load_plan(folder / "plan.toml", overrides=overrides)
            trial = next(trial for trial in trials(plan) if trial.case == case)
            (folder / "records").mkdir()
            FakeBench().perform(trial, folder / "records", lambda phase: None)
            known[overrides, case] = trial, folder / "records"
        return known[overrides, case]

    return perform


@pytest.fixture
def records(performed, tmp_path):
    """A function from overrides to a fresh copy of such a trial's records."""

    def make(*overrides, case="announced"):
        trial, folder = performed(overrides, case)
        shutil.copytree(folder, tmp_path / "records")
        return Records(trial, tmp_path / "records")

    return make
