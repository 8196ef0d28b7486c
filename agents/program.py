"""A real program whose written pages are recorded: it is started here, watched from outside, and ended.

Watched is the process itself, not its children, and of its memory what is private, writable and of no file: heap,
stacks, anonymous mappings, wherever they come and go. With userfaultfd the program pays about a microsecond for the
first write to each page in each interval; by comparison nothing, but a page that gets back its old content is missed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel import libc, userfaultfd
from unnoticed.agents.kernel.pagemap import PAGE_BYTES, PopulatedScanner, Runs
from unnoticed.agents.kernel.ptrace import StoppedProcess, trace_me
from unnoticed.agents.page_runs import NO_RUNS, runs_of, single_pages
from unnoticed.errors import MachineError, PlanError

PageNumbers = npt.NDArray[np.uint64]
"""Addresses over the size of a page, ascending."""

_END_S = 5.0  # for the program to end by itself when it is asked to
_SEED = 1


class PageWatch(Protocol):
    """Finds the pages that a program has written since the last look."""

    name: str

    def look(self) -> PageNumbers: ...

    def close(self) -> None: ...


class Program:
    """A program, running. Raises PlanError where it cannot be started, MachineError where it cannot be watched.

    `became`: once it was ended, the other program that the process had become by then (execve(2)), if it had. Its
    memory was another one from there on, which nobody looked at.
    """

    def __init__(self, command: Sequence[str], *, tracking: str = "auto") -> None:
        try:
            self._process = subprocess.Popen(command, preexec_fn=_before_exec, process_group=0)  # noqa: PLW1509
        except OSError as error:
            raise PlanError(f"{command[0]}: this cannot be started ({error.strerror}).") from error
        except subprocess.SubprocessError as error:  # in `_before_exec`
            raise MachineError("Programs cannot be watched here: this machine forbids ptrace.") from error
        self.became: str | None = None
        try:
            self._executable = self._now()
            stopped = StoppedProcess(self._process.pid)
            self.watch = _watch(stopped, self._process.pid, tracking)
            stopped.leave()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _now(self) -> str:
        """What it executes."""
        try:
            return str(Path(f"/proc/{self._process.pid}/exe").readlink())
        except OSError:  # it has just ended
            return ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> int:
        """Ask it and its children to end, make it end, and give its exit status (negative: the signal)."""
        if self.is_alive:
            now = self._now()
            self.became = now if now and now != self._executable else None
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            if self.is_alive:
                self._process.kill()
        status = self._process.wait()
        self.watch.close()
        return status


class WriteProtectWatch:
    """By userfaultfd, which the program itself must open: it is made to, before its first instruction."""

    name = "userfaultfd-wp"

    def __init__(self, stopped: StoppedProcess, pid: int) -> None:
        """Raises OSError where the kernel lacks the asynchronous mode, or does not let us."""
        theirs = stopped.call(libc.SYS_USERFAULTFD, userfaultfd.OPEN_FLAGS)
        pidfd = os.pidfd_open(pid)
        try:
            self._fd = libc.pidfd_getfd(pidfd, theirs)
        finally:
            os.close(pidfd)
            stopped.call(libc.SYS_CLOSE, theirs)
        try:
            userfaultfd.begin_async_write_protect(self._fd)
            self._scanner = PopulatedScanner(pid)
        except BaseException:
            os.close(self._fd)
            raise
        self._pid = pid

    def look(self) -> PageNumbers:
        found: list[PageNumbers] = [np.empty(0, np.uint64)]
        for start, length in _private_mappings(self._pid):
            with contextlib.suppress(OSError):  # it has gone since, or is of a kind that cannot be tracked
                userfaultfd.register(self._fd, start=start, length=length)
                found.append(_pages(self._scanner.scan(start=start, length=length)))
        return np.concatenate(found)

    def close(self) -> None:
        self._scanner.close()
        os.close(self._fd)


class ComparisonWatch:
    """By a digest of each page: what differs from the last look was written."""

    name = "comparison"

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._pages: PageNumbers = np.empty(0, np.uint64)
        self._digests: PageNumbers = np.empty(0, np.uint64)
        # A sum of products with random numbers: two contents that differ have the same one by chance alone.
        self._factors = np.random.default_rng(_SEED).integers(0, 1 << 64, PAGE_BYTES // 8, dtype=np.uint64)

    def look(self) -> PageNumbers:
        pages, digests = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        for start, length in _private_mappings(self._pid):
            for run in _populated(self._pid, start, length):
                content = self._read(int(run[0]) * PAGE_BYTES, int(run[1]) * PAGE_BYTES)
                pages.append(run[0] + np.arange(len(content), dtype=np.uint64))
                digests.append((content * self._factors).sum(axis=1, dtype=np.uint64))
        now, values = np.concatenate(pages), np.concatenate(digests)
        place = np.minimum(np.searchsorted(self._pages, now), max(len(self._pages) - 1, 0))
        is_same = np.zeros(len(now), np.bool_)
        if len(self._pages):
            is_same = (self._pages[place] == now) & (self._digests[place] == values)
        self._pages, self._digests = now, values
        written: PageNumbers = now[~is_same]
        return written

    def close(self) -> None:
        os.close(self._memory)

    def _read(self, address: int, length: int) -> npt.NDArray[np.uint64]:
        """Whole pages from an address on, shape (pages, 512): as many as there still are."""
        try:
            data = os.pread(self._memory, length, address)
        except OSError:
            data = b""
        whole = len(data) // PAGE_BYTES * PAGE_BYTES
        return np.frombuffer(data[:whole], np.uint64).reshape(-1, PAGE_BYTES // 8)


def _watch(stopped: StoppedProcess, pid: int, tracking: str) -> PageWatch:
    """The watch that was asked for, or the better one that works, found by trying."""
    if tracking != ComparisonWatch.name:
        try:
            return WriteProtectWatch(stopped, pid)
        except OSError as error:
            if tracking != "auto":
                raise MachineError(
                    f"Pages cannot be tracked by {tracking} here ({error.strerror}); it takes Linux 6.7 or newer and "
                    "the right to use userfaultfd. Try --tracking comparison."
                ) from error
    return ComparisonWatch(pid)


def _before_exec() -> None:
    libc.die_with_parent()
    libc.stay_with_small_pages()
    trace_me()


def _private_mappings(pid: int) -> Iterator[tuple[int, int]]:
    """Address and length of what is private, writable and of no file (proc_pid_maps(5)); none of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        addresses, permissions, _, _, inode, *_ = line.split()
        if permissions[1] == "w" and permissions[3] == "p" and inode == "0":
            start, end = (int(part, 16) for part in addresses.split("-"))
            yield start, end - start


def _populated(pid: int, start: int, length: int) -> Runs:
    """The runs of pages that hold something, first pages counted from address 0.

    By bits 62 and 63 of the page table's entries (Documentation/admin-guide/mm/pagemap.rst).
    """
    entries = np.zeros(length // PAGE_BYTES, np.uint64)
    try:
        with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(start // PAGE_BYTES * 8)
            pagemap.readinto(entries.data.cast("B"))
    except OSError:
        return NO_RUNS
    holds = (entries >> np.uint64(62)) != 0  # present, or swapped out
    runs = runs_of(holds)
    runs[:, 0] += np.uint64(start // PAGE_BYTES)
    return runs


def _pages(runs: Runs) -> PageNumbers:
    pages: PageNumbers = single_pages(runs)[:, 0]
    return pages
