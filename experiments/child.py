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
        self._done = False  # it has said so, and may end
        self.ended = False  # nothing more will come from it

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when there is something to `receive`."""
        return self._stdout_fd

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
            raise self.died(f'before it was told to "{command}"') from error

    def wait_reply(self, reply: str, timeout_s: float) -> Reply:
        """Wait for a reply of this name; others that come before it are kept for their own `wait_reply`.

        Raises ChildError when the child dies, sends an error (`{"reply": "error", "message": ...}`), or stays silent
        for `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (found := self.take(reply)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout_fd], [], [], left)[0]:
                raise ChildError(self.silence(reply, timeout_s))
            if not self._read():
                raise self.died(f'before it answered "{reply}"')
        return found

    def take(self, reply: str) -> Reply | None:
        """The first reply of this name, if it has come; does not block. Raises ChildError if an error has come."""
        self._raise_error()
        for position, waiting in enumerate(self._waiting):
            if waiting.get("reply") == reply:
                return self._waiting.pop(position)
        return None

    def receive(self, *, when: str) -> None:
        """Take in what the child has sent (blocks if that is nothing).

        Raises ChildError if it sent an error, or has died before it was done; `when` ends that sentence.
        """
        alive = self._read()
        self._raise_error()
        if not alive and not self._done:
            raise self.died(when)

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

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until the child is gone."""
        self.send_signal(signal.SIGKILL)
        self._process.wait()

    def silence(self, reply: str, timeout_s: float) -> str:
        """The sentence for a child that does not answer."""
        return f'{self.name} did not answer "{reply}" within {timeout_s:g} s{self._quote()}'

    def _raise_error(self) -> None:
        for position, waiting in enumerate(self._waiting):
            if waiting.get("reply") == "error":
                del self._waiting[position]
                raise ChildError(f"{self.name} failed: {waiting.get('message', 'it did not say why')}{self._quote()}")

    def _read(self) -> bool:
        """Take in what stands in the pipe (blocks if nothing does); False at its end."""
        data = os.read(self._stdout_fd, 65536)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            try:
                reply = json.loads(line)
            except ValueError:
                reply = None
            if not isinstance(reply, dict):
                raise ChildError(
                    f"{self.name} sent a line that is not a reply: {line[:80].decode(errors='replace')!r}."
                )
            self._waiting.append(reply)
            self._done = self._done or reply.get("reply") == "done"
        self.ended = not data
        return bool(data)

    def died(self, when: str) -> ChildError:
        """The error that says how the child ended."""
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
