"""Helpers of an agent: processes of their own for what must not wait for the agent, nor the agent for it.

A helper is a module that is started with its settings as one JSON argument and told, over a socket, what to do. It says
"ready" when it stands, and "done" or "failed" once. It dies with its agent.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unnoticed.agents.kernel import libc
from unnoticed.errors import MigrationError, UnnoticedError
from unnoticed.patience import patient

_START_S = patient(120.0)  # a helper may have to compile what it needs, once on a machine
_PRIORITY = 30  # above all ordinary processes and below probers and relays, which measure or carry
_NICE_AT_START = 5  # loading modules takes a second of processor time, beside clients that are measured
_MESSAGE_BYTES = 1 << 16
_MOST_FDS = 4


class Helper:
    """The agent's handle on a helper."""

    def __init__(self, module: str, *, fds: Mapping[str, int], **settings: Any) -> None:
        """Start it. `fds` are handed over under their names."""
        self.name = module
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_START_S)
        arguments = {"control_fd": theirs.fileno(), **fds, **settings}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", f"unnoticed.agents.{module}", json.dumps(arguments)],
                    pass_fds=(theirs.fileno(), *fds.values()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE_AT_START)
        except BaseException:
            self._control.close()
            raise

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
        self._process.kill()
        self._process.wait()
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


def help_out(
    work: Callable[[Orders, dict[str, Any]], None], *, urgent: bool, make_ready: Callable[[], None] | None = None
) -> None:
    """The main function of a helper: `work`, and what goes wrong in it is said.

    `urgent`: before ordinary processes. `make_ready` is what takes time and can be done before.
    """
    settings = json.loads(sys.argv[1])
    libc.die_with_parent()
    orders = Orders(settings["control_fd"])
    if make_ready is not None:
        make_ready()
    gc.freeze()
    gc.disable()
    with contextlib.suppress(OSError):  # without the right it is only later
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        if urgent:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    try:
        orders.say("ready")
        work(orders, settings)
    except (UnnoticedError, OSError) as error:
        with contextlib.suppress(OSError):
            orders.say("failed", reason=str(error))
    except EOFError:
        os._exit(0)
