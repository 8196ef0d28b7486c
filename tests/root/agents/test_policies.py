"""What policies ask for happens: the stream is paced, the guest slowed, a round ended, and a user's policy heard."""

import re
from pathlib import Path

import pytest

from unnoticed.patience import patient

pytestmark = pytest.mark.root

PAGE = (Path(__file__).parents[3] / "docs/policies.md").read_text(encoding="utf-8")


def rounds_of(stage, report):
    rounds = [event for event in stage.events("round") if event["migration"] == stage.number]
    assert [event["round"] for event in rounds] == list(range(report["rounds"]))
    return rounds


def test_a_policy_paces_the_stream_and_what_is_left_as_well(stage):
    stage.boot(dirty_bytes_per_s=40 << 20)
    pace = {"min_rate_bit_per_s": 400_000_000, "max_rate_bit_per_s": 800_000_000}
    report = stage.migrate("a", "b", policy="clark", parameters=pace, verify=True)
    assert report["outcome"] == "completed"
    first, *later = rounds_of(stage, report)
    assert first["rate_limit_bit_per_s"] == 400_000_000
    assert all(400_000_000 <= event["rate_limit_bit_per_s"] <= 800_000_000 for event in later)
    assert first["bytes"] * 8e9 / (first["end_ns"] - first["start_ns"]) < 420_000_000
    stage.check_guest("b")


def test_auto_converge_slows_the_guest_until_the_rest_is_small_enough_and_then_no_more(stage):
    stage.boot(memory_bytes=96 << 20, working_set_bytes=64 << 20, dirty_bytes_per_s=60 << 20)
    client = stage.load(bulk=False)
    report = stage.migrate(
        *("a", "b"),
        policy="downtime-limit",
        parameters={"downtime_limit_ns": 200_000_000, "throttle_initial_ppm": 800_000},
        rate_bytes_per_s=50_000_000,
        verify=True,
    )
    assert report["outcome"] == "completed"
    rounds = rounds_of(stage, report)
    free = [event for event in rounds if not event["throttle_ppm"]]
    slowed = [event for event in rounds if event["throttle_ppm"]]
    assert all(event["throttled_ns"] == 0 for event in free)
    for event in slowed:
        took_ns = event["end_ns"] - event["start_ns"]
        assert event["throttled_ns"] / took_ns == pytest.approx(event["throttle_ppm"] / 1e6, abs=0.25)
    assert slowed[-1]["dirty_pages"] < free[-1]["dirty_pages"] / 2
    stage.agents["b"].wait_reply("arrival", 10)
    stage.check_guest("b")
    stage.check_unharmed(client)


def test_a_deadline_ends_a_round_early_and_what_it_has_not_sent_follows(stage):
    stage.boot()
    report = stage.migrate(
        *("a", "b"),
        policy="deadline",
        parameters={"deadline_ns": round(patient(2.0) * 1e9)},  # which includes the destination's preparing
        rate_bytes_per_s=round((64 << 20) / patient(3.0)),
        verify=True,
    )
    assert report["outcome"] == "completed"
    (only,) = rounds_of(stage, report)
    assert 0 < only["pages"] < 64 << 20 >> 12
    assert only["dirty_pages"] >= (64 << 20 >> 12) - only["pages"]
    stage.check_guest("b")


def test_a_guest_that_stays_is_not_throttled_any_more(stage):
    stage.boot(memory_bytes=96 << 20, working_set_bytes=64 << 20, dirty_bytes_per_s=400 << 20)
    client = stage.load(bulk=False)
    report = stage.migrate(
        *("a", "b"),
        policy="downtime-limit",
        parameters={"downtime_limit_ns": 1, "throttle_initial_ppm": 500_000, "max_rounds": 3},
        rate_bytes_per_s=200_000_000,
    )
    assert report["outcome"] == "gave-up"
    assert rounds_of(stage, report)[-1]["throttled_ns"] > 0
    stage.check_guest("a")
    stage.check_unharmed(client)


def test_a_policy_that_a_package_adds_is_known_to_the_agents(request, tmp_path, monkeypatch):
    (module,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.py").write_text(module)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unnoticed.policies]\nmine = mine:Mine\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stage = request.getfixturevalue("stage")  # its agents are made now, and inherit the path
    stage.boot()
    report = stage.migrate("a", "b", policy="mine", parameters={"enough_bytes": 2 << 20}, verify=True)
    assert report["outcome"] == "completed"
    rounds = rounds_of(stage, report)
    assert [event["rate_limit_bit_per_s"] for event in rounds[:2]] == [None, 400_000_000][: len(rounds)]
    assert rounds[-1]["dirty_pages"] <= 512
    stage.check_guest("b")
