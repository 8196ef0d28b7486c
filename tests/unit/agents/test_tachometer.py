"""The tachometer: a guest's counters over time, looked at from outside."""

import time

from unnoticed.agents.ram import SMALLEST_BYTES, Ram, Super
from unnoticed.agents.tachometer import Tachometer
from unnoticed.clock import now_ns
from unnoticed.events import EventLog, read_events


def test_it_logs_what_the_counters_said_when_and_ends_with_the_last_look(tmp_path):
    log = tmp_path / "events.jsonl"
    ram = Ram.create(memory_bytes=SMALLEST_BYTES)
    tachometer = Tachometer(ram, EventLog(log, who="guest-a"))
    began_ns = now_ns()
    tachometer.start()
    tachometer.start()  # a guest that is resumed where it was paused
    for count in range(1, 6):
        ram.quads[Super.PAGES_WRITTEN], ram.quads[Super.PAGES_SKIPPED] = count * 100, count
        time.sleep(0.03)
    tachometer.stop()
    samples = [sample for event in read_events(log) for sample in event["samples"]]
    times, written, skipped = (list(column) for column in zip(*samples, strict=True))
    assert began_ns <= times[0]
    assert times == sorted(times)
    assert written == sorted(written)
    assert (written[-1], skipped[-1]) == (500, 5)
    assert written == [count * 100 for count in skipped]
    ram.close()  # nobody looks at it any more


def test_one_that_never_began_ends_without_a_word(tmp_path):
    log = tmp_path / "events.jsonl"
    ram = Ram.create(memory_bytes=SMALLEST_BYTES)
    Tachometer(ram, EventLog(log, who="guest-b")).stop()
    ram.close()
    assert list(read_events(log)) == []
