"""When a guest is announced: at once, later, several times, too early."""

import select
import time

import pytest

from unnoticed.agents.announce import Announcement
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.packet_socket import Lookout

pytestmark = pytest.mark.root

MS = 1_000_000


@pytest.fixture
def stage(make_stage, tmp_path):
    schedules = {
        "garp+garp-reply": Announcement(frames=(), after_ns=(0, 20 * MS, 60 * MS)),
        "rarp": Announcement(frames=(), after_ns=(40 * MS,)),
        "na": Announcement(frames=(), after_ns=(), early=True),
        "garp": Announcement(frames=(), after_ns=(0, 3_600_000 * MS)),
    }
    made = make_stage(tmp_path, announcements=schedules)
    try:
        made.boot(memory_bytes=16 << 20, working_set_bytes=0)
        yield made
    finally:
        made.close()


def has_seen(lookout, *, wait_s=0.0):
    return bool(select.select([lookout], [], [], wait_s)[0])


def announced(stage, *, count):
    stage.wait_until(lambda: len(stage.events("announced")) >= count)
    return stage.events("announced")


def opened_ns(stage):
    return next(step["end_ns"] for step in stage.events("step") if step["step"] == "open-gate")


def test_a_schedule_is_kept_without_the_guest_waiting_for_it(stage):
    report = stage.migrate("a", "b", announce="garp+garp-reply")
    assert report["outcome"] == "completed"
    events = announced(stage, count=3)
    assert [event["frames"] for event in events] == [2, 2, 2]
    first, *later = (event["time_ns"] for event in events)
    assert opened_ns(stage) <= first <= report["resumed_ns"]
    assert [time_ns - first >= due_ns for time_ns, due_ns in zip(later, (20 * MS, 60 * MS), strict=True)] == [True] * 2


def test_an_announcement_that_is_only_due_later_is_not_made_at_once(stage):
    report = stage.migrate("a", "b", announce="rarp")
    (event,) = announced(stage, count=1)
    assert event["time_ns"] - opened_ns(stage) >= 40 * MS
    assert event["time_ns"] > report["resumed_ns"]


@pytest.fixture
def lookout(stage):
    """At the client."""
    space = NetworkNamespace(stage.fabric.places["c1"].pid)
    with space.entered():
        made = Lookout(stage.fabric.places["c1"].interface)
    yield made
    made.close()
    space.close()


def test_what_is_announced_before_the_gate_is_open_reaches_nobody(stage, lookout):
    lookout.watch(bytes.fromhex(stage.fabric.places["guest-b"].mac.replace(":", "")))
    stage.migrate("a", "b", announce="na")
    stage.agents["b"].wait_reply("arrival", 10)
    time.sleep(0.1)
    steps = [step["step"] for step in stage.events("step") if step["place"] == "b"]
    assert steps.index("announce-early") == steps.index("open-gate") - 1
    assert stage.events("announced") == []
    assert not has_seen(lookout)
    stage.agents["b"].command("announce", announce="garp")
    stage.agents["b"].wait_reply("announced", 10)
    assert has_seen(lookout, wait_s=10)


def test_a_guest_that_leaves_again_is_not_announced_where_it_was(stage):
    stage.migrate("a", "b")
    stage.agents["b"].wait_reply("arrival", 10)
    assert stage.migrate("b", "a")["outcome"] == "completed"  # the announcement that is due in an hour does not last
    stage.agents["a"].wait_reply("arrival", 10)
    assert len(announced(stage, count=2)) == 2
    stage.check_guest("a", resumes=3)
