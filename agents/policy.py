"""Policies: after each round, iterate, switch over, or give up.

A policy is a small class with one method, `decide`, from what is known after a round to a Decision. It has no clock and
no state but what it is given: the history of the rounds is its argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol


class Decision(Enum):
    """What to do after a round."""

    ITERATE = "iterate"
    SWITCH = "switch"
    GIVE_UP = "give-up"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One finished pre-copy round. `remaining_bytes` were found dirty at its end."""

    number: int
    sent_bytes: int
    duration_ns: int
    remaining_bytes: int

    @property
    def bit_per_s(self) -> float:
        """What the stream achieved in this round; 0 for an empty one."""
        return self.sent_bytes * 8e9 / self.duration_ns if self.duration_ns else 0.0


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What does not come from the rounds: the guest's connections and the cost of a cutover without pages."""

    smallest_rto_ns: int | None  # over the live connections; None when there are none
    fixed_ns: int  # pause, TCP state, hand-over: everything but the pages


class Policy(Protocol):
    """Decides after each round. `rounds` is never empty; the last one has just ended."""

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision: ...


def best_rate_bit_per_s(rounds: Sequence[Round]) -> float:
    """The best rate seen in a round of at least a megabyte, which is what a link can do; else the best rate seen."""
    long = [entry.bit_per_s for entry in rounds if entry.sent_bytes >= 1 << 20]
    return max(long or (entry.bit_per_s for entry in rounds))


def expected_blackout_ns(rounds: Sequence[Round], outlook: Outlook) -> float:
    """How long the guest would stand still if it were paused now: the rest at the rate seen, and the fixed cost."""
    rate = best_rate_bit_per_s(rounds)
    remaining = rounds[-1].remaining_bytes
    if remaining == 0:
        return outlook.fixed_ns
    return outlook.fixed_ns + remaining * 8e9 / rate if rate else float("inf")


@dataclass(frozen=True)
class FixedRounds:
    """Switch after a set number of rounds, however much is left."""

    rounds: int = 5

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:  # noqa: ARG002 (a Policy)
        return Decision.SWITCH if len(rounds) >= self.rounds else Decision.ITERATE


@dataclass(frozen=True)
class Threshold:
    """Switch once at most so many bytes are dirty; after `max_rounds` anyway, as Xen does (Clark et al., 2005)."""

    threshold_bytes: int = 256 << 10
    max_rounds: int = 30

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:  # noqa: ARG002 (a Policy)
        if rounds[-1].remaining_bytes <= self.threshold_bytes or len(rounds) >= self.max_rounds:
            return Decision.SWITCH
        return Decision.ITERATE


@dataclass(frozen=True)
class TcpTimeout:
    """The claim: switch once the blackout would fit under the smallest retransmission timeout of the live connections.

    Gives up when the rest has stopped shrinking for `patience` rounds, or after `max_rounds`: it never breaks the claim
    to get done. Without connections, RFC 6298's lower bound as Linux has it (200 ms) stands in.
    """

    max_rounds: int = 30
    patience: int = 5
    default_rto_ns: int = 200_000_000

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:
        limit_ns = self.default_rto_ns if outlook.smallest_rto_ns is None else outlook.smallest_rto_ns
        if expected_blackout_ns(rounds, outlook) <= limit_ns:
            return Decision.SWITCH
        if len(rounds) >= self.max_rounds or self._is_stuck(rounds):
            return Decision.GIVE_UP
        return Decision.ITERATE

    def _is_stuck(self, rounds: Sequence[Round]) -> bool:
        if len(rounds) <= self.patience:
            return False
        before = min(entry.remaining_bytes for entry in rounds[: -self.patience])
        return min(entry.remaining_bytes for entry in rounds[-self.patience :]) > before * 0.95


def make_policy(name: str, parameters: Mapping[str, Any]) -> Policy:
    """The policy of this name with these parameters (those it does not know are an error: TypeError, ValueError)."""
    try:
        return _POLICIES[name](**parameters)
    except KeyError:
        raise ValueError(f"unknown policy {name!r}; known are {', '.join(sorted(_POLICIES))}") from None


_POLICIES: dict[str, type[FixedRounds | Threshold | TcpTimeout]] = {
    "fixed-rounds": FixedRounds,
    "threshold": Threshold,
    "tcp-timeout": TcpTimeout,
}
