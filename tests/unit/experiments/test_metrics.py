import pytest

from unnoticed.experiments.metrics import METRICS, STATISTICS
from unnoticed.experiments.run_folder import describe
from unnoticed.results import metrics
from unnoticed.results.statistics import WORDS


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_a_plan_is_one_that_results_can_judge(name):
    metric = metrics.find(name)
    assert metric is not None
    assert metric.is_yes_no == (METRICS[name] == "truth")


def test_the_statistics_of_a_plan_are_those_of_the_results():
    assert set(STATISTICS) == set(WORDS)


def test_a_plan_becomes_the_description_that_results_read(small_plan):
    run = describe(small_plan)
    assert run.planned[0].startswith("0001-")
    assert run.cases == ("announced", "silent")
    assert run.clauses[0].bound == "equals"
    assert run.budgets[0].value == 1_000_000_000
