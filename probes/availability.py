"""A path's availability as a fast probe train saw it: what would have become of a probe that somebody else sent.

A probe at any instant shares the fate of the recorded probe that was sent nearest to it: lost; held, and let go when
that one was; or answered after the time that one took. The border between two fates thus lies half-way between two
recorded probes, where the time-stamp estimator puts it too. An instant further from every recorded probe than a period
(the prober stood still) is decided the same way, but is a guess: `is_guess` says where.

What another prober's own frames would have changed (queues, neighbour tables) is not in it, nor what makes its frames
different: ICMP is answered by the guest's kernel, the recorded probes by a process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from unnoticed.probes.outages import usual_answer_ns
from unnoticed.probes.packets import I64
from unnoticed.probes.samples import NEVER, Samples


@dataclass(frozen=True)
class Availability:
    """What is known of one client's path. Asked about instants within [`from_ns`, `to_ns`]."""

    samples: Samples

    @property
    def from_ns(self) -> int:
        """When the first recorded probe was sent; 0 if there is none."""
        return int(self.samples.sent_ns[0]) if len(self.samples) else 0

    @property
    def to_ns(self) -> int:
        """When the last recorded probe was sent."""
        return int(self.samples.sent_ns[-1]) if len(self.samples) else 0

    def answered_ns(self, sent_ns: I64) -> I64:
        """When probes sent at these instants would have been answered; NEVER for those that would not."""
        near = self._nearest(sent_ns)
        answered, took = self.samples.answered_ns[near], self._took_ns[near]
        held = took > self._usual_ns + self.samples.period_ns // 2
        # What is held leaves when the outage is over, however long it has waited; never sooner than a probe can travel.
        answers = np.where(held, np.maximum(answered, sent_ns + self._usual_ns), sent_ns + took)
        return np.where(answered == NEVER, NEVER, answers)

    def answer_ns(self, sent_ns: int) -> int:
        """The same for one instant."""
        return int(self.answered_ns(np.array([sent_ns], np.int64))[0])

    def is_guess(self, sent_ns: I64) -> npt.NDArray[np.bool_]:
        """Where no probe was recorded within a period of these instants."""
        distance_ns: I64 = np.abs(self.samples.sent_ns[self._nearest(sent_ns)] - sent_ns)
        return distance_ns > self.samples.period_ns

    def _nearest(self, sent_ns: I64) -> I64:
        recorded = self.samples.sent_ns
        after = np.clip(np.searchsorted(recorded, sent_ns), 1, max(len(recorded) - 1, 1))
        before = after - 1
        if len(recorded) == 1:
            return np.zeros(len(sent_ns), np.int64)
        closer = np.where(sent_ns - recorded[before] <= recorded[after] - sent_ns, before, after)
        return closer.astype(np.int64)

    @cached_property
    def _usual_ns(self) -> int:
        return usual_answer_ns(self.samples)

    @cached_property
    def _took_ns(self) -> I64:
        return self.samples.answered_ns - self.samples.sent_ns
