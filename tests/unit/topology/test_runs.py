from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from unnoticed.topology import runs
from unnoticed.topology.processes import (
    Process,
    ancestors,
    end_processes,
    marked_processes,
    parse_stat,
    read_process,
    start_ticks,
)
from unnoticed.topology.runs import Run, Runner, clean, is_removable, read_record

DEAD = Runner(pid=1, start_ticks=1, boot="a boot that is over")


@pytest.fixture
def child():
    environment = {**os.environ, "UNNOTICED_TEST_MARK": "42"}
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment)
    yield process
    process.kill()
    process.communicate()


def test_a_name_with_parentheses_and_spaces_does_not_confuse_the_stat():
    stat = parse_stat("42 (a) S (b)) S 7 42 13 34816 1 " + " ".join(["0"] * 13) + " 123456 0 0")
    assert (stat.name, stat.state, stat.parent, stat.session, stat.terminal) == ("a) S (b)", "S", 7, 13, 34816)
    assert stat.start_ticks == 123456


@pytest.mark.parametrize("text", ["", "42 (x", "42 (x) S 1 2"])
def test_a_damaged_stat_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_stat(text)


def test_marked_processes_are_found_with_their_marks_only(child):
    found = {process.pid: process for process in marked_processes("UNNOTICED_TEST_")}
    assert found[child.pid].marks == {"UNNOTICED_TEST_MARK": "42"}
    assert found[child.pid].parent == os.getpid()
    assert os.getpid() not in found


def test_only_the_very_process_is_ended_and_not_one_of_the_same_pid(child):
    process = read_process(child.pid, prefix="UNNOTICED_")
    impostor = Process(
        pid=process.pid, start_ticks=process.start_ticks + 1, parent=0, session=0, has_terminal=False, name=""
    )
    assert end_processes([impostor]) == []
    assert child.poll() is None
    assert end_processes([process]) == [process]
    assert child.wait(5) == -9
    assert end_processes([process]) == []


def test_ancestors_go_up_to_the_first_process(child):
    assert {child.pid, os.getpid(), os.getppid()} <= ancestors(child.pid)


def test_a_runner_survives_being_written_down_and_is_alive_only_as_itself():
    this = Runner.this()
    assert Runner.parse(str(this)) == this
    assert this.is_alive()
    assert not Runner(pid=this.pid, start_ticks=this.start_ticks + 1, boot=this.boot).is_alive()
    assert not Runner(pid=this.pid, start_ticks=this.start_ticks, boot="another boot").is_alive()
    assert Runner.parse("nonsense") is None
    assert Runner.parse("a:b:c") is None


def test_a_run_is_registered_and_marks_what_it_starts_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.delenv(runs.RUN_MARK, raising=False)
    with Run(registry=tmp_path, output=tmp_path / "out") as run:
        record = read_record(run.folder)
        assert (record.id, record.output) == (run.id, str(tmp_path / "out"))
        assert record.runner.is_alive()
        assert os.environ[runs.RUN_MARK] == run.id
        assert os.environ[runs.RUNNER_MARK] == str(record.runner)
        assert list(tmp_path.iterdir()) == [run.folder]
    assert runs.RUN_MARK not in os.environ
    assert list(tmp_path.iterdir()) == []
    run.end()


def register(registry, name, runner, **more):
    folder = registry / name
    folder.mkdir()
    record = {"id": name, "runner": vars(runner), "session": 1, "output": None, "started_ns": 0} | more
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_clean_removes_dead_runs_folders_and_drafts_and_leaves_the_rest(tmp_path):
    (register(tmp_path, "dead0000", DEAD) / "socket").write_text("")
    alive = register(tmp_path, "alive000", Runner.this())
    draft = tmp_path / f".draft000:{DEAD}"
    draft.mkdir()
    live_draft = tmp_path / f".draft001:{Runner.this()}"
    live_draft.mkdir()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    report = clean(registry=tmp_path)
    assert "dead0000" in report.runs
    assert report.alive == ("alive000",)
    assert str(tmp_path / "dead0000" / "socket") in report.files
    assert sorted(tmp_path.iterdir()) == sorted([alive, live_draft, foreign])
    assert clean(registry=tmp_path).files == ()


@pytest.mark.parametrize("temporary", [True, False])
def test_clean_removes_the_output_of_a_dead_run_only_if_it_was_temporary(tmp_path, temporary):
    registry, output = tmp_path / "registry", tmp_path / "output"
    registry.mkdir()
    output.mkdir()
    (output / "events.jsonl").write_text("")
    register(registry, "dead0000", DEAD, output=str(output), is_output_temporary=temporary)
    report = clean(registry=registry)
    assert output.exists() != temporary
    assert (str(output / "events.jsonl") in report.files) == temporary


def start(environment):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment)
    assert start_ticks(process.pid) is not None
    return process


def test_clean_ends_the_processes_of_dead_runners_and_of_no_others(tmp_path):
    kept = dict(os.environ)
    orphan = start({**kept, runs.RUN_MARK: "dead0000", runs.RUNNER_MARK: str(DEAD)})
    of_live_run = start({**kept, runs.RUN_MARK: "alive000", runs.RUNNER_MARK: str(Runner.this())})
    registered_alive = start({**kept, runs.RUN_MARK: "alive001", runs.RUNNER_MARK: str(DEAD)})
    register(tmp_path, "alive001", Runner.this())
    of_nobody = start({**kept, runs.RUN_MARK: "00000000", runs.RUNNER_MARK: ""})
    others = (of_live_run, registered_alive, of_nobody)
    try:
        report = clean(registry=tmp_path)
        assert orphan.pid in {process.pid for process in report.processes}
        assert orphan.wait(5) == -9
        assert [process.poll() for process in others] == [None, None, None]
    finally:
        for process in (orphan, *others):
            process.kill()
            process.communicate()


def test_a_live_runner_is_not_ended_for_the_dead_run_it_was_started_from(tmp_path):
    process = start({**os.environ, runs.RUN_MARK: "dead0000", runs.RUNNER_MARK: str(DEAD)})
    try:
        itself = Runner(pid=process.pid, start_ticks=start_ticks(process.pid), boot=Runner.this().boot)
        register(tmp_path, "alive000", itself)
        assert process.pid not in {each.pid for each in clean(registry=tmp_path).processes}
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def shell(**fields):
    values = {"pid": 9, "start_ticks": 1, "parent": 1, "session": 9, "has_terminal": True, "name": "bash"}
    return Process(**{**values, "net_namespace": "net:[1]", **fields})


@pytest.mark.parametrize(
    ("process", "session", "removable"),
    [
        (shell(net_namespace="net:[2]"), None, True),  # in a namespace of the run
        (shell(has_terminal=False), None, True),  # a helper
        (shell(session=5), 5, True),  # started by the runner in its own terminal
        (shell(), 5, False),  # somebody's own terminal, opened from the run's environment
        (shell(), None, False),
    ],
)
def test_a_shell_that_a_user_opened_is_spared(process, session, removable):
    own = shell(pid=1)
    assert is_removable(process, own=own, session=session) is removable
