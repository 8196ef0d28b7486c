"""Signals that ask a run to stop: the first one interrupts, later ones do not disturb the taking down and the report.

They are SIGINT, SIGTERM, and SIGHUP, which comes when the terminal goes (but not to a run under nohup). Taking down is
shielded: an interrupt that comes in the middle of it is raised at its end, so that nothing is left.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NUDGE, _NUDGES_S = signal.SIGURG, (0.05, 0.5)


class Terminated(BaseException):
    """A signal that ends the process has come to a console, where KeyboardInterrupt would only end a command."""


class _State:
    """What has come, and what is shielded; one for the process, as signals are."""

    note: Callable[[str], None] | None = None  # None: not installed
    seen = False
    pending: type[BaseException] | None = None
    shields = 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if _State.seen:
        with contextlib.suppress(OSError, RuntimeError):  # nobody reads it, or it came in the middle of a print
            if _State.note is not None:
                _State.note("Already stopping: first the trial at hand is taken down, and what is done is reported.")
        return
    _State.seen = True
    _raise(KeyboardInterrupt)


def _raise(exception: type[BaseException]) -> None:
    """Raise it now, or at the end of what is shielded."""
    if _State.shields:
        _State.pending = exception
        return
    raise exception


def has_come() -> bool:
    """Whether a signal has asked to stop: for work that is shielded and ends by itself."""
    return _State.seen


@contextlib.contextmanager
def one_interrupt(note: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first signal raises KeyboardInterrupt, and any later one is only answered by `note`.

    Inside another of its kind, it only takes the note over. Outside the main thread, where signals cannot be handled,
    it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _State.note = _State.note, note
    if outer is not None:
        try:
            yield
        finally:
            _State.note = outer
        return
    before = _install()
    try:
        yield
    finally:
        _State.note = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def one_interrupt_for_good(note: Callable[[str], None]) -> Iterator[None]:
    """The same for all that is left of the process: after it signals are ignored, so that none disturbs its end."""
    _State.note = note
    numbers = _install()
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def _install() -> dict[signal.Signals, Any]:
    """Handle the signals from now on; returns how they were handled before."""
    _State.seen, _State.pending = False, None
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, _interrupt)
    return before


@contextlib.contextmanager
def every_interrupt() -> Iterator[None]:
    """For a console: inside, every SIGINT raises KeyboardInterrupt, unless shielded; the others raise Terminated."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            _State.seen = True
            _raise(Terminated)
        elif not _State.shields:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, interrupt)
    try:
        with _nudged():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _nudged() -> Iterator[None]:
    """Inside, a signal ends the main thread's wait for input even if it came just before that began.

    Python's own handlers run between two of its instructions. One that is due when the main thread goes to wait in
    readline would be run with the next key. So another signal follows each, which has nothing to say.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    main = threading.main_thread().ident
    assert main is not None

    def nudge() -> None:
        while numbers := ours.recv(64):
            if any(number in _SIGNALS for number in numbers):
                for pause_s in _NUDGES_S:
                    time.sleep(pause_s)
                    signal.pthread_kill(main, _NUDGE)

    handler = signal.signal(_NUDGE, lambda _number, _frame: None)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=nudge, name="nudge", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()
        signal.signal(_NUDGE, handler)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """What is inside is finished first; an interrupt that came meanwhile is raised after it."""
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
        if _State.pending is not None and not _State.shields:
            exception, _State.pending = _State.pending, None
            raise exception
