"""Processes as /proc shows them, told by a mark in the environment they were started with.

The mark stays for as long as the process runs and is inherited by whatever it starts, so it finds the processes of a
run when nobody is left who started them. Ending one is safe against a pid that was given to somebody else meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process at one moment. `start_ticks` (clock ticks since boot) with the pid names it for good."""

    pid: int
    start_ticks: int
    parent: int
    session: int
    has_terminal: bool
    name: str
    marks: Mapping[str, str] = field(default_factory=dict)
    pid_namespace: str = ""
    net_namespace: str = ""

    @property
    def identity(self) -> tuple[int, int]:
        """What no other process has until the next boot."""
        return self.pid, self.start_ticks


class Stat(NamedTuple):
    """What is used here of /proc/<pid>/stat (proc(5)). `terminal` is 0 if there is none; ticks are since boot."""

    name: str
    state: str
    parent: int
    session: int
    terminal: int
    start_ticks: int


def parse_stat(text: str) -> Stat:
    """Make sense of the text of /proc/<pid>/stat. Raises ValueError if it is none.

    The name stands in parentheses and can hold anything, parentheses too.
    """
    end = text.rindex(")")
    fields = text[end + 2 :].split()
    if len(fields) < 20:
        raise ValueError(f"not a stat: {text!r}")
    return Stat(text[text.index("(") + 1 : end], fields[0], *(int(fields[index]) for index in (1, 3, 4, 19)))


def read_process(pid: int, *, prefix: str, proc: Path = PROC) -> Process | None:
    """The process `pid` with those variables of its environment that start with `prefix`; None if it is gone."""
    folder = proc / str(pid)
    try:
        stat = parse_stat((folder / "stat").read_text(errors="replace"))
        if stat.state in "ZX":
            return None
        environment = (folder / "environ").read_bytes()
        pid_namespace = str((folder / "ns" / "pid").readlink())
        net_namespace = str((folder / "ns" / "net").readlink())
    except (OSError, ValueError):
        return None
    start = prefix.encode()
    pairs = (entry.partition(b"=") for entry in environment.split(b"\0") if entry.startswith(start))
    return Process(
        pid=pid,
        start_ticks=stat.start_ticks,
        parent=stat.parent,
        session=stat.session,
        has_terminal=stat.terminal != 0,
        name=stat.name,
        marks={key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs},
        pid_namespace=pid_namespace,
        net_namespace=net_namespace,
    )


def marked_processes(prefix: str, *, proc: Path = PROC) -> Iterator[Process]:
    """Every process but the caller whose environment has a variable that starts with `prefix`."""
    for pid in _pids(proc):
        if pid != os.getpid():
            process = read_process(pid, prefix=prefix, proc=proc)
            if process is not None and process.marks:
                yield process


def start_ticks(pid: int, *, proc: Path = PROC) -> int | None:
    """When the process started, in ticks since boot; None if it is gone, or a zombie."""
    try:
        stat = parse_stat((proc / str(pid) / "stat").read_text(errors="replace"))
    except (OSError, ValueError):
        return None
    return None if stat.state in "ZX" else stat.start_ticks


def ancestors(pid: int, *, proc: Path = PROC) -> set[int]:
    """The process `pid` and everyone it descends from."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = parse_stat((proc / str(pid) / "stat").read_text(errors="replace")).parent
        except (OSError, ValueError):
            break
    return found


def end_processes(processes: Iterable[Process], *, timeout_s: float = 5.0) -> list[Process]:
    """Kill each of these very processes and wait until it is gone. Returns those that were still there to be killed.

    A pidfd is taken before the identity is checked, so the signal cannot reach a later process of the same pid.
    """
    ended, waiting = [], []
    for process in processes:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        if start_ticks(process.pid) != process.start_ticks:
            os.close(descriptor)
            continue
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            os.close(descriptor)
            continue
        ended.append(process)
        waiting.append(descriptor)
    deadline = time.monotonic() + timeout_s
    for descriptor in waiting:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        os.close(descriptor)
    return ended


def users_of(namespaces: Iterable[str], *, proc: Path = PROC) -> list[int]:
    """The pids of the processes in any of these network namespaces (given as "net:[4026531840]")."""
    wanted = set(namespaces)
    pids = []
    for pid in _pids(proc):
        try:
            if str((proc / str(pid) / "ns" / "net").readlink()) in wanted:
                pids.append(pid)
        except OSError:
            continue
    return pids


def _pids(proc: Path) -> list[int]:
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()]
