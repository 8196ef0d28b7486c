"""Entering another process's network namespace for a moment: a socket stays in the namespace it was created in.

Source: setns(2), include/uapi/linux/sched.h. `os.setns` comes with Python 3.12 only, so libc is called. The network
namespace belongs to the calling thread; the process's other threads are not moved.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unnoticed.errors import FabricError

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def tcp_counter_of(pid: int, name: str) -> int:
    """A counter of TCP in the network namespace of process `pid`, as RetransSegs (RFC 4022; net/ipv4/proc.c).

    Raises FabricError if that process is gone.
    """
    try:
        rows = [line.split() for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines()]
    except OSError as error:
        raise FabricError(f"The counters of process {pid}'s network namespace cannot be read: {error}.") from error
    names, values = (row for row in rows if row[0] == "Tcp:")
    return int(values[names.index(name)])


@contextmanager
def inside_network_of(pid: int) -> Iterator[None]:
    """Run the body in the network namespace of process `pid`, then return to the thread's own.

    Raises FabricError if that process is gone, or may not be entered.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(target)
            finally:
                os.close(target)
        except OSError as error:
            raise FabricError(f"The network namespace of process {pid} cannot be entered: {error}.") from error
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)
