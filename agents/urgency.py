"""Urgency: while a guest stands still, those who move it come before every ordinary process, and collect no garbage.

sched(7), SCHED_FIFO at the lowest of its priorities: below what measures, and below what emulates the network. On a
busy host a cutover of a few milliseconds would else wait for processors several times as long as it works.
"""

from __future__ import annotations

import gc
import os

_PRIORITY = 1


class Urgency:
    """Of the calling thread, and of other processes. Where it is not allowed, all goes its ordinary way."""

    def __init__(self) -> None:
        self._hurried: list[int] = []
        self._collects = False

    def begin(self, *pids: int) -> None:
        """From here on this thread and those processes come first, and those that did before."""
        self._collects |= gc.isenabled()
        gc.disable()
        for pid in (0, *pids):
            try:
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(_PRIORITY))
                self._hurried.append(pid)
            except OSError:  # not permitted, or the guest has ended, which others find
                continue

    def end(self) -> None:
        """From here on they wait for their turn as all do. Again: in vain."""
        while self._hurried:
            pid = self._hurried.pop()
            try:
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
            except OSError:  # the guest has ended
                continue
        if self._collects:
            gc.enable()
            self._collects = False
