"""Helpers of an agent: processes of their own for what must not wait for the agent, nor the agent for it.

A helper is a module with a `DUTY`, that is told, over a socket, what to do. It says "done" or "failed" once. It is
forked by a process that has loaded the module before, the nursery: to load it takes a second of processor time, which
would be taken from a guest that is about to move, and from its clients. It dies with its agent.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unnoticed.errors import MigrationError, UnnoticedError
from unnoticed.patience import patient

LATER_PAGES = ("page_server", "page_pusher", "pager", "page_receiver")  # the helpers of a post-copy
ANSWERS = ("answerer",)  # and of clients that are answered while frames are held

_LOAD_S = patient(120.0)  # it may have to compile what helpers need, once on a machine
_ANSWER_S = patient(30.0)  # on a machine under load
_PRIORITY = 30  # above all ordinary processes and below probers and relays, which measure or carry
_MESSAGE_BYTES = 1 << 16
_MOST_FDS = 4


@dataclass(frozen=True)
class Duty:
    """What a helper does: its orders and settings are what it is called with.

    `is_urgent`: it comes before ordinary processes. `make_ready`: what takes time and can be done before.
    """

    work: Callable[[Orders, dict[str, Any]], None]
    is_urgent: bool
    make_ready: Callable[[], None] | None = None


class Nursery:
    """The agent's handle on the process that becomes helpers. It begins with the first of them, or before."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, modules: Sequence[str]) -> None:
        """Load these helpers' modules. Raises MigrationError."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_LOAD_S)
        settings = {"control_fd": theirs.fileno(), "modules": list(modules)}
        argv = [sys.executable, "-m", "unnoticed.agents.nursery", json.dumps(settings)]
        with theirs:
            self._process = subprocess.Popen(
                argv, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._receive()
        self._control.settimeout(_ANSWER_S)

    def fork(self, module: str, *, fds: Mapping[str, int], **settings: Any) -> tuple[socket.socket, int]:
        """A new helper: the socket to talk to it, and its pidfd. `fds` are handed over under their names.

        Raises MigrationError.
        """
        if self._control is None:
            self.begin([module])
        assert self._control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            order = {"module": module, "names": list(fds), "settings": settings}
            try:
                socket.send_fds(self._control, [json.dumps(order).encode()], [theirs.fileno(), *fds.values()])
                pidfd = self._receive()
            except OSError as error:
                ours.close()
                raise MigrationError(f"The process that becomes helpers is gone: {error}.") from error
            except BaseException:
                ours.close()
                raise
        return ours, pidfd

    def _receive(self) -> int:
        """What it has sent: the descriptor that came with it, or -1. Raises MigrationError."""
        assert self._control is not None
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 1, 1)
        except OSError as error:
            raise MigrationError(f"The process that becomes helpers does not answer: {error}.") from error
        if not data:
            raise MigrationError("The process that becomes helpers ended; its stderr says why.")
        return fds[0] if fds else -1

    def close(self) -> None:
        """End it, and the helpers with it."""
        if self._process is not None and self._control is not None:
            self._process.kill()
            self._process.wait()
            self._control.close()
            self._process = self._control = None


class Helper:
    """The agent's handle on a helper."""

    def __init__(self, nursery: Nursery, module: str, *, fds: Mapping[str, int], **settings: Any) -> None:
        """Start it. `fds` are handed over under their names. Raises MigrationError."""
        self.name = module
        self._control, self._pidfd = nursery.fork(module, fds=fds, **settings)
        self._control.settimeout(_ANSWER_S)

    def fileno(self) -> int:
        """Readable when it has said something, or has ended."""
        return self._control.fileno()

    def tell(self, message: str, *, fds: Sequence[int] = (), **fields: Any) -> None:
        """Tell it something. Raises MigrationError if it is gone."""
        try:
            socket.send_fds(self._control, [json.dumps({"message": message, **fields}).encode()], fds)
        except OSError as error:
            raise MigrationError(f"The process {self.name} is gone: {error}.") from error

    def expect(self, message: str) -> dict[str, Any]:
        """What it says next, which must be this. Raises MigrationError: when it failed, with its own reason."""
        try:
            data = self._control.recv(_MESSAGE_BYTES)
        except OSError as error:
            raise MigrationError(f"The process {self.name} does not answer: {error}.") from error
        said: dict[str, Any] = json.loads(data) if data else {}
        if said.get("message") == "failed":
            raise MigrationError(said["reason"])
        if said.get("message") != message:
            raise MigrationError(f"The process {self.name} ended; its stderr says why.")
        return said

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        select.select([self._pidfd], [], [])
        os.close(self._pidfd)
        self._control.close()


class Orders:
    """The helper's end."""

    def __init__(self, fd: int) -> None:
        self._control = socket.socket(fileno=fd)

    def fileno(self) -> int:
        """Readable when there is an order."""
        return self._control.fileno()

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next order and the descriptors that came with it. Raises EOFError when the agent is gone."""
        data, ancillary, _, _ = self._control.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(_MOST_FDS * 4))
        if not data:
            raise EOFError
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        return json.loads(data), list(fds)

    def say(self, message: str, **fields: Any) -> None:
        """Say something to the agent."""
        self._control.send(json.dumps({"message": message, **fields}).encode())


def help_out(duty: Duty, control_fd: int, settings: dict[str, Any]) -> None:
    """Be a helper from here on: do its duty, and say what goes wrong in it. Returns when that is over."""
    orders = Orders(control_fd)
    if duty.is_urgent:
        with contextlib.suppress(OSError):  # without the right it is only later
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    try:
        duty.work(orders, settings)
    except (UnnoticedError, OSError) as error:
        with contextlib.suppress(OSError):
            orders.say("failed", reason=str(error))
    except EOFError:
        pass  # the agent is gone


def duty_of(module: str) -> Duty:
    """The duty of a helper, by the name of its module."""
    duty = importlib.import_module(f"unnoticed.agents.{module}").DUTY
    assert isinstance(duty, Duty)
    return duty
