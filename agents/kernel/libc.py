"""The C library's calls that Python does not wrap, with errno turned into OSError."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

SYS_USERFAULTFD = 323  # arch/x86/entry/syscalls/syscall_64.tbl
SYS_PIDFD_GETFD = 438
CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
SYS_CLOSE = 3
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2  # include/uapi/linux/falloc.h
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
PR_SET_THP_DISABLE = 41


def check(result: int, what: str) -> int:
    """Return `result`, or raise the OSError that errno stands for if it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: int) -> int:
    """Make a system call; raises OSError."""
    return check(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)), f"system call {number}")


def ioctl(fd: int, request: int, argument: ctypes.Structure | ctypes.Array[ctypes.c_uint64]) -> int:
    """An ioctl whose argument is a structure that the kernel may write to; raises OSError."""
    result = _libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(request), ctypes.byref(argument))
    return check(result, f"ioctl {request:#x}")


def differs(first: int, second: int, length: int) -> bool:
    """Whether `length` bytes at two addresses of this process differ (memcmp, at the speed of memory)."""
    return bool(_libc.memcmp(ctypes.c_void_p(first), ctypes.c_void_p(second), ctypes.c_size_t(length)))


def punch_hole(fd: int, *, offset: int, length: int) -> None:
    """`fallocate` that gives memory of a file back: it reads as zeros, and is missing; raises OSError."""
    mode = ctypes.c_int(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
    check(_libc.fallocate(ctypes.c_int(fd), mode, ctypes.c_long(offset), ctypes.c_long(length)), "fallocate")


def vmsplice(fd: int, vectors: int, count: int) -> int:
    """`vmsplice` of an array of struct iovec at address `vectors` into a pipe; returns bytes; raises OSError."""
    _libc.vmsplice.restype = ctypes.c_ssize_t
    result: int = _libc.vmsplice(ctypes.c_int(fd), ctypes.c_void_p(vectors), ctypes.c_size_t(count), ctypes.c_uint(0))
    return check(result, "vmsplice")


def receive_message(fd: int, message: ctypes.Structure, flags: int) -> int:
    """`recvmsg` with a prepared struct msghdr; returns bytes received; raises OSError."""
    _libc.recvmsg.restype = ctypes.c_ssize_t
    return check(_libc.recvmsg(ctypes.c_int(fd), ctypes.byref(message), ctypes.c_int(flags)), "recvmsg")


def disconnect(fd: int) -> None:
    """`connect` to an address of no family: dissolves the connection (connect(2), AF_UNSPEC); raises OSError."""
    check(_libc.connect(ctypes.c_int(fd), bytes(16), ctypes.c_uint(16)), "connect")


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Ask the kernel to kill this process, or send it another signal, when the thread that made it ends."""
    check(_libc.prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0), "prctl")


def stay_with_small_pages() -> None:
    """No huge pages for this process and what it executes: each page is then told apart from its neighbours."""
    check(_libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "prctl")


def ptrace(request: int, pid: int, address: int, data: int) -> int:
    """`ptrace`; of a request that peeks, the word at `address`. Raises OSError."""
    _libc.ptrace.restype = ctypes.c_long
    ctypes.set_errno(0)  # a word may be -1
    result: int = _libc.ptrace(
        ctypes.c_long(request), ctypes.c_long(pid), ctypes.c_ulong(address), ctypes.c_ulong(data)
    )
    if result == -1 and (number := ctypes.get_errno()):
        raise OSError(number, f"ptrace {request}: {os.strerror(number)}")
    return result


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate, in this process, of descriptor `fd` of another process; raises OSError."""
    return syscall(SYS_PIDFD_GETFD, pidfd, fd, 0)


class NetworkNamespace:
    """A network namespace held open, to create sockets and processes in."""

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._home = os.open(Path("/proc/thread-self/ns/net"), os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace for the length of the block; a socket stays where it was made."""
        check(_libc.setns(self._fd, CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            check(_libc.setns(self._home, CLONE_NEWNET), "setns")

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._home)
