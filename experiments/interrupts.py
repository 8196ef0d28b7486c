"""Signals that ask a run to stop: the first one interrupts, later ones do not disturb the taking down and the report.

They are SIGINT, SIGTERM, and SIGHUP, which comes when the terminal goes (but not to a run under nohup). Taking down is
shielded: an interrupt that comes in the middle of it is raised at its end, so that nothing is left.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    """What has come, and what is shielded; one for the process, as signals are."""

    installed = False
    seen = False
    pending = False
    shields = 0


@contextlib.contextmanager
def one_interrupt(note: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first signal raises KeyboardInterrupt, and any later one is only answered by `note`.

    Inside another of its kind, and outside the main thread, where signals cannot be handled, it does nothing.
    """
    if _State.installed or threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.installed = True
    _State.seen = _State.pending = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if _State.seen:
            with contextlib.suppress(OSError, RuntimeError):  # nobody reads it, or it came in the middle of a print
                note("Already stopping: first the trial at hand is taken down, and what is done is reported.")
            return
        _State.seen = True
        if _State.shields:
            _State.pending = True
            return
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        _State.installed = False
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
