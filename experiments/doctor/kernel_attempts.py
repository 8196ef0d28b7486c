"""Attempts at kernel interfaces that have no command of their own, for `unnoticed.experiments.doctor.capabilities`.

Constants are those of x86-64 and arm64 where they agree; sources are named beside them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import select
import signal
import struct
import threading
from fcntl import ioctl

from unnoticed.agents.kernel import libc, soft_dirty, userfaultfd
from unnoticed.experiments.doctor.throwaway import TrialError

_SYSCALLS = {  # arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h
    "x86_64": {"userfaultfd": 323, "pidfd_getfd": 438},
    "aarch64": {"userfaultfd": 282, "pidfd_getfd": 438},
}

# include/uapi/linux/userfaultfd.h
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06
_UFFD_API, _MODE_WP = 0xAA, 2
_WP_UNPOPULATED, _WP_ASYNC, _WP_SHMEM = 1 << 13, 1 << 15, 1 << 12
# include/uapi/linux/fs.h
_PAGEMAP_SCAN, _WP_MATCHING, _CHECK_WPASYNC, _WRITTEN = 0xC0606610, 1, 2, 2

_PAGES = 16
_WAIT_S = 2.0


def _system_call(name: str, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        raise TrialError(f"not supported on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(libc.syscall(ctypes.c_long(numbers[name]), *given))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def track_dirty_page() -> str:
    """Write-protect a memfd asynchronously, write one page, and find exactly that page by PAGEMAP_SCAN."""
    length = _PAGES * mmap.PAGESIZE
    memory_fd = os.memfd_create("unnoticed")
    os.ftruncate(memory_fd, length)
    memory = mmap.mmap(memory_fd, length)
    memory[:] = bytes(length)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fd = _system_call("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK)
    ioctl(fd, _UFFDIO_API, struct.pack("=3Q", _UFFD_API, _WP_ASYNC | _WP_UNPOPULATED | _WP_SHMEM, 0))
    ioctl(fd, _UFFDIO_REGISTER, struct.pack("=4Q", address, length, _MODE_WP, 0))
    ioctl(fd, _UFFDIO_WRITEPROTECT, struct.pack("=3Q", address, length, 1))
    memory[5 * mmap.PAGESIZE] = 1
    regions = ctypes.create_string_buffer(24 * _PAGES)
    scan = bytearray(96)
    struct.pack_into(
        "=12Q",
        scan,
        0,
        len(scan),
        _WP_MATCHING | _CHECK_WPASYNC,
        address,
        address + length,
        0,
        ctypes.addressof(regions),
        _PAGES,
        0,
        0,
        _WRITTEN,
        0,
        _WRITTEN,
    )
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    found = ioctl(pagemap, _PAGEMAP_SCAN, scan)  # given something mutable, it returns the call's result
    start, end, _ = struct.unpack_from("=3Q", regions)
    if found != 1 or (start - address, end - start) != (5 * mmap.PAGESIZE, mmap.PAGESIZE):
        raise TrialError(f"the scan found {found} regions, where one page had been written")
    return "found the one page that was written"


def soft_dirty_page() -> str:
    """Clear this process's soft-dirty bits, write a page, find its bit."""
    written, untouched = soft_dirty.attempt()
    if not written or untouched:
        bits = f"{written:d} and {untouched:d}"
        raise TrialError(f"a written and an untouched page read {bits}: the kernel keeps no such bits")
    return "found the one page that was written"


def take_descriptor() -> str:
    """Take a descriptor out of a child process by pidfd_getfd(2)."""
    reading, writing = os.pipe()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told, b"x")
        signal.pause()
        os._exit(0)
    try:
        os.read(ready, 1)
        pidfd = os.pidfd_open(pid)
        taken = _system_call("pidfd_getfd", pidfd, writing, 0)
        os.write(taken, b"ok")
        if os.read(reading, 2) != b"ok":
            raise TrialError("the descriptor is not the child's")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return "wrote through a pipe taken from a child"


def splice_page() -> None:
    """Send a page through a pipe by vmsplice(2)."""
    page = ctypes.create_string_buffer(b"u" * mmap.PAGESIZE, mmap.PAGESIZE)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(page), mmap.PAGESIZE)  # struct iovec
    reading, writing = os.pipe()
    try:
        libc.vmsplice(writing, ctypes.addressof(vector), 1)
        if os.read(reading, mmap.PAGESIZE) != page.raw:
            raise TrialError("what came out of the pipe was not what went in")
    finally:
        os.close(reading)
        os.close(writing)


def wait_for_page() -> str:
    """Have a thread touch a page of a memfd that is not there, and put it in place."""
    memory_fd = os.memfd_create("unnoticed")
    os.ftruncate(memory_fd, mmap.PAGESIZE)
    content = ctypes.create_string_buffer(b"u" * mmap.PAGESIZE, mmap.PAGESIZE)
    reading, writing = os.pipe()
    with mmap.mmap(memory_fd, mmap.PAGESIZE) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        fd = userfaultfd.open_missing()
        userfaultfd.register_missing(fd, start=address, length=mmap.PAGESIZE)
        thread = threading.Thread(target=os.write, args=(writing, memory))  # the lock is free while it waits
        thread.start()
        try:
            select.select([fd], [], [], _WAIT_S)
            faults = userfaultfd.read_faults(fd)
            if faults:
                start = ctypes.addressof(content)
                userfaultfd.place(fd, to=address, source=start, length=mmap.PAGESIZE, page_bytes=mmap.PAGESIZE)
        finally:
            userfaultfd.unregister(fd, start=address, length=mmap.PAGESIZE)
            thread.join()
            os.close(fd)
        if faults != [address] or os.read(reading, mmap.PAGESIZE) != content.raw:
            raise TrialError("nobody was seen to wait for it")
    return "a thread waited for a page, and got it"
