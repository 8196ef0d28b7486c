"""When the guest wanted to run and got no processor, by the kernel's own account (Documentation/scheduler/sched-stats).

A guest is an ordinary process; on a busy machine it waits for its turn while probers and captures, which are served
first, see nothing of it. Its clients' answers are late then, by this machine's doing. A guest that was stopped, or had
nothing to do, did not want to run: neither counts.
"""

from __future__ import annotations

import os

from unnoticed.events import EventLog

_LEAST_NS = 2_000_000  # shorter waits are the ordinary course of a shared machine
_NEVER_NS = 1 << 63
_EVERY_NS = 4_000_000  # between two looks; a look costs some 2 us


class Starvation:
    """Looks at /proc/thread-self/schedstat now and then, and logs a `starved` event where the thread had to wait."""

    def __init__(self, events: EventLog) -> None:
        """Of the calling thread; where the kernel does not tell (CONFIG_SCHED_INFO), nothing is ever logged."""
        self._events = events
        self._looked_ns = self._waited_ns = 0
        self._next_ns = _NEVER_NS
        try:
            self._fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def begin(self, now_ns: int) -> None:
        """What was before does not count: the thread did something else."""
        if self._fd >= 0:
            self._waited_ns, self._looked_ns, self._next_ns = self._waited(), now_ns, now_ns + _EVERY_NS

    def look(self, now_ns: int) -> None:
        """To be called often; cheap when there is nothing to do. `now_ns`: CLOCK_MONOTONIC."""
        if now_ns < self._next_ns:
            return
        starved_ns = self._waited() - self._waited_ns
        if starved_ns >= _LEAST_NS:
            self._events.write("starved", time_ns=now_ns, since_ns=self._looked_ns, starved_ns=starved_ns)
        self.begin(now_ns)

    def _waited(self) -> int:
        """For how long the thread has waited for a processor since it was made, in ns."""
        return int(os.pread(self._fd, 128, 0).split()[1])
