import io

import pytest

from unnoticed.experiments.grid import Trial
from unnoticed.experiments.plan import load_plan, trials
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
