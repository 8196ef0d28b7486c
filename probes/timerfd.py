"""A kernel timer as a file descriptor: timerfd_create(2), on CLOCK_MONOTONIC.

epoll's own time limit counts in whole milliseconds, too coarse to send 1000 requests per second at their intended
times; and a periodic timer needs no system call to be set again. (os.timerfd_create comes with Python 3.13.)
"""

from __future__ import annotations

import ctypes
import os
import time

# include/uapi/linux/timerfd.h
_TFD_TIMER_ABSTIME = 1
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_NONBLOCK = os.O_NONBLOCK

_NS_PER_S = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


def _timespec(time_ns: int) -> _Timespec:
    return _Timespec(*divmod(time_ns, _NS_PER_S))


class Timer:
    """Becomes readable at start_ns, start_ns + period_ns, ... (CLOCK_MONOTONIC). Raises OSError.

    With a period of 0 it does so once, and again whenever it is set.
    """

    def __init__(self, *, start_ns: int, period_ns: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._period_ns = period_ns
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_CLOEXEC | _TFD_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        try:
            self.set(start_ns)
        except OSError:
            os.close(self._fd)
            raise

    def set(self, start_ns: int) -> None:
        """Begin anew, at this time. Raises OSError."""
        setting = _Itimerspec(_timespec(self._period_ns), _timespec(start_ns))
        if self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(setting), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def fileno(self) -> int:
        return self._fd

    def expirations(self) -> int:
        """How often it has fired since the last call (0 if not at all); not readable afterwards."""
        try:
            return int.from_bytes(os.read(self._fd, 8), "little")
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._fd)
