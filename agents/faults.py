"""The pages that a guest waited for: when, and for how long. Written by one process to a memfd, read by another."""

from __future__ import annotations

import os
import struct

import numpy as np
import numpy.typing as npt

_ENTRY = struct.Struct("<QQ")


class FaultLog:
    """The writer's end: entries are kept in the memfd as they come."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def add(self, start_ns: int, latency_ns: int) -> None:
        """One page: from when the fault was read until the page was in place. CLOCK_MONOTONIC, ns."""
        os.write(self._fd, _ENTRY.pack(start_ns, latency_ns))


def create_log() -> int:
    """The descriptor of an empty log."""
    return os.memfd_create("faults", os.MFD_CLOEXEC)


def read_log(fd: int) -> npt.NDArray[np.uint64]:
    """All entries so far; shape (n, 2): start and latency in ns."""
    size = os.fstat(fd).st_size
    return np.frombuffer(os.pread(fd, size - size % _ENTRY.size, 0), dtype="<u8").reshape(-1, 2)
