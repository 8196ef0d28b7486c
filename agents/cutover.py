"""The cutover as an ordered list of named, timed steps: the list that becomes the report's waterfall.

At the source: hush (new connections wait), owe (where pages come after the guest), pause, hold (connections start
nothing), scan (for the last dirty pages), send (those), settle, close-gate, dump (the connections, sent part by part),
await-ready, relinquish. At the destination: receive (the pages), restore (one part of the connections while the source
dumps the next), await-relinquish, open-gate, announce, revive (leave repair mode), resume. The two ends work side by
side: the waterfall gives each instant to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from unnoticed.clock import now_ns
from unnoticed.errors import MigrationError
from unnoticed.events import EventLog


@dataclass(frozen=True)
class Step:
    """One step of a cutover, CLOCK_MONOTONIC ns."""

    name: str
    start_ns: int
    end_ns: int


class Cutover:
    """Times the steps of one end. They are logged only by `report`: nothing is written while the guest stands still."""

    def __init__(self, *, place: str, migration: int, fail_at: str | None = None) -> None:
        """`fail_at`: fail on purpose when the step of this name begins, to try what a failure there does."""
        self.steps: list[Step] = []
        self._place, self._migration, self._fail_at = place, migration, fail_at

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block as a step, also when it fails."""
        start_ns = now_ns()
        if name == self._fail_at:
            raise MigrationError(f"Step {name} at {self._place} was asked to fail.")
        try:
            yield
        finally:
            self.steps.append(Step(name, start_ns, now_ns()))

    def record(self, name: str, *, start_ns: int, end_ns: int) -> None:
        """Enter a step that was timed elsewhere."""
        self.steps.append(Step(name, start_ns, end_ns))

    def forget(self) -> None:
        """Drop the steps so far: the cutover was put off."""
        self.steps.clear()

    def report(self, events: EventLog) -> None:
        """Log the steps, in order."""
        for step in self.steps:
            events.write(
                "step",
                time_ns=step.start_ns,
                migration=self._migration,
                step=step.name,
                place=self._place,
                start_ns=step.start_ns,
                end_ns=step.end_ns,
            )
