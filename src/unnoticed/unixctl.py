"""Questions to a daemon of Open vSwitch over its control socket, as ovs-appctl(8) asks them.

Source: Open vSwitch, lib/unixctl.c and lib/jsonrpc.c: JSON-RPC 1.0 on a unix stream, one document after the other with
nothing in between. One question at a time; the socket can be polled, so that nobody need wait for the answer.
"""

from __future__ import annotations

import json
import socket
from typing import Any

_PIECE_BYTES = 1 << 16


class UnixctlError(Exception):
    """The daemon is gone, or did not understand; the message says which."""


class Unixctl:
    """A connection to the control socket at `path`."""

    def __init__(self, path: str, *, timeout_s: float) -> None:
        """Raises UnixctlError if nobody listens there. `timeout_s`: longest wait for an answer."""
        self.path = path
        self._timeout_s = timeout_s
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise UnixctlError(f"Open vSwitch does not answer at {path}: {error.strerror or error}.") from error

    def ask(self, command: str, *arguments: str) -> str:
        """Ask and wait for the answer. Raises UnixctlError."""
        self.send(command, *arguments)
        self._socket.settimeout(self._timeout_s)
        while True:
            answer = self.receive()
            if answer is not None:
                return answer

    def send(self, command: str, *arguments: str) -> None:
        """Ask, and do not wait. Raises UnixctlError."""
        question = json.dumps({"id": 0, "method": command, "params": list(arguments)})
        try:
            self._socket.sendall(question.encode())
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from error

    def poll_only(self) -> None:
        """From now on `receive` does not wait."""
        self._socket.setblocking(False)

    def receive(self) -> str | None:
        """The answer, or None if it is not there in full. Raises UnixctlError."""
        try:
            piece = self._socket.recv(_PIECE_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from error
        if not piece:
            raise self._gone("it closed the connection")
        self._received += piece
        try:
            answer: dict[str, Any] = json.loads(self._received)
        except ValueError:
            return None
        self._received = b""
        if answer.get("error") is not None:
            raise UnixctlError(f"Open vSwitch refused: {' '.join(str(answer['error']).split())}.")
        return str(answer.get("result", ""))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _gone(self, said: str) -> UnixctlError:
        return UnixctlError(f"Open vSwitch at {self.path} does not answer any more: {said}.")
