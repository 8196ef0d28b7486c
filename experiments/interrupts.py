"""SIGINT and SIGTERM during a run: the first one interrupts, later ones do not disturb the taking down.

Taking down is shielded: an interrupt that comes in the middle of it is raised at its end, so that nothing is left.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class _State:
    """What has come, and what is shielded; one for the process, as signals are."""

    seen = False
    pending = False
    shields = 0


@contextlib.contextmanager
def one_interrupt(note: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first SIGINT or SIGTERM raises KeyboardInterrupt, and any later one is only answered by `note`.

    Outside the main thread, where signals cannot be handled, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.seen = _State.pending = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if _State.seen:
            note("Already stopping: the trial is being taken down.")
            return
        _State.seen = True
        if _State.shields:
            _State.pending = True
            return
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """What is inside is finished first; an interrupt that came meanwhile is raised after it."""
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
        if _State.pending and not _State.shields:
            _State.pending = False
            raise KeyboardInterrupt
