"""What a user sees while a run goes on: one live line on a terminal, plain lines elsewhere; all of it on stderr."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from unnoticed.experiments.planning.grid import Trial

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Unread(io.TextIOBase):
    """A stream that may lose its reader (`2>&1 | head`, a terminal that was closed): a run goes on without."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("no stream")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # what rich asks to know which characters it can draw
        return getattr(self._stream, "encoding", None) or "utf-8"


class RunProgress:
    """Follows a run in plain lines, one when a trial begins and one when it has ended. Also the base of the live line.

    `trial_begins`, any number of `phase`, `trial_ends`; `note` at any time.
    """

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self._stream = Unread(stream or sys.stderr)
        self._total = 0
        self._done = 0
        self._timed = 0
        self._spent_s = 0.0
        self._began_s: dict[str, float] = {}  # by the trial's id
        self._at_once = 1

    def run_begins(self, *, total: int, done: int, at_once: int = 1) -> None:
        """`done` of `total` trials were recorded by an earlier, interrupted run; `at_once` are performed at a time."""
        self._total, self._done, self._at_once = total, done, at_once
        if done:
            self.note(f"Going on after {done} of {total} trials." if done < total else f"All {total} trials are done.")

    def trial_begins(self, trial: Trial) -> None:
        self._began_s[trial.id] = time.monotonic()
        self._begin(trial)

    def phase(self, name: str) -> None:
        """The trial has come to this phase."""

    def trial_ends(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """`row` is the trial's row of the trials table."""
        self._done += 1
        self._timed += 1
        self._spent_s += time.monotonic() - self._began_s.pop(trial.id)
        self._end(f"{self._where(trial)}: {result_words(row)}{self._remaining()}")

    def note(self, sentence: str) -> None:
        """Something that the user should know now."""
        print(sentence, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing follows."""

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, trial: Trial) -> None:
        self.note(f"{self._where(trial)} ...")

    def _end(self, line: str) -> None:
        self.note(line)

    def _where(self, trial: Trial) -> str:
        return f"Trial {trial.number} of {self._total} ({_name(trial)})"

    def _remaining(self) -> str:
        left = self._total - self._done
        return f"; about {_duration(self._spent_s / self._timed * left / self._at_once)} left" if left > 0 else ""


_BESIDE_THE_NAME = 62  # columns of the live line: phase, bar, 99/99, time, time left


class LiveProgress(RunProgress):
    """Follows a run in one live line: the trial, its phase, a bar, the time left. What came of a trial stands above."""

    def __init__(self, *, stream: TextIO | None = None) -> None:
        super().__init__(stream=stream)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}"),
            TextColumn("{task.fields[phase]}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(file=cast(IO[str], self._stream), stderr=stream is None),
            transient=True,
        )
        self._task: TaskID | None = None
        self._trial: Trial | None = None

    def run_begins(self, *, total: int, done: int, at_once: int = 1) -> None:
        super().run_begins(total=total, done=done, at_once=at_once)
        self._task = self._progress.add_task("", total=total, completed=done, phase="", left="")
        self._progress.start()

    def phase(self, name: str) -> None:
        if self._trial is not None:
            room = max(8, self._progress.console.width - _BESIDE_THE_NAME)
            who = _name(self._trial)
            self._show(description=_escaped(who if len(who) <= room else who[: room - 1] + "…"), phase=name)

    def note(self, sentence: str) -> None:
        self._progress.console.print(sentence, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()

    def _begin(self, trial: Trial) -> None:
        self._trial = trial
        self.phase("begins")

    def _end(self, line: str) -> None:
        self.note(line.removesuffix(self._remaining()))
        self._show(completed=self._done, left=self._remaining().lstrip("; "))

    def _show(self, **fields: Any) -> None:
        if self._task is not None:
            self._progress.update(self._task, **fields)


def progress_for(stream: TextIO | None = None) -> RunProgress:
    """The live line where the stream is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return LiveProgress(stream=stream) if stream is not None and stream.isatty() else RunProgress(stream=stream)


def result_words(row: Mapping[str, Any]) -> str:
    """What a trial came to: `completed, blackout 12.3 ms, worst client 215 ms without answers, 2 retransmits`."""
    outcome, expected = row.get("outcome"), row.get("expected")
    words = [str(outcome)]
    if outcome == "failed" or (outcome == "lost" and expected != "lost"):
        reason = str(row.get("reason") or "").partition("\n")[0]
        return f"{outcome}: {reason}"
    if expected and outcome != expected:
        words[0] += f" (expected: {expected})"
    for column, text in (("blackout_ns", "blackout {} ms"), ("perceived_ns", "worst client {} ms without answers")):
        value = _number(row.get(column))
        if value is not None:
            least = "at least " if column == "perceived_ns" and row.get("unfinished") else ""
            words.append(text.format(least + (f"{value / 1e6:.3g}" if value < 1e9 else f"{value / 1e6:.0f}")))
    repeated = _number(row.get("retransmits"))
    if repeated is not None:
        words.append(_repeated_words(repeated, row))
    if _number(row.get("disturbed")):
        words.append("but this machine stalled meanwhile: it will not count")
    return ", ".join(words)


def _name(trial: Trial) -> str:
    """Its case, with what sets it apart there, if anything does."""
    words = trial.id.partition("-")[2]
    return trial.case if len(trial.case) >= len(words) else words


def _repeated_words(repeated: float, row: Mapping[str, Any]) -> str:
    """How many segments were sent again, how many of them because of the cutover, and how many at most by one flow."""
    said = f"{repeated:.0f} segment{'' if repeated == 1 else 's'} sent again" if repeated else "no segment sent again"
    because, worst = (_number(row.get(name)) for name in ("cutover_retransmits", "worst_flow_cutover_retransmits"))
    if not repeated or because is None:
        return said
    most = f", at most {worst:.0f} by a flow" if because and worst is not None else ""
    return f"{said} ({f'{because:.0f}' if because else 'none'} because of the cutover{most})"


def _number(value: Any) -> float | None:
    try:
        return None if value is None or value != value else float(value)  # noqa: PLR0124 (NaN is not equal to itself)
    except TypeError:  # pandas NA is neither true nor a number
        return None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


class Steps:
    """Follows work whose length is known beforehand: a live line on a terminal, else a plain line each tenth of it."""

    def __init__(self, *, total: int, total_s: float, stream: TextIO | None = None) -> None:
        self._stream = Unread(stream or sys.stderr)
        self._total, self._left_s = total, total_s
        self._begun = 0
        self._live: Progress | None = None
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._live = Progress(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.description}"),
                console=Console(file=cast(IO[str], self._stream), stderr=stream is None),
                transient=True,
            )
            self._task = self._live.add_task("", total=total, left="")

    def begins(self, words: str, *, lasts_s: float) -> None:
        """The next step, which is said in a few words, and lasts about that long."""
        left = f"about {_duration(self._left_s)} left"
        if self._live is not None:
            self._live.update(self._task, completed=self._begun, left=left, description=_escaped(words))
        elif self._begun % max(1, self._total // 10) == 0:
            self.note(f"{self._begun + 1} of {self._total}: {words}; {left}")
        self._begun += 1
        self._left_s -= lasts_s

    def note(self, sentence: str) -> None:
        """Something that the user should know now."""
        if self._live is not None:
            self._live.console.print(sentence, markup=False, highlight=False)
        else:
            print(sentence, file=self._stream, flush=True)

    def __enter__(self) -> Steps:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
