"""The waterfall: what one client's perceived downtime consists of, part after part, without gap or overlap.

Pure. The outage of a client, as its probe saw it, is cut at every border that is known: the steps of the cutover, the
moment the last switch re-learned, the first frame of the client at the destination. Each piece of time belongs to
exactly one part, so the parts sum to the outage.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

RUNNING = "guest still running"
NO_ROUTE = "switches not re-taught"
NO_FRAME = "wait for the client's next frame"
ANSWER = "answer"
BETWEEN = "before the first step"
NOT_MOVING = "no cutover"

# While one end waits for the other, what the other does is the reason.
_WAITING = ("await-ready", "await-relinquish")


@dataclass(frozen=True, kw_only=True)
class TimedStep:
    """One step of the cutover; no name occurs at both hosts."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What is known of one migration, from one client's point of view."""

    steps: Sequence[TimedStep]
    paused_ns: int | None
    resumed_ns: int | None
    relearned_ns: int | None  # the last switch knew the new port
    first_frame_ns: int | None  # the client's first frame reached the guest at the destination, after the resume


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the waterfall."""

    name: str
    start_ns: int
    end_ns: int


def waterfall(moments: Moments, *, start_ns: int, end_ns: int) -> list[Part]:
    """The parts of the outage [start_ns, end_ns), in order; they sum to it exactly. Empty for an empty outage."""
    borders = {start_ns, end_ns}
    known = [moments.paused_ns, moments.resumed_ns, moments.relearned_ns, moments.first_frame_ns]
    known += [time for step in moments.steps for time in (step.start_ns, step.end_ns)]
    borders |= {time for time in known if time is not None and start_ns < time < end_ns}
    ordered = sorted(borders)
    parts: list[Part] = []
    for begin, end in itertools.pairwise(ordered):
        name = _reason(moments, begin)
        if parts and parts[-1].name == name:
            parts[-1] = Part(name=name, start_ns=parts[-1].start_ns, end_ns=end)
        else:
            parts.append(Part(name=name, start_ns=begin, end_ns=end))
    return parts


def _reason(moments: Moments, time_ns: int) -> str:
    """Why the client had no answer at this moment."""
    if moments.paused_ns is None:
        return NOT_MOVING
    if time_ns < moments.paused_ns:
        return RUNNING
    if moments.resumed_ns is None or time_ns < moments.resumed_ns:
        return _step_at(moments.steps, time_ns)
    if moments.relearned_ns is not None and time_ns < moments.relearned_ns:
        return NO_ROUTE
    if moments.first_frame_ns is not None and time_ns < moments.first_frame_ns:
        return NO_FRAME
    return ANSWER


def _step_at(steps: Sequence[TimedStep], time_ns: int) -> str:
    """The step that ran then: one that works before one that waits, the one that began first before the others.

    The instants between two steps are the former's: its end is when it was logged.
    """
    running = [step for step in steps if step.start_ns <= time_ns < step.end_ns]
    if running:
        return min(running, key=lambda step: (step.name in _WAITING, step.start_ns)).name
    over = [step for step in steps if step.end_ns <= time_ns]
    return max(over, key=lambda step: step.end_ns).name if over else BETWEEN
