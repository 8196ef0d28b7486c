"""Page streaming: runs of pages from one RAM into a TCP stream, and from the stream into the other RAM, without a
copy in between.

Long runs go by `sendfile` from the memfd. Scattered ones go by `vmsplice` into a pipe and `splice` from there, over
an array of (base, length) that numpy fills in one go: two system calls for hundreds of pages. Neither copies; what is
queued aliases live memory. A page that the guest rewrites before it left is sent again in a later round, so that is
harmless until the pause, and after it nothing changes. On the other side pages are read straight into place.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel import libc
from unnoticed.agents.kernel.pagemap import PAGE_BYTES, Runs
from unnoticed.agents.page_runs import pages_in, single_pages
from unnoticed.errors import PeerError

_VECTORS = 1024  # UIO_MAXIOV
_LONG_RUN_PAGES = 64  # on average: from here on a system call for each run is cheap
_SENDFILE_BYTES = 4 << 20
_PIPE_BYTES = 1 << 20  # /proc/sys/fs/pipe-max-size: the most without CAP_SYS_RESOURCE
_SPLICE_F_MORE = 4  # include/linux/splice.h
_WAKE_PAGES = 512  # while more than this is due, the receiver sleeps until so much has come


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
            _send_scattered(connection.fileno(), _vectors(address, single_pages(runs)))
    except OSError as error:
        raise PeerError(f"The destination stopped taking pages: {error}.") from error


def receive_pages(connection: socket.socket, *, address: int, runs: Runs) -> None:
    """Receive the pages of all runs to their places in the RAM mapped at `address`.

    The runs must have been checked against the size of the RAM. Raises PeerError when the stream ends too early.
    """
    if len(runs) == 0:
        return
    most, rest = _split_off(runs, _WAKE_PAGES)
    try:
        if len(most):
            # Waking for every segment costs more than copying it. What is kept back keeps the threshold within reach.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _WAKE_PAGES * PAGE_BYTES)
            _receive(connection.fileno(), _vectors(address, most))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        _receive(connection.fileno(), _vectors(address, rest))
    except OSError as error:
        raise PeerError(f"The source stopped sending pages: {error}.") from error


def _split_off(runs: Runs, pages: int) -> tuple[Runs, Runs]:
    """The runs without their last `pages` pages, and those (all of them, if there are no more)."""
    cumulative = np.cumsum(runs[:, 1])
    total = int(cumulative[-1])
    if total <= pages:
        return runs[:0], runs
    cut = total - pages
    index = int(np.searchsorted(cumulative, cut, side="left"))  # the run that holds the last page before the cut
    before = int(cumulative[index - 1]) if index else 0
    most, rest = runs[: index + 1].copy(), runs[index:].copy()
    most[-1, 1] = cut - before
    rest[0, 0] += np.uint64(cut - before)
    rest[0, 1] -= np.uint64(cut - before)
    return most, rest if rest[0, 1] else rest[1:]


def _send_file(out_fd: int, in_fd: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        sent = os.sendfile(out_fd, in_fd, offset, min(end - offset, _SENDFILE_BYTES))
        if sent == 0:
            raise OSError("nothing was sent")
        offset += sent


def _send_scattered(out_fd: int, vectors: npt.NDArray[np.uint64]) -> None:
    """Send pages, one in each vector, through a pipe that holds references to them."""
    pipe_out, pipe_in = os.pipe2(os.O_CLOEXEC)
    try:
        with contextlib.suppress(PermissionError):  # where the limit is lower, a smaller pipe takes more calls
            fcntl.fcntl(pipe_in, fcntl.F_SETPIPE_SZ, min(_PIPE_BYTES, len(vectors) * PAGE_BYTES))
        room = fcntl.fcntl(pipe_in, fcntl.F_GETPIPE_SZ) // PAGE_BYTES  # one page in each slot
        for position in range(0, len(vectors), room):
            count = min(room, len(vectors) - position)
            left = libc.vmsplice(pipe_in, vectors.ctypes.data + position * 16, count)
            if left != count * PAGE_BYTES:
                raise OSError(f"the pipe took {left} of {count * PAGE_BYTES} bytes")
            while left:
                left -= os.splice(pipe_out, out_fd, left, flags=_SPLICE_F_MORE)
    finally:
        os.close(pipe_out)
        os.close(pipe_in)


def _vectors(address: int, runs: Runs) -> npt.NDArray[np.uint64]:
    """A struct iovec for each run: address and length in bytes; shape (n, 2)."""
    vectors = runs * np.uint64(PAGE_BYTES)
    vectors[:, 0] += np.uint64(address)
    return np.ascontiguousarray(vectors)


def _receive(fd: int, vectors: npt.NDArray[np.uint64]) -> None:
    """Fill all of `vectors`; a call may fill less than it was given, when it is interrupted."""
    position, total = 0, len(vectors)
    header = _MessageHeader()
    while position < total:
        header.vectors = vectors.ctypes.data + position * 16
        header.count = count = min(_VECTORS, total - position)
        moved = libc.receive_message(fd, header, socket.MSG_WAITALL)
        if moved == 0:
            raise OSError("the connection ended")
        ends = np.cumsum(vectors[position : position + count, 1])
        whole = int(np.searchsorted(ends, moved, side="right"))
        done = int(ends[whole - 1]) if whole else 0
        position += whole
        if moved > done:  # within a vector: go on behind the part that was filled
            vectors[position, 0] += np.uint64(moved - done)
            vectors[position, 1] -= np.uint64(moved - done)
