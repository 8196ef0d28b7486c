import errno
import os
import shutil
import signal

import pandas as pd
import pytest

from unnoticed.errors import MachineError, PlanError, RecordError
from unnoticed.experiments.fake.bench import FakeBench
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.experiments.run_folder import begin, folder_to_resume, new_folder
from unnoticed.experiments.runner import run


def analyse(trial, folder):
    """Stands in for the analysis: what the fake bench says of itself."""
    truth = pd.read_json(folder / "truth.json", typ="series")
    resets = sum(flow["reset"] for flow in truth["flows"].values())
    row = {"outcome": truth["outcome"], "blackout_ns": truth["blackout_ns"], "resets": resets}
    return {"trials": pd.DataFrame([row])}


def report(folder):
    path = folder / "report.html"
    path.write_text("a report")
    return path


@pytest.fixture
def perform(tmp_path, quiet):
    def perform_run(plan, *, bench=None, analyse=analyse, store=None):
        store = store or begin(tmp_path / "run", plan, {})
        bench = bench or FakeBench()
        return run(plan, store, bench=bench, analyse=analyse, report=report, progress=quiet), store

    return perform_run


def test_every_trial_is_stored_with_what_the_plan_says_of_it(small_plan, perform):
    result, store = perform(small_plan)
    table = store.load().trials
    assert result.exit_code == 0
    assert result.report == store.path / "report.html"
    assert list(table["trial_id"]) == [trial.id for trial in trials(small_plan)]
    assert set(table["migration.announce"]) == {"garp", "none"}
    assert sorted(table["repeat"]) == [0, 0, 1, 1]
    assert table["blackout_ns"].notna().all()
    assert table["perceived_ns"].isna().all()
    assert [verdict.finding.value for verdict in result.clauses] == ["holds"]
    assert (store.path / "plan.toml").read_text() == small_plan.text


def test_a_trial_that_fails_is_recorded_and_the_run_goes_on(small_plan, perform):
    result, store = perform(small_plan, bench=FakeBench(faults={2: "raise"}))
    table = store.load().trials
    assert list(table["outcome"]) == ["completed", "failed", "completed", "completed"]
    assert table["reason"].iloc[1] == "switch s1 did not come up; this fault was injected."
    assert list(result.unexpected) == [trials(small_plan)[1].id]
    assert result.exit_code == 1


def test_an_analysis_that_breaks_fails_the_trial_and_leaves_its_traceback(small_plan, perform):
    def broken(trial, folder):
        if trial.number == 1:
            raise ZeroDivisionError("division by zero")
        return analyse(trial, folder)

    result, store = perform(small_plan, analyse=broken)
    trial = trials(small_plan)[0]
    assert result.unexpected == {
        trial.id: "failed: ZeroDivisionError: division by zero "
        "(a fault of the product; see failure.txt in the trial's folder)"
    }
    assert "ZeroDivisionError" in (store.trial_path(trial.id) / "failure.txt").read_text()


def test_an_outcome_that_the_plan_does_not_expect_is_a_failure(small_plan_file, perform):
    text = small_plan_file.read_text().replace('name = "silent"', 'name = "silent"\nexpect = "gave-up"')
    small_plan_file.write_text(text)
    plan = load_plan(small_plan_file)
    result, _ = perform(plan)
    assert set(result.unexpected.values()) == {"completed, where the plan expects gave-up"}
    assert result.exit_code == 1


def test_a_missed_budget_is_exit_code_1_and_a_failed_clause_is_not(small_plan_file, perform):
    small_plan_file.write_text(small_plan_file.read_text().replace('at_most = "1 s"', 'at_most = "1 us"'))
    result, _ = perform(load_plan(small_plan_file))
    assert [verdict.finding.value for verdict in result.missed] == ["fails"]
    assert result.exit_code == 1


def test_a_failed_clause_alone_is_fine(small_plan, perform):
    result, _ = perform(small_plan, bench=FakeBench(faults={1: "reset"}))
    assert [verdict.finding.value for verdict in result.clauses] == ["fails"]
    assert result.exit_code == 0


def test_an_interrupt_keeps_what_is_done_and_resume_goes_on_after_it(small_plan, perform):
    bench = FakeBench(faults={3: "interrupt"})
    result, store = perform(small_plan, bench=bench)
    assert result.interrupted
    assert result.exit_code == 130
    assert result.recorded == 2
    assert result.report is not None
    assert bench.closed
    again = FakeBench()
    result, _ = perform(small_plan, bench=again, store=store)
    assert again.performed == [trial.id for trial in trials(small_plan)[2:]]
    assert result.exit_code == 0
    assert len(store.load().trials) == 4


def test_a_signal_interrupts_and_a_second_one_does_not_disturb_the_taking_down(small_plan, perform, quiet):
    taken_down = []

    class Slow(FakeBench):
        def perform(self, trial, folder, progress):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                taken_down.append(trial.id)

    before = signal.getsignal(signal.SIGINT)
    result, _ = perform(small_plan, bench=Slow())
    assert result.interrupted
    assert len(taken_down) == 1
    assert "Already stopping: " in quiet.text()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_machine_that_cannot_do_it_ends_the_run(small_plan, perform):
    class Unable(FakeBench):
        def perform(self, trial, folder, progress):
            raise MachineError("mnexec is missing")

    bench = Unable()
    with pytest.raises(MachineError):
        perform(small_plan, bench=bench)
    assert bench.closed


def test_a_user_is_told_of_each_trial(small_plan, perform, quiet):
    perform(small_plan, bench=FakeBench(faults={2: "raise"}))
    lines = quiet.text().splitlines()
    case = trials(small_plan)[0].case
    assert lines[0] == f"Trial 1 of 4 ({case}) ..."
    assert lines[1].startswith(f"Trial 1 of 4 ({case}): completed, blackout ")
    assert any(": failed: switch s1 did not come up" in line for line in lines)


def test_a_new_run_goes_into_a_folder_named_by_time_and_plan(small_plan, tmp_path):
    import datetime

    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    folder = new_folder(small_plan, out=None, now=now, runs=tmp_path)
    assert folder == tmp_path / "20260102T030405Z-small"
    folder.mkdir()
    assert new_folder(small_plan, out=None, now=now, runs=tmp_path).name == "20260102T030405Z-small-2"


def test_a_folder_with_something_in_it_is_refused(small_plan, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(PlanError, match="the folder is not empty, and no run made what is in it"):
        new_folder(small_plan, out=foreign)
    begin(tmp_path / "run", small_plan, {})
    with pytest.raises(PlanError, match="add --resume to go on with it"):
        new_folder(small_plan, out=tmp_path / "run")
    with pytest.raises(PlanError, match="this is a file"):
        new_folder(small_plan, out=foreign / "thesis.tex")


def test_resume_finds_the_newest_run_of_the_plan(small_plan, tmp_path):
    for start in ("20260101T000000Z", "20260301T000000Z", "20260201T000000Z"):
        begin(tmp_path / f"{start}-small", small_plan, {})
    assert folder_to_resume(small_plan, out=None, runs=tmp_path).name == "20260301T000000Z-small"


def test_resume_refuses_another_plan_and_names_what_differs(small_plan, small_plan_file, tmp_path):
    begin(tmp_path / "run", small_plan, {})
    other = load_plan(small_plan_file, overrides=["guest.memory=64 MiB"], repeats=5)
    with pytest.raises(PlanError) as refusal:
        folder_to_resume(other, out=tmp_path / "run")
    said = "was begun with another plan: repeats was 2 and is 5 here; guest.memory was 32 MiB and is 64 MiB here; run "
    assert said in str(refusal.value)
    more = load_plan(small_plan_file, overrides=["migration.policy=threshold", "migration.threshold=1 MiB"])
    with pytest.raises(PlanError, match=r"migration.threshold was not given and is 1 MiB here"):
        folder_to_resume(more, out=tmp_path / "run")


def test_resume_names_the_case_and_the_clause_that_differ(small_plan, small_plan_file, tmp_path):
    begin(tmp_path / "run", small_plan, {})
    text = small_plan_file.read_text().replace('migration.announce = "none"', 'guest.dirty_rate = "2 MiB/s"')
    small_plan_file.write_text(text.replace('at_most = "1 s"', 'at_most = "2 s"'))
    with pytest.raises(PlanError) as refusal:
        folder_to_resume(load_plan(small_plan_file), out=tmp_path / "run")
    assert "[[case]] 2 migration.announce was none and is not given here" in str(refusal.value)
    assert "[[case]] 2 guest.dirty_rate was not given and is 2 MiB/s here" in str(refusal.value)
    assert "[[budget]] 1 at_most was 1 s and is 2 s here" in str(refusal.value)


def test_resume_without_a_run_says_so(small_plan, tmp_path):
    with pytest.raises(PlanError, match="there is no run of small"):
        folder_to_resume(small_plan, out=None, runs=tmp_path)
    with pytest.raises(PlanError, match="holds no run to go on with"):
        folder_to_resume(small_plan, out=tmp_path)


def test_a_second_signal_does_not_break_the_report(small_plan, tmp_path, quiet):
    store = begin(tmp_path / "run", small_plan, {})

    def report_under_fire(folder):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return report(folder)

    bench = FakeBench()
    perform_trial = bench.perform

    def interrupted(trial, folder, progress):
        perform_trial(trial, folder, progress)
        if trial.number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    bench.perform = interrupted
    result = run(small_plan, store, bench=bench, analyse=analyse, report=report_under_fire, progress=quiet)
    assert result.exit_code == 130
    assert result.recorded == 1
    assert result.report is not None
    assert quiet.text().count("Already stopping") == 2


def test_a_first_signal_during_the_report_leaves_all_trials_and_says_interrupted(small_plan, perform, tmp_path, quiet):
    store = begin(tmp_path / "run", small_plan, {})

    def interrupted(folder):
        os.kill(os.getpid(), signal.SIGTERM)
        return report(folder)

    result = run(small_plan, store, bench=FakeBench(), analyse=analyse, report=interrupted, progress=quiet)
    assert (result.exit_code, result.recorded, result.report) == (130, 4, None)
    result, _ = perform(small_plan, store=store)
    assert (result.exit_code, result.recorded) == (0, 4)


def test_the_bench_is_closed_before_an_interrupt_that_comes_meanwhile(small_plan, perform):
    class Interrupted(FakeBench):
        def close(self):
            os.kill(os.getpid(), signal.SIGTERM)
            super().close()

    bench = Interrupted()
    result, _ = perform(small_plan, bench=bench)
    assert bench.closed
    assert (result.exit_code, result.recorded) == (130, 4)


def test_a_run_whose_folder_is_removed_ends_with_a_sentence(small_plan, perform, tmp_path):
    class Removing(FakeBench):
        def perform(self, trial, folder, progress):
            shutil.rmtree(tmp_path / "run")
            super().perform(trial, folder, progress)

    bench = Removing()
    with pytest.raises(RecordError, match=r"the run's folder was removed or changed while the run went on"):
        perform(small_plan, bench=bench)
    assert bench.closed
    assert len(bench.performed) == 1


def test_a_trial_whose_folder_alone_is_removed_fails_and_the_run_goes_on(small_plan, perform):
    class Removing(FakeBench):
        def perform(self, trial, folder, progress):
            super().perform(trial, folder, progress)
            if trial.number == 1:
                shutil.rmtree(folder)

    result, store = perform(small_plan, bench=Removing())
    assert list(result.unexpected) == [trials(small_plan)[0].id]
    assert list(store.load().trials["outcome"]) == ["failed", "completed", "completed", "completed"]


def test_a_full_disk_ends_the_run_with_a_sentence_and_the_trial_is_not_failed(
    small_plan, perform, tmp_path, monkeypatch
):
    from unnoticed.results.store import RunFolder

    write = RunFolder.write_trial

    def full(self, trial_id, tables):
        if trial_id != trials(small_plan)[0].id:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, trial_id, tables)

    monkeypatch.setattr(RunFolder, "write_trial", full)
    bench = FakeBench()
    with pytest.raises(RecordError, match=r"the disk is full; make room, then go on with --resume"):
        perform(small_plan, bench=bench)
    assert bench.closed
    monkeypatch.undo()
    assert RunFolder(tmp_path / "run").recorded() == {trials(small_plan)[0].id}


def test_a_folder_in_which_a_run_was_killed_before_it_began_is_as_good_as_empty(small_plan, tmp_path):
    out = tmp_path / "run"
    begin(out, small_plan, {})
    (out / "run.json").rename(out / "run.json.partial")
    assert new_folder(small_plan, out=out) == out


def test_a_folder_that_cannot_be_written_is_refused_with_a_sentence(small_plan):
    from pathlib import Path

    with pytest.raises(PlanError, match=r"^/proc/self/run: the run's folder cannot be written \(.*\); name another"):
        begin(Path("/proc/self/run"), small_plan, {})
