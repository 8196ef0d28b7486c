"""Guests that come before their pages: post-copy and hybrid."""

import itertools
import mmap
import os
import select
import threading
from pathlib import Path

import numpy as np
import pytest

from unnoticed.agents.kernel import userfaultfd
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_BYTES, PAGE_WORDS, Ram

pytestmark = pytest.mark.root

PAGES = 64 << 20 >> 12
SLOW_BYTES_PER_S = 20 << 20  # a push that lasts for seconds
MODES = ("post-copy", "hybrid")


def waited_for(stage):
    return [latency for event in stage.events("faults") for latency in event["latency_ns"]]


@pytest.mark.parametrize("mode", MODES)
def test_a_guest_goes_back_and_forth_before_its_pages_and_nobody_is_harmed(stage, mode):
    stage.boot()
    client = stage.load()
    for source, destination in (("a", "b"), ("b", "a")) * 2:
        report = stage.migrate(source, destination, mode=mode)
        assert (report["outcome"], report["reason"]) == ("completed", "")
        assert report["paused_ns"] < report["resumed_ns"] < report["completed_ns"] <= report["end_ns"]
        assert report["connections"] >= 12
        assert (report["rounds"] > 0) == (mode == "hybrid")
        assert stage.agents[destination].wait_reply("arrival", 10)["arrival"] == "resumed"
    stage.check_guest("a", resumes=5)
    stage.check_unharmed(client)
    assert not stage.events("trouble") + stage.events("connection-lost") + stage.events("refused")
    found = stage.events("pages")
    came = [event["pushed_pages"] + event["demanded_pages"] for event in found]
    if mode == "post-copy":
        assert came == [PAGES - FIRST_DIRTIER_PAGE] * 4
        assert all(event["demanded_pages"] for event in found)
    else:
        assert all(0 < pages < (12 << 20 >> 12) for pages in came)  # a working set of 8 MiB
    assert len(waited_for(stage)) >= sum(event["demanded_pages"] for event in found)
    assert min(waited_for(stage), default=1) > 0


@pytest.mark.since_kernel("6.7")
@pytest.mark.parametrize("mode", MODES)
def test_frames_can_be_held_for_a_guest_that_comes_before_its_pages(holding, mode):
    holding.boot()
    client = holding.load()
    assert holding.migrate("a", "b", mode=mode)["outcome"] == "completed"
    holding.check_guest("b", resumes=2)
    holding.check_unharmed(client)


def test_the_steps_of_a_cutover_before_the_pages(stage):
    stage.boot()
    report = stage.migrate("a", "b", mode="post-copy")
    steps = [step["step"] for step in stage.events("step") if step["place"] == "a"]
    assert steps[:3] == ["hush", "owe", "pause"]
    assert report["tracker"] == "none"
    assert report["bytes_sent"] > (PAGES - FIRST_DIRTIER_PAGE) << 12


def test_a_policy_that_sees_no_end_of_rounds_has_the_rest_come_later(stage):
    stage.boot(working_set_bytes=48 << 20, dirty_bytes_per_s=400 << 20)
    client = stage.load(bulk=False)
    parameters = {"max_rounds": 2, "patience": 1, "default_rto_ns": 1}
    report = stage.migrate("a", "b", mode="hybrid", parameters=parameters)
    assert (report["outcome"], report["reason"]) == ("completed", "")
    stage.check_guest("b")
    stage.check_unharmed(client)


@pytest.mark.parametrize(
    ("mode", "place", "step"),
    [("post-copy", "a", "owe"), ("hybrid", "a", "send"), ("hybrid", "b", "restore"), ("post-copy", "a", "relinquish")],
)
def test_what_fails_before_the_guest_is_relinquished_leaves_it_where_it_was(stage, mode, place, step):
    stage.boot()
    client = stage.load(bulk=False)
    failing = {"fail_at": step} if place == "a" else {"fail_there": step}
    assert stage.migrate("a", "b", mode=mode, **failing)["outcome"] == "failed"
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "refused"
    stage.check_guest("a")
    assert stage.migrate("a", "b", mode=mode)["outcome"] == "completed"
    stage.check_guest("b")
    stage.check_unharmed(client)


def test_a_destination_that_dies_before_it_was_given_the_guest_changes_nothing(stage):
    stage.boot()
    client = stage.load(bulk=False)
    stage.begin_migration("a", "b", mode="hybrid", rate_bytes_per_s=SLOW_BYTES_PER_S)
    stage.wait_until(lambda: stage.children_of(stage.agents["b"]))
    stage.agents["b"].kill()
    assert stage.end_migration("a")["outcome"] == "failed"
    stage.replace_agent("b")
    stage.check_guest("a", resumes=1)
    stage.check_unharmed(client)


def pushing(stage):
    """A post-copy in the midst of its push; returns the pid of the guest at the destination."""
    stage.boot()
    stage.begin_migration("a", "b", mode="post-copy", rate_bytes_per_s=SLOW_BYTES_PER_S)
    stage.wait_until(lambda: stage.events("announced"))
    return next(
        pid
        for pid in stage.children_of(stage.agents["b"])
        if b"agents.guest" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def test_bursts_are_short_while_pages_follow_and_as_before_afterwards(stage):
    def seen():
        namespace = NetworkNamespace(stage.fabric.places["a"].pid)
        with namespace.entered():
            found = Path("/proc/sys/net/ipv4/tcp_tso_rtt_log").read_text()
        namespace.close()
        return int(found)

    before = seen()
    assert before > 0
    pushing(stage)
    assert seen() == 0
    assert stage.end_migration("a")["outcome"] == "completed"
    assert seen() == before


def test_a_guest_whose_source_is_lost_before_all_pages_came_is_lost_and_ended(stage):
    guest = pushing(stage)
    helpers = [pid for place in "ab" for pid in stage.children_of(stage.agents[place])]
    stage.kill(stage.agents["a"].pid)
    arrival = stage.agents["b"].wait_reply("arrival", 20)
    assert arrival["arrival"] == "lost"
    assert "The guest is lost, since a part of its RAM is nowhere" in arrival["reason"]
    assert [event["reason"] for event in stage.events("lost")] == [arrival["reason"]]
    assert stage.verify("b") == {"reply": "verified", "here": False}
    assert stage.fabric.gate("b") == 0
    stage.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (guest, *helpers)))
    assert not stage.events("pages")


def test_a_source_hears_that_the_guest_it_gave_away_is_lost(stage):
    stage.kill(pushing(stage))
    report = stage.end_migration("a")
    assert report["outcome"] == "lost"
    assert "The guest is lost, since a part of its RAM is nowhere: The guest's process has ended" in report["reason"]
    assert (report["completed_ns"], report["here"]) == (None, False)
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "lost"
    for place in "ab":
        assert stage.verify(place) == {"reply": "verified", "here": False}
        assert not stage.children_of(stage.agents[place])


@pytest.mark.slow
def test_of_a_hundred_guests_that_came_before_their_pages_every_page_is_right(stage):
    stage.boot(memory_bytes=32 << 20, working_set_bytes=16 << 20, dirty_bytes_per_s=40 << 20)
    client = stage.load(bulk=False)
    for number, (source, destination) in zip(range(100), itertools.cycle((("a", "b"), ("b", "a")))):
        report = stage.migrate(source, destination, mode=MODES[number // 2 % 2])
        assert (report["outcome"], report["reason"]) == ("completed", "")
        stage.agents[destination].wait_reply("arrival", 10)
        assert stage.verify(destination)["wrong_pages"] == 0
    stage.check_unharmed(client)


@pytest.fixture
def missing():
    """Eight pages of memory of which none is there, and a userfaultfd for them."""
    ram = Ram.create(memory_bytes=8 * PAGE_BYTES, present_pages=1)
    ram.discard(np.array([[0, 1]], dtype=np.uint64))
    fd = userfaultfd.open_missing()
    userfaultfd.register_missing(fd, start=ram.address, length=ram.memory_bytes)
    yield ram, fd
    userfaultfd.unregister(fd, start=ram.address, length=ram.memory_bytes)
    os.close(fd)
    ram.close()


def put(ram, fd, page, *numbers):
    """Place pages that are full of these numbers; returns how many found their place empty."""
    content = np.repeat(np.array(numbers, dtype=np.uint64), PAGE_WORDS)
    length = len(numbers) * PAGE_BYTES
    aligned = mmap.mmap(-1, length)
    aligned[:] = content.tobytes()
    source = np.frombuffer(aligned, dtype=np.uint64).ctypes.data
    to = ram.address + page * PAGE_BYTES
    return userfaultfd.place(fd, to=to, source=source, length=length, page_bytes=PAGE_BYTES)


def test_a_page_that_comes_late_never_overwrites_what_is_there(missing):
    ram, fd = missing
    assert put(ram, fd, 2, 7) == 1
    ram.words[2, 5] = 8
    assert put(ram, fd, 2, 9) == 0
    assert put(ram, fd, 0, 1, 2, 3, 4, 5) == 4
    assert ram.words[:5, 5].tolist() == [1, 2, 8, 4, 5]
    assert ram.words[2, 6] == 7


def test_whoever_touches_a_missing_page_waits_until_it_has_come_and_again_once_it_was_discarded(missing):
    ram, fd = missing
    place = ram.address + 3 * PAGE_BYTES
    pipe_out, pipe_in = os.pipe()
    for number in (11, 12):
        # By a system call, which lets go of Python's lock while it waits.
        reader = threading.Thread(target=os.write, args=(pipe_in, ram.view[3 * PAGE_BYTES :][:8]))
        reader.start()
        assert select.select([fd], [], [], 10)[0]
        assert userfaultfd.read_faults(fd) == [place]
        assert not select.select([pipe_out], [], [], 0)[0]
        assert put(ram, fd, 3, number) == 1
        assert os.read(pipe_out, 16) == number.to_bytes(8, "little")
        reader.join()
        ram.discard(np.array([[3, 1]], dtype=np.uint64))
    os.close(pipe_out)
    os.close(pipe_in)
