"""A guest whose memory was still elsewhere when the network broke: lost, and said to be."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unnoticed.results.store import RunFolder

pytestmark = [pytest.mark.root, pytest.mark.slow]

PLAN = """question = "What if the source is lost before all pages have come?"
[fabric]
shape = "single"
[[fabric.schedule]]
link = "a-s1"
when = "resumed"
after = "100 ms"
state = "cut"
[guest]
memory = "64 MiB"
working_set = "8 MiB"
[clients]
count = 1
request_response = { connections = 2, rate = "200 Hz" }
[migration]
rate_limit = "100 Mbit/s"
[phases]
warm_up = "1 s"
cool_down = "1 s"
[[case]]
name = "it"
expect = "lost"
migration.mode = "post-copy"
"""


def test_a_guest_is_lost_with_the_path_to_its_memory_and_the_run_says_so(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    command = [sys.executable, "-m", "unnoticed", "run", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    row = RunFolder(tmp_path / "run").load().trials.iloc[0]
    assert row["outcome"] == "lost"
    assert "The guest is lost, since a part of its RAM is nowhere: The source" in row["reason"]
    assert row["blackout_ns"] > 0
    assert not row["integrity"]
    report = (tmp_path / "run/report.html").read_text()
    assert "In 1 trial the guest was lost" in report
    assert "a part of its RAM is nowhere" in report
