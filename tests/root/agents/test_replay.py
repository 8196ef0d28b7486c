"""A guest replays a trace: a dirty tracker finds the trace's pages in their intervals, and it moves as any other."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from unnoticed.agents import replay
from unnoticed.agents.guest_process import GuestProcess, GuestSettings
from unnoticed.agents.ram import Ram, Super
from unnoticed.agents.recorder import AreaWatch, record
from unnoticed.agents.trace import condensed, packed, pages_of, read_trace
from unnoticed.agents.tracking import track
from unnoticed.patience import patient

pytestmark = pytest.mark.root

REDIS = Path(__file__).parents[3] / "experiments/stock/redis.trace"
BATCH = 512  # the most that a guest writes before it counts them
ADDRESS = f"127.78.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"  # of this test alone: the port is fixed


class HereAlready:
    """In the place of a network namespace: the test's own, which needs no entering."""

    def entered(self):
        return contextlib.nullcontext()


class NotedWatch(AreaWatch):
    """Notes how far the guest had got, by its own counters, before and after each look."""

    def __init__(self, guest):
        super().__init__(track(guest))
        self.quads, self.before, self.after = guest.ram.quads, [], []

    def look(self):
        self.before.append((self.quads[Super.PAGES_WRITTEN], self.quads[Super.DIRTIED_NS]))
        pages = super().look()
        self.after.append((self.quads[Super.PAGES_WRITTEN], self.quads[Super.DIRTIED_NS]))
        return pages


def test_a_recorded_redis_dirties_the_guest_s_pages_as_it_dirtied_its_own(tmp_path):
    trace = read_trace(REDIS)
    settings = GuestSettings(
        addresses=(ADDRESS,), interface="lo", congestion="reno", events=str(tmp_path / "events.jsonl"), who="guest-a"
    )
    guest = GuestProcess(settings, ram=Ram.create(memory_bytes=64 << 20), namespace=HereAlready())
    try:
        guest.wait_ready()
        guest.boot(working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
        replay.load(guest.ram, trace)
        guest.resume(moved=False)
        watch = NotedWatch(guest)
        found = record(
            watch,
            interval_ns=trace.interval_ns,
            goes_on=lambda have: have < 25,
            now=lambda: guest.ram.quads[Super.DIRTIED_NS],
        )
        guest.pause()
        watch.close()
        del watch.quads
        written = guest.ram.quads[Super.PAGES_WRITTEN]
        wrong = replay.loaded(guest.ram).wrong_pages(guest.ram.words, written=written)
    finally:
        guest.kill()
        guest.ram.close()
    assert wrong == 0
    rows = [pages_of(row, pages=trace.pages) for row in trace.bits]
    cycle = np.concatenate(rows)

    def pages_of_writes(start, stop):
        return set(cycle[np.arange(start, stop) % len(cycle)].tolist())

    for place, pages in enumerate(found.intervals):
        (begun, begun_ns), (at_least, _) = watch.after[place], watch.before[place + 1]
        (since, _), (at_most, ended_ns) = watch.before[place], watch.after[place + 1]
        seen = set(pages.tolist())
        assert pages_of_writes(begun + BATCH, at_least) <= seen <= pages_of_writes(since, at_most + BATCH)
        number = found.first + place
        if begun_ns < (number + 0.05) * trace.interval_ns and ended_ns < (number + 1.05) * trace.interval_ns:
            own, later = (len(rows[each % len(rows)]) for each in (number, number + 1))
            assert abs(len(seen) - own) <= 0.1 * own + 0.05 * later  # both looks were in time


def test_a_guest_that_replays_a_trace_moves_there_and_back_with_its_place_in_it(stage):
    intervals = [np.arange(start, start + 200, dtype=np.uint64) for start in range(0, 1000, 100)]
    intervals[3] = np.empty(0, np.uint64)
    path = stage.folder / "some.trace"
    path.write_bytes(packed(condensed(intervals, interval_ns=20_000_000, tracker="comparison", about={})))
    stage.boot(trace=str(path))
    for source, destination in (("a", "b"), ("b", "a")):
        report = stage.migrate(source, destination, policy="fixed-rounds", parameters={"rounds": 3}, verify=True)
        assert (report["outcome"], report["reason"]) == ("completed", "")
        stage.agents[destination].wait_reply("arrival", patient(10))
    rounds = stage.events("round")
    assert all(event["dirty_pages"] > 0 for event in rounds if event["round"] == 0)
    stage.check_guest("a", resumes=3)
    ends = [event["samples"][-1] for event in stage.events("dirtier")]
    written = [count for _, count, _ in sorted(ends)]
    assert written == sorted(written)
    assert written[-1] > written[0] > 0


def test_a_trace_that_cannot_be_read_boots_no_guest(stage):
    path = stage.folder / "other.trace"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(Exception, match="this is no trace"):
        stage.boot(trace=str(path))
    assert stage.verify("a") == {"reply": "verified", "here": False}
