"""Try something where it can do no harm: in a child process, and if asked in a network namespace that dies with it."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

from unnoticed.errors import MachineError

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h


class TrialError(Exception):
    """What was tried did not work; the message says how."""


def in_child(attempt: Callable[[], Any], *, timeout_s: float, network: bool) -> Any:
    """Run `attempt` in a forked child and give what it returns, which must go through JSON.

    With `network`, the child has a network namespace of its own with nothing but `lo` in it. Raises TrialError with
    the child's message when the attempt fails, and MachineError when it does not come back within `timeout_s`.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_child(attempt, writing, network=network)
    os.close(writing)
    try:
        data, deadline = b"", time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([reading], [], [], left)[0]:
                raise MachineError(f"A trial in a child process did not come back within {timeout_s:g} s.")
            piece = os.read(reading, 1 << 20)
            if not piece:
                break
            data += piece
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)  # it is our child and not yet waited for: the pid is still its own
        _, status = os.waitpid(pid, 0)
    if not data:
        raise TrialError(f"the process that tried it died (status {status})")
    answer = json.loads(data)
    if "error" in answer:
        raise TrialError(answer["error"])
    return answer["value"]


def enter_network_namespace() -> None:
    """Move the calling process into a new network namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _be_child(attempt: Callable[[], Any], writing: int, *, network: bool) -> NoReturn:
    try:
        os.setsid()  # a signal to the terminal's group is for the parent
        if network:
            enter_network_namespace()
        answer = {"value": attempt()}
    except BaseException as error:
        text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        answer = {"error": text or type(error).__name__}
    data = json.dumps(answer).encode()
    while data:
        data = data[os.write(writing, data) :]
    os._exit(0)
