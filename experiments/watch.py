"""The watch over a trial's children: whoever is waited for, the failure of any of them is found at once.

A trial that lost its prober in warm-up would else go on to its end, only to learn then that nothing was measured.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence

from unnoticed.experiments.child import Child, ChildError, Reply


class Watch:
    """Over the children in a list, which may grow. `phase` is what a message says a child died in."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self.phase = "start-up"

    def sleep(self, duration_s: float) -> None:
        """Sleep. Raises ChildError as soon as a child has died, or has sent an error."""
        deadline_s = time.monotonic() + duration_s
        while self._look(deadline_s):
            pass

    def wait_reply(self, child: Child, reply: str, timeout_s: float) -> Reply:
        """As `Child.wait_reply`, but raises ChildError for any of the children."""
        deadline_s = time.monotonic() + timeout_s
        while (found := child.take(reply)) is None:
            if child.ended:
                raise child.died(f'before it answered "{reply}"')
            if not self._look(deadline_s):
                raise ChildError(child.silence(reply, timeout_s))
        return found

    def _look(self, deadline_s: float) -> bool:
        """Take in what the children send next; False if it is too late for that."""
        left_s = deadline_s - time.monotonic()
        poll = select.poll()
        watched = {child.fileno(): child for child in self._children if not child.ended}
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(max(0.0, left_s) * 1000):
            watched[descriptor].receive(when=f"during {self.phase}")
        return left_s > 0
