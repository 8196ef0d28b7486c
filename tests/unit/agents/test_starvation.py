"""When the guest got no processor."""

from __future__ import annotations

import os
import time
from pathlib import Path

from unnoticed.agents.starvation import Starvation
from unnoticed.events import EventLog, read_events

MS = 1_000_000


def waited_ns():
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1])


def test_who_sleeps_is_not_starved(tmp_path):
    path = tmp_path / "events.jsonl"
    starvation = Starvation(EventLog(path, who="guest"))
    waited = waited_ns()
    starvation.begin(0)
    starvation.look(10 * MS)
    time.sleep(0.05)
    starvation.look(60 * MS)
    # What the kernel says is all there is.
    assert sum(event["starved_ns"] for event in read_events(path)) <= waited_ns() - waited


def test_who_competes_for_one_processor_is(tmp_path):
    path = tmp_path / "events.jsonl"
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    rival = os.fork()
    if rival == 0:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            pass
        os._exit(0)
    try:
        starvation = Starvation(EventLog(path, who="guest"))
        starvation.begin(time.monotonic_ns())
        end = time.monotonic() + 0.9
        while time.monotonic() < end:
            starvation.look(time.monotonic_ns())
    finally:
        os.waitpid(rival, 0)
        os.sched_setaffinity(0, allowed)
    starved = list(read_events(path))
    assert starved
    assert all(event["since_ns"] < event["time_ns"] and event["starved_ns"] >= 2 * MS for event in starved)
