"""userfaultfd (include/uapi/linux/userfaultfd.h), in the two ways that a migration needs it.

Asynchronous write-protect mode (kernel 6.7 and later): nobody handles faults. The kernel resolves a write to a
protected page at once and only remembers that the page was written, which PAGEMAP_SCAN then reports.

Missing mode on shared memory (kernel 4.11 and later): who touches a page that is a hole in the memfd stops until
somebody with the descriptor has put a page there. A page is placed as a whole or not at all, and never over another:
of two that come for the same place, the second finds that the first EEXISTs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct

from unnoticed.agents.kernel import libc

OPEN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # of the system call
_API = 0xAA
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01
_UFFDIO_WAKE = 0x8010AA02
_UFFDIO_COPY = 0xC028AA03

_MODE_MISSING = 1 << 0
_MODE_WP = 1 << 1
_FEATURE_MISSING_SHMEM = 1 << 5
_FEATURE_WP_UNPOPULATED = 1 << 13
_FEATURE_WP_ASYNC = 1 << 15

_EVENT_PAGEFAULT = 0x12
_MESSAGE = struct.Struct("<B7xQQ8x")  # struct uffd_msg of a page fault: event, flags, address
_MOST_MESSAGES = 16


class _Api(ctypes.Structure):
    _fields_ = (("api", ctypes.c_uint64), ("features", ctypes.c_uint64), ("ioctls", ctypes.c_uint64))


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Register(ctypes.Structure):
    _fields_ = (("range", _Range), ("mode", ctypes.c_uint64), ("ioctls", ctypes.c_uint64))


class _Copy(ctypes.Structure):
    _fields_ = (
        ("to", ctypes.c_uint64),
        ("source", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("copied", ctypes.c_int64),
    )


def open_async_write_protect() -> int:
    """A userfaultfd for the calling process; raises OSError where the kernel lacks the asynchronous mode."""
    return _open(_FEATURE_WP_ASYNC | _FEATURE_WP_UNPOPULATED)


def open_missing() -> int:
    """A userfaultfd for the calling process; raises OSError where the kernel lacks missing faults on shared memory."""
    return _open(_FEATURE_MISSING_SHMEM)


def _open(features: int) -> int:
    fd = libc.syscall(libc.SYS_USERFAULTFD, OPEN_FLAGS)
    try:
        _begin(fd, features)
    except OSError:
        os.close(fd)
        raise
    return fd


def begin_async_write_protect(fd: int) -> None:
    """Put a userfaultfd that was just opened, by whomever, into this mode; raises OSError where the kernel lacks it."""
    _begin(fd, _FEATURE_WP_ASYNC | _FEATURE_WP_UNPOPULATED)


def _begin(fd: int, features: int) -> None:
    libc.ioctl(fd, _UFFDIO_API, _Api(_API, features, 0))


def register(fd: int, *, start: int, length: int) -> None:
    """Track writes to `length` bytes at address `start` of the process that opened `fd`."""
    libc.ioctl(fd, _UFFDIO_REGISTER, _Register(_Range(start, length), _MODE_WP, 0))


def register_missing(fd: int, *, start: int, length: int) -> None:
    """Stop whoever touches a missing page of `length` bytes at address `start` of the process that opened `fd`."""
    libc.ioctl(fd, _UFFDIO_REGISTER, _Register(_Range(start, length), _MODE_MISSING, 0))


def unregister(fd: int, *, start: int, length: int) -> None:
    """Stop tracking; every page becomes accessible without a fault, and whoever waits goes on."""
    libc.ioctl(fd, _UFFDIO_UNREGISTER, _Range(start, length))


def read_faults(fd: int) -> list[int]:
    """The addresses that were touched and are waited for; none where nobody waits any more. Raises OSError."""
    try:
        data = os.read(fd, _MOST_MESSAGES * _MESSAGE.size)
    except BlockingIOError:
        return []
    return [address for event, _, address in _MESSAGE.iter_unpack(data) if event == _EVENT_PAGEFAULT]


def place(fd: int, *, to: int, source: int, length: int, page_bytes: int) -> int:
    """Put pages from address `source` of this process to address `to` of the other, and wake who waits for them.

    Returns how many there were: places that have a page keep theirs. Raises OSError, ProcessLookupError if the process
    is gone.
    """
    placed = done = 0
    while done < length:
        argument = _Copy(to + done, source + done, length - done, 0, 0)
        try:
            libc.ioctl(fd, _UFFDIO_COPY, argument)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.EAGAIN}:
                raise
            if argument.copied > 0:  # up to a page that is there already, or an interruption
                placed += argument.copied // page_bytes
                done += argument.copied
            elif error.errno == errno.EEXIST:
                _wake(fd, start=to + done, length=page_bytes)
                done += page_bytes
        else:
            placed += (length - done) // page_bytes
            done = length
    return placed


def _wake(fd: int, *, start: int, length: int) -> None:
    with contextlib.suppress(OSError):
        libc.ioctl(fd, _UFFDIO_WAKE, _Range(start, length))
