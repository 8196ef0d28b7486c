"""Whole migrations with each dirty tracker that works on this kernel: a client under load, and every byte compared."""

import pytest

from unnoticed.agents.tracking import available
from unnoticed.patience import patient

pytestmark = pytest.mark.root

MEMORY_BYTES = 32 << 20


@pytest.mark.parametrize("tracking", available())
def test_a_busy_guest_moves_whole_whatever_finds_its_dirty_pages(stage, tracking):
    stage.boot(memory_bytes=MEMORY_BYTES, working_set_bytes=16 << 20, dirty_bytes_per_s=40 << 20)
    client = stage.load(rate_hz=200)
    for source, destination in (("a", "b"), ("b", "a")) * 2:
        report = stage.migrate(
            *(source, destination), tracking=tracking, policy="fixed-rounds", parameters={"rounds": 4}, verify=True
        )
        assert (report["outcome"], report["reason"], report["tracker"]) == ("completed", "", tracking)
        stage.agents[destination].wait_reply("arrival", patient(10))
    rounds = stage.events("round")
    assert all(event["dirty_pages"] > 0 for event in rounds if event["round"] == 0)
    assert sum(event["pages"] for event in rounds if event["round"]) < 4 * 3 * (
        MEMORY_BYTES >> 12
    )  # not all of RAM again
    stage.check_guest("a", resumes=5)
    stage.check_unharmed(client)
    assert not stage.events("trouble") + stage.events("connection-lost") + stage.events("refused")


def test_a_tracker_that_this_kernel_lacks_fails_the_migration_and_leaves_the_guest(stage):
    lacking = [name for name in ("userfaultfd-wp", "soft-dirty") if name not in available()]
    stage.boot()
    for tracking in lacking:
        report = stage.migrate("a", "b", tracking=tracking)
        assert report["outcome"] == "failed"
        assert "written pages cannot be tracked" in report["reason"]
        stage.agents["b"].wait_reply("arrival", patient(10))
    report = stage.migrate("a", "b", policy="fixed-rounds", parameters={"rounds": 2})
    assert report["outcome"] == "completed"
    stage.check_guest("b")
