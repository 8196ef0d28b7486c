"""The process that becomes helpers (`unnoticed.agents.helper`): it loads their modules, and forks when it is told to.

It has one thread, and what it has loaded is not counted again by any of its children's garbage collectors.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

from unnoticed.agents.helper import duty_of, help_out
from unnoticed.agents.kernel import libc

_MESSAGE_BYTES = 1 << 16
_MOST_FDS = 8
_ENDED = {signal.SIGCHLD}


def main() -> None:
    """Argument: JSON with control_fd and the names of the modules to load. It says when it has, and then obeys.

    An order is JSON with the name of a module, its settings, and the names of descriptors, which come with it, after
    the helper's own end of a socket. What comes back is the helper's pidfd.
    """
    settings = json.loads(sys.argv[1])
    libc.die_with_parent()
    nursery = os.getpid()
    control = socket.socket(fileno=settings["control_fd"])
    for name in settings["modules"]:
        duty = duty_of(name)
        if duty.make_ready is not None:
            duty.make_ready()
    gc.freeze()
    gc.disable()
    signal.signal(signal.SIGCHLD, _reap)
    control.send(b"r")
    while True:
        data, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _MOST_FDS)
        if not data:
            return
        order = json.loads(data)
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDED)  # its pid is its own until there is a pidfd
        pid = os.fork()
        if pid == 0:
            control.close()
            libc.die_with_parent()
            if os.getppid() != nursery:  # it had died before
                os._exit(1)
            _become(order["module"], fds[0], order["settings"] | dict(zip(order["names"], fds[1:], strict=True)))
        pidfd = os.pidfd_open(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDED)
        socket.send_fds(control, [b"h"], [pidfd])
        for fd in (pidfd, *fds):
            os.close(fd)


def _reap(_number: int, _frame: object) -> None:
    """Forget the helpers that have ended: the agent has seen it."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def _become(module: str, control_fd: int, settings: dict[str, object]) -> None:
    """Be a helper, and end."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDED)
        Path("/proc/self/comm").write_text(module, encoding="ascii")
        help_out(duty_of(module), control_fd, settings)
        code = 0
    except BaseException:  # the process of which this is a copy must not go on in it
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
