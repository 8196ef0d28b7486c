"""Page streaming: runs of pages from one RAM into a TCP stream, and from the stream into the other RAM, without a
copy in between.

Long runs go by `sendfile` from the memfd and are read straight into place; scattered ones go by `writev` and
`recvmsg` over an array of (base, length) that numpy fills in one go. What is queued by `sendfile` aliases live
memory: a page that the guest rewrites before it left is sent again in a later round, so that is harmless until the
pause, and after it nothing changes.
"""

from __future__ import annotations

import ctypes
import os
import socket

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel import libc
from unnoticed.agents.kernel.pagemap import PAGE_BYTES, Runs
from unnoticed.errors import PeerError

_VECTORS = 1024  # UIO_MAXIOV
_LONG_RUN_PAGES = 64  # on average: from here on a system call for each run is cheap
_SENDFILE_BYTES = 4 << 20


class _MessageHeader(ctypes.Structure):
    """struct msghdr (include/linux/socket.h)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


def pages_in(runs: Runs) -> int:
    """How many pages the runs hold."""
    return int(runs[:, 1].sum())


def send_pages(connection: socket.socket, *, fd: int, address: int, runs: Runs) -> None:
    """Send the pages of all runs, in order. `fd` is the memfd, `address` where this process has mapped it.

    Raises PeerError when the connection breaks or takes nothing for the length of its time limit.
    """
    if len(runs) == 0:
        return
    try:
        if pages_in(runs) >= _LONG_RUN_PAGES * len(runs):
            for first, pages in runs.tolist():
                _send_file(connection.fileno(), fd, first * PAGE_BYTES, pages * PAGE_BYTES)
        else:
            _vectored("writev", connection.fileno(), _vectors(address, runs))
    except OSError as error:
        raise PeerError(f"The destination stopped taking pages: {error}.") from error


def receive_pages(connection: socket.socket, *, address: int, runs: Runs) -> None:
    """Receive the pages of all runs to their places in the RAM mapped at `address`.

    The runs must have been checked against the size of the RAM. Raises PeerError when the stream ends too early.
    """
    if len(runs) == 0:
        return
    try:
        _vectored("recvmsg", connection.fileno(), _vectors(address, runs))
    except OSError as error:
        raise PeerError(f"The source stopped sending pages: {error}.") from error


def _send_file(out_fd: int, in_fd: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        sent = os.sendfile(out_fd, in_fd, offset, min(end - offset, _SENDFILE_BYTES))
        if sent == 0:
            raise OSError("nothing was sent")
        offset += sent


def _vectors(address: int, runs: Runs) -> npt.NDArray[np.uint64]:
    """Struct iovec for each run: address and length in bytes; shape (n, 2)."""
    vectors = runs * np.uint64(PAGE_BYTES)
    vectors[:, 0] += np.uint64(address)
    return np.ascontiguousarray(vectors)


def _vectored(call: str, fd: int, vectors: npt.NDArray[np.uint64]) -> None:
    """Move all of `vectors` by repeated calls; a call may move less than it was given."""
    position, total = 0, len(vectors)
    header = _MessageHeader()
    while position < total:
        start = vectors.ctypes.data + position * 16
        count = min(_VECTORS, total - position)
        if call == "writev":
            moved = libc.vectored(call, fd, start, count)
        else:
            header.vectors, header.count = start, count
            moved = libc.receive_message(fd, header, socket.MSG_WAITALL)
        if moved == 0:
            raise OSError("the connection ended")
        ends = np.cumsum(vectors[position : position + count, 1])
        whole = int(np.searchsorted(ends, moved, side="right"))
        done = int(ends[whole - 1]) if whole else 0
        position += whole
        if moved > done:  # within a vector: go on behind the part that was moved
            vectors[position, 0] += np.uint64(moved - done)
            vectors[position, 1] -= np.uint64(moved - done)
