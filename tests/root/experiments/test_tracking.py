"""Dirty tracking from the plan to the results, and what the doctor says of it."""

import json
import subprocess
import sys

import pytest

from unnoticed.agents.tracking import available
from unnoticed.results.schema import TRACKERS
from unnoticed.results.store import RunFolder

pytestmark = pytest.mark.root

LACKING = [name for name in TRACKERS if name not in (*available(), "none")]


@pytest.fixture(scope="module")
def said_by_the_doctor():
    command = [sys.executable, "-m", "unnoticed", "doctor", "--seconds", "0.05", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, check=False, timeout=120).stdout)
    return {entry["name"]: entry for entry in found["capabilities"]}


def test_what_tracked_is_named_in_the_results_and_the_environment_and_foretold_by_the_doctor(
    start_run, said_by_the_doctor
):
    run = start_run("run")
    assert run.wait() == 0, run.stderr()
    folder = RunFolder(run.out)
    best, *others = available()
    assert folder.load().trials["tracker"].tolist() == [best]
    assert folder.environment()["dirty_tracking"] == [best, *others]
    assert said_by_the_doctor["dirty tracking"]["detail"].startswith(f"by {best} ")
    assert "dirty_tracking" in (run.out / "report.html").read_text()


def test_the_doctor_tells_each_way_of_tracking_apart(said_by_the_doctor):
    names = {"userfaultfd-wp": "userfaultfd, async write-protect", "soft-dirty": "soft-dirty"}
    assert {tracker: said_by_the_doctor[name]["works"] for tracker, name in names.items()} == {
        tracker: tracker in available() for tracker in names
    }


def test_a_plan_can_compare_what_a_tracker_costs(start_run):
    asked = json.dumps(available())
    run = start_run("run", "--set", f"migration.tracking={asked}")
    assert run.wait() == 0, run.stderr()
    trials = RunFolder(run.out).load().trials
    assert sorted(trials["tracker"]) == sorted(available())
    assert (trials["migration.tracking"] == trials["tracker"]).all()
    assert trials["integrity"].all()


def test_a_tracker_that_this_kernel_lacks_is_refused_before_anything_is_made(start_run):
    for name in LACKING:
        run = start_run("run", "--set", f"migration.tracking={name}")
        assert run.wait() == 77
        assert f"cannot find dirty pages by {name}" in run.stderr()
        assert not run.out.exists()
