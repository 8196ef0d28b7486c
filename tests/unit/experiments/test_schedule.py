from __future__ import annotations

import threading

import pytest

from unnoticed.errors import FabricError
from unnoticed.events import EventLog, read_events
from unnoticed.experiments.planning.settings import ScheduledChange
from unnoticed.experiments.schedule import Agenda, LinkSchedule, moments

MS = 1_000_000


def entry(**given):
    return ScheduledChange.model_validate({"link": "s1-s2", **given})


def test_moments_are_read_off_the_events_of_a_migration():
    events = [
        {"event": "phase", "phase": "warm-up", "time_ns": 1},
        {"event": "phase", "phase": "migration", "time_ns": 2},
        {"event": "round", "round": 0, "time_ns": 9, "start_ns": 2, "end_ns": 5},
        {"event": "forecast", "decision": "iterate", "time_ns": 6},
        {"event": "forecast", "decision": "switch", "time_ns": 7},
        {"event": "step", "step": "pause", "time_ns": 8, "start_ns": 8, "end_ns": 9},
        {"event": "resumed", "time_ns": 11},
        {"event": "migration", "outcome": "completed", "time_ns": 12, "resumed_ns": 11},
        {"event": "migration", "outcome": "gave-up", "time_ns": 12, "resumed_ns": None},
    ]
    found = [moment for event in events for moment in moments(event, has_rounds=True)]
    assert found == [("migration", 2), ("round 0", 5), ("cutover", 7), ("resumed", 11)]


def test_stop_and_copy_begins_with_its_cutover():
    event = {"event": "phase", "phase": "migration", "time_ns": 2}
    assert list(moments(event, has_rounds=False)) == [("migration", 2), ("cutover", 2)]


def test_changes_are_due_after_their_moment_in_order_and_only_once():
    first, second, third = entry(after="20 ms", loss="1 %"), entry(state="cut"), entry(when="round 1", state="restored")
    agenda = Agenda([first, second, third])
    assert agenda.take(now_ns=10**18) is None
    agenda.learn("migration", 100)
    agenda.learn("migration", 200)
    assert agenda.next_ns == 100
    assert agenda.take(now_ns=99) is None
    assert agenda.take(now_ns=100) == (100, second)
    assert agenda.take(now_ns=100) is None
    assert agenda.take(now_ns=100 + 20 * MS) == (100 + 20 * MS, first)
    assert agenda.missed == [third]


def test_a_change_says_what_it_is_and_when():
    change = entry(when="round 2", after="50 ms", loss="5 %", delay="5 ms")
    assert (change.words, change.moment) == ("delay 5 ms, loss 5 %", "round 2 + 50 ms")
    assert (entry(state="cut").words, entry(state="cut").moment) == ("cut", "migration")
    assert entry(state="cut").change is None


class Links:
    """What a schedule did to links; `broken` ones cannot be changed."""

    def __init__(self, broken=()):
        self.done, self.broken = [], broken
        self.enough = threading.Event()

    def _note(self, what, link):
        if link in self.broken:
            raise FabricError("It is stuck.")
        self.done.append((what, link))
        self.enough.set()

    def change_link(self, change):
        self._note(f"loss {change.loss_ppm}", change.link)

    def cut_link(self, link):
        self._note("cut", link)

    def restore_link(self, link):
        self._note("restored", link)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "events.jsonl"
    events = EventLog(path, who="runner")
    yield path, events
    events.close()


def test_a_schedule_changes_links_at_their_moments_and_restores_them_at_the_end(log):
    path, events = log
    links = Links()
    entries = [entry(loss="2 %"), entry(link="c1-s1", when="round 7", state="cut")]
    with LinkSchedule(entries, links=links, log=path, events=events, has_rounds=True) as schedule:
        events.write("phase", phase="migration")
        assert links.enough.wait(10)
        assert schedule.stop() == []
        assert schedule.stop() == []
    assert links.done == [("loss 20000", "s1-s2"), ("restored", "s1-s2")]
    told = [event for event in read_events(path) if event["event"].startswith("link")]
    assert [(event["event"], event["link"], event["change"], event["moment"]) for event in told] == [
        ("link", "s1-s2", "loss 2 %", "migration"),
        ("link-missed", "c1-s1", "cut", "round 7"),
        ("link", "s1-s2", "restored", "quiesce"),
    ]
    assert told[0]["due_ns"] <= told[0]["start_ns"] <= told[0]["end_ns"]


def test_a_link_that_cannot_be_changed_is_a_problem_of_the_trial(log):
    path, events = log
    links = Links(broken=("s1-s2",))
    entries = [entry(state="cut"), entry(link="c1-s1", state="cut")]
    with LinkSchedule(entries, links=links, log=path, events=events, has_rounds=True) as schedule:
        events.write("phase", phase="migration")
        assert links.enough.wait(10)
        problems = schedule.stop()
    assert problems[0] == "The link s1-s2 could not be changed (cut at migration): It is stuck."


def test_a_trial_that_fails_ends_its_schedule(log):
    path, events = log
    with (
        pytest.raises(FabricError, match="elsewhere"),
        LinkSchedule([entry(state="cut")], links=Links(), log=path, events=events, has_rounds=True),
    ):
        raise FabricError("It failed elsewhere.")
    assert not [thread for thread in threading.enumerate() if thread.name == "schedule"]
