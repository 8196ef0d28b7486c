"""The parent's end of the control channel: one child process of a trial (its own end is `unnoticed.control`).

JSON lines go to its stdin and come from its stdout; its stderr is a file in the trial's folder, whose tail is quoted
when the child fails. A child ends when its stdin does, so a runner that dies takes its children with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from unnoticed.errors import UnnoticedError

Reply = dict[str, Any]

_TAIL_BYTES = 2000
_TAIL_LINES = 6


class ChildError(UnnoticedError):
    """A child process of a trial died, did not answer in time, or reported an error (the trial fails)."""


class Child:
    """One child process, started with pipes for stdin and stdout, which this object owns from now on."""

    def __init__(self, process: subprocess.Popen[bytes], *, name: str, stderr: Path | None = None) -> None:
        """`name` is what error messages call it (`agent-a`); `stderr` is the file that its stderr goes to."""
        if process.stdin is None or process.stdout is None:
            raise ValueError(f"{name} was started without a pipe for stdin and stdout")
        self.name = name
        self._process = process
        self._stdin_fd = process.stdin.fileno()
        self._stdout_fd = process.stdout.fileno()
        self._stderr = stderr
        self._partial = b""
        self._waiting: list[Reply] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, timeout_s: float) -> Reply:
        """Wait until the child says that it is ready. Raises ChildError as `wait_reply` does."""
        return self.wait_reply("ready", timeout_s)

    def command(self, command: str, **fields: Any) -> None:
        """Send one command. Raises ChildError if the child is gone."""
        data = (json.dumps({"command": command, **fields}) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._stdin_fd, data) :]
        except BrokenPipeError as error:
            raise self._died(f'before it was told to "{command}"') from error

    def wait_reply(self, reply: str, timeout_s: float) -> Reply:
        """Wait for a reply of this name; others that come before it are kept for their own `wait_reply`.

        Raises ChildError when the child dies, sends an error (`{"reply": "error", "message": ...}`), or stays silent
        for `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            for position, waiting in enumerate(self._waiting):
                if waiting.get("reply") == "error":
                    del self._waiting[position]
                    raise ChildError(
                        f"{self.name} failed: {waiting.get('message', 'it did not say why')}{self._quote()}"
                    )
                if waiting.get("reply") == reply:
                    return self._waiting.pop(position)
            self._receive(reply, deadline, timeout_s)

    def replies(self) -> list[Reply]:
        """What the child has sent and nobody has waited for yet; does not block."""
        while select.select([self._stdout_fd], [], [], 0)[0] and self._read():
            pass
        taken, self._waiting = self._waiting, []
        return taken

    def close(self, timeout_s: float = 2.0) -> int:
        """End the child: close its stdin, wait, and kill it by its pid if it lingers. Gives its exit status."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL, and wait until the child is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _receive(self, reply: str, deadline: float, timeout_s: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._stdout_fd], [], [], left)[0]:
            raise ChildError(f'{self.name} did not answer "{reply}" within {timeout_s:g} s{self._quote()}')
        if not self._read():
            raise self._died(f'before it answered "{reply}"')

    def _read(self) -> bool:
        """Take in what stands in the pipe (blocks if nothing does); False at its end."""
        data = os.read(self._stdout_fd, 65536)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            try:
                self._waiting.append(json.loads(line))
            except ValueError as error:
                shown = line[:80].decode(errors="replace")
                raise ChildError(f"{self.name} sent a line that is not a reply: {shown!r}.") from error
        return bool(data)

    def _died(self, when: str) -> ChildError:
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return ChildError(f"{self.name} closed its control channel {when}{self._quote()}")
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return ChildError(f"{self.name} {how} {when}{self._quote()}")

    def _quote(self) -> str:
        """The end of the child's stderr, to be put at the end of a sentence."""
        if self._stderr is None or not self._stderr.is_file():
            return "."
        with self._stderr.open("rb") as file:
            file.seek(max(0, self._stderr.stat().st_size - _TAIL_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        if not lines:
            return " (it wrote nothing to its stderr)."
        return "; its stderr ends:\n" + "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])
