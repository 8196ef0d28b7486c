"""The pages that a guest waited for: when, and for how long. Written by one process to a memfd, read by another.

An entry is two words of 64 bits, little-endian: when the fault was read, and how long it took from then until the page
was in place; CLOCK_MONOTONIC, ns.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

_ENTRY_BYTES = 16


def create_log() -> int:
    """The descriptor of an empty log."""
    return os.memfd_create("faults", os.MFD_CLOEXEC)


def read_log(fd: int) -> npt.NDArray[np.uint64]:
    """All entries so far; shape (n, 2): start and latency in ns."""
    size = os.fstat(fd).st_size
    return np.frombuffer(os.pread(fd, size - size % _ENTRY_BYTES, 0), dtype="<u8").reshape(-1, 2)
