"""userfaultfd in asynchronous write-protect mode (include/uapi/linux/userfaultfd.h; kernel 6.7 and later).

In this mode nobody handles faults: the kernel resolves a write to a protected page at once and only remembers that the
page was written, which PAGEMAP_SCAN then reports.
"""

from __future__ import annotations

import ctypes
import os

from unnoticed.agents.kernel import libc

OPEN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # of the system call
_API = 0xAA
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01

_MODE_WP = 1 << 1
_FEATURE_WP_UNPOPULATED = 1 << 13
_FEATURE_WP_ASYNC = 1 << 15


class _Api(ctypes.Structure):
    _fields_ = (("api", ctypes.c_uint64), ("features", ctypes.c_uint64), ("ioctls", ctypes.c_uint64))


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Register(ctypes.Structure):
    _fields_ = (("range", _Range), ("mode", ctypes.c_uint64), ("ioctls", ctypes.c_uint64))


def open_async_write_protect() -> int:
    """A userfaultfd for the calling process; raises OSError where the kernel lacks the asynchronous mode."""
    fd = libc.syscall(libc.SYS_USERFAULTFD, OPEN_FLAGS)
    try:
        begin_async_write_protect(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def begin_async_write_protect(fd: int) -> None:
    """Put a userfaultfd that was just opened, by whomever, into this mode; raises OSError where the kernel lacks it."""
    libc.ioctl(fd, _UFFDIO_API, _Api(_API, _FEATURE_WP_ASYNC | _FEATURE_WP_UNPOPULATED, 0))


def register(fd: int, *, start: int, length: int) -> None:
    """Track writes to `length` bytes at address `start` of the process that opened `fd`."""
    libc.ioctl(fd, _UFFDIO_REGISTER, _Register(_Range(start, length), _MODE_WP, 0))


def unregister(fd: int, *, start: int, length: int) -> None:
    """Stop tracking; every page becomes writable without a fault."""
    libc.ioctl(fd, _UFFDIO_UNREGISTER, _Range(start, length))
