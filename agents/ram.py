"""The guest's RAM: a memfd that guest and agent both map, and what lies where in it.

The whole state of the guest is in here: page 0 is the superblock, then one page per connection slot (what the
connection is for, how far it got, bytes that wait to be sent), then the area the dirtier writes to. A guest that is
started on a copy of this memory, with the same TCP connections, goes on where the other one stopped.
"""

from __future__ import annotations

import errno
import mmap
import os
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel import libc
from unnoticed.agents.kernel.pagemap import Runs

PAGE_BYTES = 4096
PAGE_WORDS = 512
SLOTS = 1024
FIRST_SLOT_PAGE = 1
FIRST_DIRTIER_PAGE = FIRST_SLOT_PAGE + SLOTS
SMALLEST_BYTES = 16 << 20

MAGIC = 0x4D41525F54534555  # "UEST_RAM"
VERSION = 3

Words = npt.NDArray[np.uint64]


class Super(IntEnum):
    """Words of the superblock."""

    MAGIC = 0
    VERSION = 1
    MEMORY_BYTES = 2
    WORKING_SET_PAGES = 3
    PATTERN = 4
    DIRTY_PAGES_PER_S = 5
    PAGES_WRITTEN = 6  # by the dirtier, since the guest was booted
    RESUMES = 7
    PAGES_SKIPPED = 8  # writes that were due, but could not be kept up with
    THROTTLED_NS = 9  # for how long the agent has kept the guest from running, to slow its writes
    ZERO_PPM = 10  # what the dirtier's area was filled with: `dirtier.Contents`
    COMPRESSIBLE_PPM = 11
    DIRTIED_NS = 12  # for how long the dirtier has gone on, by its own clock: it stands still while the guest does
    TRACE_PAGES = 13  # of a trace that the dirtier replays, which lies in the last pages of the RAM; 0: there is none
    TRACE_INTERVALS = 14
    TRACE_INTERVAL_NS = 15
    TRACE_DIGEST = 16
    ACCEPTED = 17  # connections, since the guest was booted
    IPERF3_SLOT = 18  # of the connection whose test it is, plus 1: there is one at a time


class Slot(IntEnum):
    """Words of a connection slot."""

    STATE = 0
    KIND = 1
    CONNECTION = 2
    ANSWERED = 3
    PREVIOUS = 4
    POSITION = 5  # of the bulk stream
    WRONG = 6
    DESCRIPTOR = 7  # of the guest process on this host; the one thing that does not travel
    PEER_CLOSED = 8
    IN_LENGTH = 9
    OUT_LENGTH = 10
    RATE = 11  # bytes per second of a download, 0 for unpaced
    REMOTE_ADDRESS = 12  # the client's, two words of packed bytes: a connection that was reset has forgotten it
    REMOTE_PORT = 14
    SERIAL = 15  # which of the connections that the guest accepted; 0 until it can be looked at from outside
    TEST = 16  # the first of the words of a test of iperf3 (`iperf3.Word`)


IN_OFFSET, IN_BYTES = 256, 64  # a message that has arrived in part
IPERF3_IN_BYTES = 1024  # and one of iperf3: its parameters, or results
OUT_OFFSET, OUT_BYTES = 2048, 2048  # answers that the kernel has not taken yet


class SlotState(IntEnum):
    FREE = 0
    GREETING = 1
    SERVING = 2
    FINISHING = 3  # closes as soon as nothing waits to be sent


class Ram:
    """The memory of one guest, mapped. `view` is all of it as bytes, `words` as 64-bit words (shape: pages x 512)."""

    def __init__(self, fd: int, *, memory_bytes: int, populate: bool = True) -> None:
        """Map an existing memfd, with every page faulted in: a first touch later would cost 4 to 10 us each.

        Not so where pages are missing that are to come later (`populate`): to touch one here would make it.
        """
        self.fd = fd
        self.memory_bytes = memory_bytes
        self.pages = memory_bytes // PAGE_BYTES
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0)
        self._map = mmap.mmap(fd, memory_bytes, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        self.view = memoryview(self._map)
        self.quads = self.view.cast("Q")
        self.words: Words = np.frombuffer(self.view, dtype=np.uint64).reshape(self.pages, PAGE_WORDS)
        self.address = int(self.words.ctypes.data)

    @classmethod
    def create(cls, *, memory_bytes: int, present_pages: int | None = None) -> Ram:
        """New memory, all zero and allocated, but for what is behind `present_pages`: that is missing, and comes later.

        Raises OSError where the machine has not got so much.

        The kernel would not refuse: it would allocate until it has to kill somebody.
        """
        available_bytes = _available_bytes()
        if memory_bytes > available_bytes:
            raise OSError(errno.ENOMEM, f"only {available_bytes >> 20} MiB of memory are available")
        fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
        try:
            if present_pages is None:
                os.posix_fallocate(fd, 0, memory_bytes)
                return cls(fd, memory_bytes=memory_bytes)
            os.truncate(fd, memory_bytes)
            os.posix_fallocate(fd, 0, present_pages * PAGE_BYTES)
            return cls(fd, memory_bytes=memory_bytes, populate=False)
        except BaseException:
            os.close(fd)
            raise

    @property
    def slots(self) -> Words:
        """The connection slots, one row each."""
        return self.words[FIRST_SLOT_PAGE:FIRST_DIRTIER_PAGE]

    def used_slots(self) -> list[int]:
        """The numbers of the slots that hold a connection, ascending."""
        numbers: list[int] = np.flatnonzero(self.slots[:, Slot.STATE]).tolist()
        return numbers

    def discard(self, runs: Runs) -> None:
        """Make pages missing, in every mapping of them. `runs`, shape (n, 2): first page, count. Raises OSError."""
        for first, count in runs.tolist():
            libc.punch_hole(self.fd, offset=first * PAGE_BYTES, length=count * PAGE_BYTES)

    def close(self) -> None:
        """Unmap and close. Arrays and views handed out must be gone."""
        del self.words
        self.quads.release()
        self.view.release()
        self._map.close()
        os.close(self.fd)


def _available_bytes() -> int:
    """What can be allocated without swapping, as the kernel estimates it (proc(5), MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/meminfo does not say how much memory is available")


def slot_base(slot: int) -> int:
    """Index in `quads` of a slot's first word."""
    return (FIRST_SLOT_PAGE + slot) * PAGE_WORDS
