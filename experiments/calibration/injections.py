"""Injections: outages to be caused, and what is known of them once they were.

A cut drops every frame of the guest at its port, both ways or one; a freeze stops the guest's process while the network
lives; loss drops each frame with a set probability. Reordering lets each frame to the guest be late with a set
probability, so that others overtake it; a zero window makes every TCP segment of the guest's say that it has no room:
neither is an outage, and none may be found. Quiet is a stretch of time in which nothing is done.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["cut", "cut-to-guest", "cut-from-guest", "freeze", "loss", "reordering", "zero-window", "quiet"]

CUTS: dict[str, tuple[str, ...]] = {
    "cut": ("to-guest", "from-guest"),
    "cut-to-guest": ("to-guest",),
    "cut-from-guest": ("from-guest",),
}
NO_OUTAGE: tuple[Kind, ...] = ("reordering", "zero-window")  # the path and the guest are there all the while
LATE_NS = 3_000_000  # by how much a frame is late that others overtake
REORDERING_NS = 1_000_000_000
_SETTLE_NS = 400_000_000  # for what an outage held to flow off, and for TCP to take up its pace again
_QUIET_PIECE_NS = 10_000_000_000
_BACK_OFF = 1.25  # TCP's retransmission timer doubles: it may sleep as long again as an outage lasted


@dataclass(frozen=True, kw_only=True)
class Injection:
    """One outage to cause. `share` of the frames is dropped, for loss, or late, for reordering."""

    kind: Kind
    duration_ns: int
    share: float = 0.0

    @property
    def after_ns(self) -> int:
        """How long to wait after it, before the next."""
        return 0 if self.kind in ("quiet", "loss") else _SETTLE_NS + round(_BACK_OFF * self.duration_ns)

    @property
    def words(self) -> str:
        """In a few words: `cut of 20 ms`."""
        length = f"{self.duration_ns / 1e6:g} ms" if self.duration_ns < 10**9 else f"{self.duration_ns / 1e9:g} s"
        shared = f"{self.share:.1%} {self.kind} for {length}"
        return shared if self.kind in ("loss", "reordering") else f"{self.kind} of {length}"

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One outage that was caused. Began and ended within these bounds (ns), by the clock of who caused it.

    `dropped`: frames that the gate dropped meanwhile; `dropped_udp`: those of them that were probes or their answers.
    `late`, `late_udp`: the same of frames that were made late.
    """

    injection: Injection
    begin_low_ns: int
    begin_high_ns: int
    end_low_ns: int
    end_high_ns: int
    dropped: int
    dropped_udp: int
    late: int = 0
    late_udp: int = 0

    @property
    def truth_ns(self) -> int:
        """Its length, between the middles of both bounds."""
        return (self.end_low_ns + self.end_high_ns - self.begin_low_ns - self.begin_high_ns) // 2

    @property
    def uncertainty_ns(self) -> int:
        """How far from `truth_ns` its length may lie, either way."""
        return (self.end_high_ns - self.end_low_ns + self.begin_high_ns - self.begin_low_ns + 1) // 2

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Truth:
        """What the injector logged. Raises KeyError or TypeError of an event that is not its."""
        fields = {name: event[name] for name in cls.__dataclass_fields__ if name != "injection"}
        return cls(injection=Injection(**event["injection"]), **fields)


def schedule(
    *,
    cuts_ns: Sequence[int],
    freezes_ns: Sequence[int],
    one_way_ns: Sequence[int],
    losses: Sequence[float],
    loss_ns: int,
    reorderings: Sequence[float] = (),
    zero_windows_ns: Sequence[int] = (),
    quiet_ns: int,
    repeats: int,
    seed: int,
) -> list[Injection]:
    """Everything to inject, in a random order, so that a drift of the machine does not fall on one length alone.

    Each length of a cut, freeze, one-way cut or zero window comes `repeats` times, and so does each share of
    reordering; each share of loss once, for `loss_ns`; quiet comes last.
    """
    lengths: dict[Kind, Sequence[int]] = {
        "cut": cuts_ns,
        "freeze": freezes_ns,
        "cut-to-guest": one_way_ns,
        "cut-from-guest": one_way_ns,
        "zero-window": zero_windows_ns,
    }
    found = [
        Injection(kind=kind, duration_ns=duration)
        for kind, durations in lengths.items()
        for duration in durations
        for _ in range(repeats)
    ]
    found += [
        Injection(kind="reordering", duration_ns=REORDERING_NS, share=share)
        for share in reorderings
        for _ in range(repeats)
    ]
    found += [Injection(kind="loss", duration_ns=loss_ns, share=share) for share in losses]
    random.Random(seed).shuffle(found)
    while quiet_ns > 0:  # in pieces, so that progress can be told
        found.append(Injection(kind="quiet", duration_ns=min(quiet_ns, _QUIET_PIECE_NS)))
        quiet_ns -= _QUIET_PIECE_NS
    return found


def expected_s(injections: Sequence[Injection]) -> float:
    """About how long they take, one after the other."""
    return sum(each.duration_ns + each.after_ns for each in injections) / 1e9
