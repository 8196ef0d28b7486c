"""The event log of a trial: `events.jsonl`, one JSON object per line, written by every process of the trial.

Each line carries `time_ns` (CLOCK_MONOTONIC), `who` (the process) and `event`; the rest depends on the event.
Lines are appended with one `write` each on a file opened with O_APPEND, so processes can share the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unnoticed.clock import now_ns
from unnoticed.errors import RecordError

Event = dict[str, Any]


class EventLog:
    """Appends the events of one process to the log it shares with the others."""

    def __init__(self, path: Path, *, who: str) -> None:
        self._who = who
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, event: str, *, time_ns: int | None = None, **fields: Any) -> None:
        """Append one event; `time_ns` defaults to now."""
        line = {"time_ns": now_ns() if time_ns is None else time_ns, "who": self._who, "event": event, **fields}
        os.write(self._fd, (json.dumps(line, separators=(",", ":")) + "\n").encode())

    def close(self) -> None:
        os.close(self._fd)


class EventTail:
    """What has been added to an event log since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._partial = path, 0, b""

    def read(self) -> Iterator[Event]:
        """The new events; a line that is still being written waits for the next look."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        self._position += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def read_events(path: Path) -> Iterator[Event]:
    """The events of a log in the order they were written.

    Raises RecordError naming the line where one is not a JSON object with `time_ns`, `who` and `event`.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                event = json.loads(line)
                event["time_ns"], event["who"], event["event"]
            except (ValueError, TypeError, KeyError) as error:
                raise RecordError(f"{path}, line {number}: not an event of a trial ({error}).") from error
            yield event
