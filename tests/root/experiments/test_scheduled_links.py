"""A trial whose links change while it goes on; nothing here asserts a duration."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unnoticed.results.store import RunFolder

pytestmark = pytest.mark.root

PLAN = """question = "What if the network degrades meanwhile?"
[fabric]
shape = "single"
links = { "c2-s1" = { delay = "2 ms" } }
[[fabric.schedule]]
link = "c1-s1"
when = "round 0"
loss = "10 %"
[[fabric.schedule]]
link = "c2-s1"
when = "resumed"
after = "100 ms"
state = "cut"
[[fabric.schedule]]
link = "c2-s1"
when = "resumed"
after = "400 ms"
state = "restored"
[[fabric.schedule]]
link = "a-s1"
when = "round 999"
state = "cut"
[guest]
memory = "64 MiB"
working_set = "8 MiB"
dirty_rate = "2 MiB/s"
[clients]
count = 2
request_response = { connections = 2, rate = "200 Hz" }
upload = { connections = 1, rate = "10 Mbit/s" }
[phases]
warm_up = "1 s"
cool_down = "2 s"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scheduled")
    (folder / "plan.toml").write_text(PLAN)
    command = [sys.executable, "-m", "unnoticed", "run", str(folder / "plan.toml"), "--out", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    return RunFolder(folder / "run").load(), (folder / "run/report.html").read_text()


def test_every_change_is_recorded_when_it_was_made_and_after_its_moment(run):
    tables, _ = run
    links = tables.links.sort_values("start_ns", kind="stable")
    made = list(zip(links["link"], links["change"], links["moment"], strict=True))
    assert made[:3] == [
        ("c1-s1", "loss 10 %", "round 0"),
        ("c2-s1", "cut", "resumed + 100 ms"),
        ("c2-s1", "restored", "resumed + 400 ms"),
    ]
    assert sorted(made[3:]) == [("c1-s1", "restored", "quiesce"), ("c2-s1", "restored", "quiesce")]
    assert ((links["due_ns"] <= links["start_ns"]) & (links["start_ns"] <= links["end_ns"])).all()
    resumed = int(tables.trials["resumed_ns"].iloc[0])
    assert links["due_ns"].iloc[1] == resumed + 100_000_000


def test_a_moment_that_never_came_is_noted_and_so_is_nothing_else(run):
    tables, _ = run
    assert "The link a-s1 was never changed (cut): round 999 never came." in tables.trials["notes"].iloc[0]


def test_the_client_that_was_cut_off_felt_it_and_every_byte_arrived(run):
    tables, _ = run
    links = tables.links
    cut = int(links[links["change"] == "cut"]["end_ns"].iloc[0])
    restored = int(links[links["moment"] == "resumed + 400 ms"]["start_ns"].iloc[0])
    outages = tables.outages[tables.outages["estimator"] == "time-stamp"].set_index("client")
    assert outages["high_ns"]["c2"] >= restored - cut
    row = tables.trials.iloc[0]
    assert row["integrity"]
    assert row["kernel_agrees"]  # what was sent into the cut was captured
    assert row["captures_complete"]


def test_the_report_shows_the_changes(run):
    _, report = run
    assert "c1-s1 loss 10 %" in report
