"""The control channel of a child process: JSON lines, commands on its stdin and replies on its stdout.

The parent's end is `unnoticed.experiments.child`. When the parent dies, however it dies, stdin reaches its end and
`receive` raises ParentGoneError: a child that lets it propagate leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

Command = dict[str, Any]


class ParentGoneError(Exception):
    """The parent closed the control channel, or died."""


class Control:
    """The child's end. `fileno()` makes it usable in select, poll and epoll."""

    def __init__(self) -> None:
        self._fd = os.dup(sys.stdin.fileno())
        self._reply_fd = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not pass for a reply
        self._partial = b""

    def fileno(self) -> int:
        return self._fd

    def receive(self) -> list[Command]:
        """Read what is there (blocks if nothing is) and return the commands completed by it."""
        data = os.read(self._fd, 65536)
        if not data:
            raise ParentGoneError
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def reply(self, reply: str, **fields: Any) -> None:
        """Send one reply line, e.g. `reply("ready")`."""
        data = (json.dumps({"reply": reply, **fields}) + "\n").encode()
        while data:
            data = data[os.write(self._reply_fd, data) :]
