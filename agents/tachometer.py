"""The tachometer: how far the guest's dirtier has got, over time, by its counters in the RAM that the agent maps too.

A guest that has to take a fault for each page it writes, or that waits for pages which are still elsewhere, falls
behind. Its counters say so; looking at them from outside costs the guest nothing.
"""

from __future__ import annotations

import threading

from unnoticed.agents.ram import Ram, Super
from unnoticed.clock import now_ns
from unnoticed.events import EventLog

_EVERY_S = 0.02
_PER_EVENT = 50  # samples


class Tachometer:
    """Samples a guest's counters from `start` to `stop` and logs them, some at a time, as events `dirtier`.

    Each sample is a time, the pages written and the pages skipped until then, both since the guest was booted.
    """

    def __init__(self, ram: Ram, events: EventLog) -> None:
        self._quads, self._events = ram.quads, events
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, unless it has begun: a guest may be paused and resumed at one place."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Look once more, log what is not logged yet, and end. From here on the RAM is not looked at."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        samples: list[tuple[int, int, int]] = []
        is_last = False
        while not is_last:
            is_last = self._ended.wait(_EVERY_S)
            samples.append((now_ns(), self._quads[Super.PAGES_WRITTEN], self._quads[Super.PAGES_SKIPPED]))
            if is_last or len(samples) >= _PER_EVENT:
                self._events.write("dirtier", samples=samples)
                samples.clear()
