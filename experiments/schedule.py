"""The schedule of a trial: links that change at moments of the migration, while it goes on.

Moments are read off the trial's event log, which the agents write: a round's end, the policy's decision to switch, the
guest's resumption. A change takes some milliseconds to make; when it began and ended is an event of its own (`link`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from unnoticed.clock import now_ns
from unnoticed.errors import UnnoticedError
from unnoticed.events import Event, EventLog, EventTail
from unnoticed.experiments.planning.settings import ScheduledChange
from unnoticed.topology.direction import LinkChange

_POLL_S = 0.002
AT_THE_END = "quiesce"


class Changeable(Protocol):
    """What links are changed on; a Fabric is one."""

    def change_link(self, change: LinkChange) -> None: ...
    def cut_link(self, link: str) -> None: ...
    def restore_link(self, link: str) -> None: ...


def moments(event: Event, *, has_rounds: bool) -> Iterator[tuple[str, int]]:
    """The moments that an event tells of, with their times."""
    match event["event"]:
        case "phase" if event["phase"] == "migration":
            yield "migration", int(event["time_ns"])
            if not has_rounds:  # stop-and-copy and post-copy begin with their cutover
                yield "cutover", int(event["time_ns"])
        case "round":
            yield f"round {event['round']}", int(event["end_ns"])
        case "forecast" if event["decision"] == "switch":
            yield "cutover", int(event["time_ns"])
        case "resumed":  # long before the migration's end, where pages come after the guest
            yield "resumed", int(event["time_ns"])


class Agenda:
    """What of a schedule is still to be done, and when. Pure: time is told."""

    def __init__(self, entries: Sequence[ScheduledChange]) -> None:
        self._waiting = list(entries)
        self._due: list[tuple[int, ScheduledChange]] = []

    def learn(self, moment: str, time_ns: int) -> None:
        """That a moment has come; only its first time counts."""
        self._due += [(time_ns + each.after_ns, each) for each in self._waiting if each.when == moment]
        self._waiting = [each for each in self._waiting if each.when != moment]
        self._due.sort(key=lambda pair: pair[0])  # stable: of the same instant, as written

    def take(self, *, now_ns: int) -> tuple[int, ScheduledChange] | None:
        """The next change that is due, with its time."""
        return self._due.pop(0) if self._due and self._due[0][0] <= now_ns else None

    @property
    def next_ns(self) -> int | None:
        """When the next one is due, of those whose moment has come."""
        return self._due[0][0] if self._due else None

    @property
    def missed(self) -> list[ScheduledChange]:
        """What has not been done."""
        return [*(each for _, each in self._due), *self._waiting]


class LinkSchedule:
    """Carries out a schedule in a thread of its own, from `start` to `stop`."""

    def __init__(
        self, entries: Sequence[ScheduledChange], *, links: Changeable, log: Path, events: EventLog, has_rounds: bool
    ) -> None:
        """`log` is the trial's event log, `events` where the changes are written: the same file."""
        self._agenda, self._links, self._events, self._has_rounds = Agenda(entries), links, events, has_rounds
        self._touched: dict[str, None] = {}
        self._problems: list[str] = []
        self._tail = EventTail(log)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedule", daemon=True) if entries else None

    def start(self) -> None:
        """Watch for the moments from now on."""
        if self._thread is not None:
            self._thread.start()

    def stop(self) -> list[str]:
        """End it, and let every link be what it was at first: else its clients could not end. May be repeated.

        Returns what went wrong, a sentence each; what never came to be done is no mistake, but an event.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return []
        self._ended.set()
        thread.join()
        for each in self._agenda.missed:
            self._events.write("link-missed", link=each.link, change=each.words, moment=each.moment)
        for link in self._touched:
            self._do(link, "restored", AT_THE_END, now_ns(), functools.partial(self._links.restore_link, link))
        return self._problems

    def __enter__(self) -> LinkSchedule:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Also where the trial failed; nothing is restored then that nobody needs."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            for event in self._tail.read():
                for moment, at_ns in moments(event, has_rounds=self._has_rounds):
                    self._agenda.learn(moment, at_ns)
            while (due := self._agenda.take(now_ns=now_ns())) is not None:
                self._carry_out(*due)
            next_ns = self._agenda.next_ns
            self._ended.wait(_POLL_S if next_ns is None else min(_POLL_S, max(0.0, (next_ns - now_ns()) / 1e9)))

    def _carry_out(self, due_ns: int, each: ScheduledChange) -> None:
        change = each.change
        match each.state:
            case "cut":
                self._do(each.link, each.words, each.moment, due_ns, lambda: self._links.cut_link(each.link))
            case "restored":
                self._do(each.link, each.words, each.moment, due_ns, lambda: self._links.restore_link(each.link))
            case None:
                assert change is not None
                self._do(each.link, each.words, each.moment, due_ns, lambda: self._links.change_link(change))
        self._touched = {**self._touched, each.link: None}

    def _do(self, link: str, words: str, moment: str, due_ns: int, action: Callable[[], None]) -> None:
        start_ns = now_ns()
        try:
            action()
        except UnnoticedError as error:
            self._problems.append(f"The link {link} could not be changed ({words} at {moment}): {error}")
        done = {"link": link, "change": words, "moment": moment, "due_ns": due_ns, "start_ns": start_ns}
        self._events.write("link", time_ns=start_ns, **done, end_ns=now_ns())
