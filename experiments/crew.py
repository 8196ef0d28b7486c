"""The crew: several processes that perform trials of one run at the same time, each on a fabric of its own.

Each member (`crew_member`) is a run of its own to the machine: its id marks what it makes, so that one that dies takes
nothing of the others with it. This end hands out the trials, in the plan's order, and hears what came of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from unnoticed import errors
from unnoticed.errors import PlanError, UnnoticedError
from unnoticed.experiments.child import Child, ChildError
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.progress import RunProgress
from unnoticed.patience import patient

_END_S = patient(120.0)  # a member that is interrupted takes its trial down first

_MEMBER = (sys.executable, "-m", "unnoticed.experiments.crew_member")

Failed = Callable[[Trial, str], None]  # told of a trial whose performer died, and why


class Crew:
    """`count` members, started when there is something to do, for the run in `folder`.

    `plan_name`, `overrides` and `repeats` are what the plan was loaded from; `clean_up` is called when one has died.
    """

    def __init__(
        self,
        count: int,
        *,
        folder: Path,
        plan_name: str,
        overrides: Sequence[str] = (),
        repeats: int | None = None,
        bench: str = "live",
        clean_up: Callable[[], object] = lambda: None,
    ) -> None:
        self.count = count
        settings = {"folder": str(folder), "plan": plan_name, "overrides": list(overrides), "repeats": repeats}
        self._settings = json.dumps({**settings, "bench": bench, "runner": os.getpid()})
        self._stderr = folder / "crew.stderr"
        self._clean_up = clean_up
        self._members: dict[Child, Trial | None] = {}

    def perform(self, trials: Sequence[Trial], *, progress: RunProgress, failed: Failed) -> None:
        """Have all trials performed, analysed and stored.

        A trial whose performer dies is `failed`, and another takes its place. Raises what a member could not go on
        for: MachineError, PlanError or RecordError.
        """
        waiting = deque(trials)
        while waiting or any(self._members.values()):
            self._hand_out(waiting, progress)
            for member in self._heard():
                self._listen(member, progress, failed)

    def close(self) -> None:
        """Interrupt whoever is at work, and wait until all are gone."""
        for member in self._members:
            member.send_signal(signal.SIGTERM)
        for member in list(self._members):
            member.close(_END_S)
        self._members.clear()
        if self._stderr.exists() and not self._stderr.stat().st_size:
            self._stderr.unlink()

    def _hand_out(self, waiting: deque[Trial], progress: RunProgress) -> None:
        idle = deque(member for member, trial in self._members.items() if trial is None)
        while waiting and (idle or len(self._members) < self.count):
            member = idle.popleft() if idle else self._start()
            trial = self._members[member] = waiting.popleft()
            with contextlib.suppress(ChildError):  # it is dead, which is heard next
                member.command("perform", trial=trial.id)
            progress.trial_begins(trial)
            progress.phase(f"{sum(each is not None for each in self._members.values())} at once")

    def _start(self) -> Child:
        with self._stderr.open("ab") as stderr:
            process = subprocess.Popen(
                [*_MEMBER, self._settings],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, process_group=0,
            )  # fmt: skip
        member = Child(process, name="the performer of trials", stderr=self._stderr)
        self._members[member] = None
        return member

    def _heard(self) -> Iterator[Child]:
        poll = select.poll()
        members = {member.fileno(): member for member in self._members}
        for descriptor in members:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll():
            yield members[descriptor]

    def _listen(self, member: Child, progress: RunProgress, failed: Failed) -> None:
        trial = self._members[member]
        try:
            member.receive(when=f"in trial {trial.id}" if trial else "between trials")
        except ChildError as error:
            del self._members[member]
            member.close()
            self._clean_up()
            if trial is not None:
                failed(trial, str(error))
            return
        if (stopped := member.take("stopped")) is not None:
            raise _raised(stopped["family"], stopped["problems"])
        if trial is not None and (done := member.take("performed")) is not None:
            self._members[member] = None
            progress.trial_ends(trial, done["row"])


def _raised(family: str, problems: Sequence[str]) -> UnnoticedError:
    """The error of a member, as if it had been raised here."""
    kind: type[UnnoticedError] = getattr(errors, family, UnnoticedError)
    return PlanError(*problems) if kind is PlanError else kind("\n".join(problems))
