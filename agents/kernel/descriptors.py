"""The table of file descriptors of this process: made large enough before it matters (fs/file.c)."""

from __future__ import annotations

import fcntl
import os
import resource

SPARE = 64  # besides the connections: what any process has open


def reserve(count: int) -> None:
    """Allow as many descriptors as the hard limit does, and make room for `count` at once.

    The kernel grows the table when it is full, and where threads share it, waits for all processors to have seen that
    (expand_fdtable, synchronize_rcu): some 20 ms, which would fall in the blackout. A limit that is too low for
    `count` is no error here: it will be one when they are opened.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted = count + SPARE
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most - 1)
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, wanted))
    finally:
        os.close(fd)
