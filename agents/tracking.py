"""Which dirty tracker a migration has: the one that was asked for, or the best that works, found by trying."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Mapping

from unnoticed.agents import soft_dirty
from unnoticed.agents.comparison import ComparisonTracker
from unnoticed.agents.dirty import DirtyTracker, WriteProtectTracker
from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.kernel import pagemap, userfaultfd
from unnoticed.errors import MachineError

AUTO = "auto"

_TRACKERS: Mapping[str, Callable[[GuestProcess], DirtyTracker]] = {
    WriteProtectTracker.name: WriteProtectTracker,
    soft_dirty.SoftDirtyTracker.name: soft_dirty.SoftDirtyTracker,
    ComparisonTracker.name: ComparisonTracker,
}
"""The best first: what the guest pays for it, and then what it adds to the blackout."""


def track(guest: GuestProcess, how: str = AUTO) -> DirtyTracker:
    """Begin to track a guest's writes, by the tracker named, or by the first that can be had (`auto`).

    Raises MachineError where this machine cannot: for `auto`, if not even comparison can be had.
    """
    if how != AUTO:
        return _begin(how, guest)
    for name in _TRACKERS:
        try:
            return _begin(name, guest)
        except MachineError as error:
            reason = error
    raise reason


def _begin(name: str, guest: GuestProcess) -> DirtyTracker:
    try:
        return _TRACKERS[name](guest)
    except OSError as error:
        raise MachineError(f"Written pages cannot be tracked by {name} on this machine: {error}.") from error


def available() -> list[str]:
    """The trackers that work on this machine, the best first, each tried on pages of the calling process."""
    attempts = {WriteProtectTracker.name: _write_protect_works, soft_dirty.SoftDirtyTracker.name: soft_dirty.works}
    return [name for name in _TRACKERS if name not in attempts or attempts[name]()]


def _write_protect_works() -> bool:
    """Write one of two protected pages, and see whether a scan finds that page and no other."""
    try:
        fd = userfaultfd.open_async_write_protect()
    except OSError:
        return False
    try:
        with mmap.mmap(-1, 2 * pagemap.PAGE_BYTES) as memory:
            memory[:] = bytes(len(memory))
            place = ctypes.c_char.from_buffer(memory)
            start = ctypes.addressof(place)
            del place  # the map cannot be closed while something points into it
            scanner = pagemap.WrittenScanner(os.getpid(), start=start, length=len(memory))
            try:
                userfaultfd.register(fd, start=start, length=len(memory))
                scanner.scan()
                memory[0] = 1
                return bool(scanner.scan().tolist() == [[0, 1]])
            finally:
                scanner.close()
    except OSError:
        return False
    finally:
        os.close(fd)
