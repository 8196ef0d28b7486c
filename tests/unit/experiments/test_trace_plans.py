"""Plans that replay a trace: a stock one or a file beside the plan, with room for it, instead of rate and pattern."""

import numpy as np
import pytest

from unnoticed.agents.trace import condensed, packed
from unnoticed.errors import PlanError
from unnoticed.experiments.analysis.trial import analyse
from unnoticed.experiments.fake.bench import FakeBench
from unnoticed.experiments.planning.plan import load_plan, trials

PLAN = """question = "Does anybody notice?"
[guest]
memory = "64 MiB"
{guest}
[clients]
count = 1
request_response = {{ connections = 1, rate = "100 Hz" }}
[phases]
warm_up = "300 ms"
cool_down = "300 ms"
{rest}
"""


@pytest.fixture
def write(tmp_path):
    def write_plan(guest, rest=""):
        path = tmp_path / "plan.toml"
        path.write_text(PLAN.format(guest=guest, rest=rest))
        return path

    intervals = [np.arange(start, start + 40, dtype=np.uint64) for start in (0, 10, 20)]
    trace = condensed(intervals, interval_ns=100_000_000, tracker="comparison", about={})
    (tmp_path / "mine.trace").write_bytes(packed(trace))
    (tmp_path / "broken.trace").write_bytes(packed(trace)[:-8])
    large = [np.arange(20_000, dtype=np.uint64)]
    data = packed(condensed(large, interval_ns=100_000_000, tracker="comparison", about={}))
    (tmp_path / "large.trace").write_bytes(data)
    return write_plan


def problems_of(path):
    with pytest.raises(PlanError) as refusal:
        load_plan(path)
    return [problem.replace(f"{path}:", "", 1) for problem in refusal.value.problems]


def test_a_trace_is_a_stock_one_or_a_file_beside_the_plan(write, tmp_path):
    plan = load_plan(write('trace = ["redis", "mine.trace", "none"]'))
    stock, mine, none = (setting.settings.guest.trace_path for setting in plan.settings)
    assert (stock.name, stock.is_file()) == ("redis.trace", True)
    assert mine == tmp_path / "mine.trace"
    assert none is None
    assert [setting.factors["guest.trace"] for setting in plan.settings] == ["redis", "mine.trace", "none"]


def test_a_trace_that_is_neither_is_refused_with_what_there_is(write, tmp_path):
    (problem,) = problems_of(write('trace = "rediss"'))
    assert '"none" or "redis"' in problem
    assert str(tmp_path) in problem


def test_a_trace_that_is_damaged_or_too_large_is_refused_before_any_trial(write):
    (problem,) = problems_of(write('trace = "broken.trace"'))
    assert problem.startswith("4: guest.trace: ")
    assert "this trace is" in problem
    (problem,) = problems_of(write('trace = "large.trace"'))
    assert problem == '3: guest.memory: "64 MiB" is too small for the trace; it takes "95 MiB".'


@pytest.mark.parametrize("key", ['working_set = "8 MiB"', 'dirty_rate = "1 MiB/s"', 'pattern = "sequential"'])
def test_a_rate_beside_a_trace_means_nothing_and_is_refused(write, key):
    (problem,) = problems_of(write(f'trace = "mine.trace"\n{key}'))
    assert "means nothing beside guest.trace" in problem
    assert load_plan(write(f'trace = ["mine.trace", "none"]\n{key}'))


def test_a_case_may_replay_a_trace_where_the_plan_has_a_rate(write):
    cases = '[[case]]\nname = "plain"\n[[case]]\nname = "redis"\nguest.trace = "mine.trace"\n'
    plan = load_plan(write('dirty_rate = ["0 B/s", "1 MiB/s"]', cases))
    assert [setting.factors["guest.dirty_rate"] for setting in plan.settings] == ["0 B/s", "1 MiB/s", None, None]


def test_the_fake_bench_dirties_as_the_trace_does(write, tmp_path):
    (trial,) = trials(load_plan(write('trace = "mine.trace"')))
    (tmp_path / "records").mkdir()
    FakeBench().perform(trial, tmp_path / "records", lambda phase: None)
    row = analyse(trial, tmp_path / "records")["trials"].iloc[0]
    assert row["baseline_dirty_pages_per_s"] == pytest.approx(400, rel=0.05)
