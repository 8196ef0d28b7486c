"""The waterfall: what one client's perceived downtime consists of, part after part, without gap or overlap.

Pure. The time that a client waited is cut at every border that is known: the steps of the cutover, then what it waited
for once the guest ran again. Each piece of time belongs to exactly one part, so the parts sum to the whole; what has
no known reason is a part of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RUNNING = "guest still running"
NO_ANNOUNCEMENT = "nothing announced"
NO_FRAME = "wait for the client's next frame"
ON_THE_WAY = "on the way to the guest"
SERVING = "guest answers"
WAY_BACK = "answer on its way back"
STALLED = "this machine stood still"
UNKNOWN = "not attributed"
BETWEEN = "before the first step"
NOT_MOVING = "no cutover"

# While one end waits for the other, what the other does is the reason. The destination receives as long as the source
# has more to give, be it that it works on it.
_WAITING = ("await-ready", "await-relinquish", "await-announcement", "receive")


@dataclass(frozen=True, kw_only=True)
class TimedStep:
    """One step of the cutover; no name occurs at both hosts."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True)
class Wait:
    """What had to happen once the guest ran again, and when it did; None: not as long as was looked."""

    name: str
    until_ns: int | None


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What is known of one migration, from one client's point of view.

    `turned_ns`: from here on frames for the guest were held at the destination, though it may not have been paused yet.
    `waits` are in causal order: each one explains the time until it is over, as far as those before it do not.
    `stalls`, from and until: when the machine itself stood still, which is the reason where the migration has none.
    """

    steps: Sequence[TimedStep]
    paused_ns: int | None
    resumed_ns: int | None
    turned_ns: int | None = None
    waits: Sequence[Wait] = ()
    stalls: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the waterfall."""

    name: str
    start_ns: int
    end_ns: int


def waterfall(moments: Moments, *, start_ns: int, end_ns: int) -> list[Part]:
    """The parts of the wait [start_ns, end_ns), in order; they sum to it exactly. Empty for an empty wait."""
    borders = {start_ns, end_ns}
    known = [moments.turned_ns, moments.paused_ns, moments.resumed_ns, *(wait.until_ns for wait in moments.waits)]
    known += [time for step in moments.steps for time in (step.start_ns, step.end_ns)]
    known += [time for stall in moments.stalls for time in stall]
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
    stalled = any(start_ns <= time_ns < end_ns for start_ns, end_ns in moments.stalls)
    if moments.paused_ns is None:
        return STALLED if stalled else NOT_MOVING
    if time_ns < min(moments.paused_ns, moments.paused_ns if moments.turned_ns is None else moments.turned_ns):
        return STALLED if stalled else RUNNING
    if moments.resumed_ns is None or time_ns < moments.resumed_ns:
        return _step_at(moments.steps, time_ns)
    open_waits = (wait.name for wait in moments.waits if wait.until_ns is None or time_ns < wait.until_ns)
    return next(open_waits, STALLED if stalled else UNKNOWN)


def _step_at(steps: Sequence[TimedStep], time_ns: int) -> str:
    """The step that ran then: one that works before one that waits, the one that began first before the others.

    The instants between two steps are the former's: its end is when it was logged.
    """
    running = [step for step in steps if step.start_ns <= time_ns < step.end_ns]
    if running:
        return min(running, key=lambda step: (step.name in _WAITING, step.start_ns)).name
    over = [step for step in steps if step.end_ns <= time_ns]
    return max(over, key=lambda step: step.end_ns).name if over else BETWEEN


def switch_waits(relearned_ns: Iterable[tuple[str, int]]) -> list[Wait]:
    """Until every switch had re-learned the guest's port; `relearned_ns` gives switches and when each did."""
    ordered = sorted(relearned_ns, key=lambda pair: (pair[1], pair[0]))
    names = [name for name, _ in ordered]
    return [
        Wait(name=f"{_enumerated(sorted(set(names[at:])))} not re-taught", until_ns=time_ns)
        for at, (_, time_ns) in enumerate(ordered)
    ]


def _enumerated(switches: Sequence[str]) -> str:
    if len(switches) == 1:
        return f"switch {switches[0]}"
    return f"switches {', '.join(switches[:-1])} and {switches[-1]}"


@dataclass(frozen=True, kw_only=True, order=True)
class Repeated:
    """One segment that was sent again while the client waited."""

    time_ns: int
    sender: str  # client or guest
    type: str  # as in the table of retransmissions
    sequence: int


def timer_waits(repeated: Iterable[Repeated]) -> list[Wait]:
    """Until each retransmission: whose timer it was, and on which rung of its ladder (RFC 6298, section 5.5)."""
    waits: list[Wait] = []
    rungs: dict[tuple[str, int], int] = {}
    for again in sorted(repeated):
        if again.type == "rto":
            rung = rungs[again.sender, again.sequence] = rungs.get((again.sender, again.sequence), 0) + 1
            name = f"{again.sender}'s retransmission timer, {_ordinal(rung)} time"
        elif again.type == "tlp":
            name = f"{again.sender}'s tail-loss probe timer"
        else:
            name = f"{again.sender}'s fast recovery"
        waits.append(Wait(name=name, until_ns=again.time_ns))
    return waits


def _ordinal(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")
