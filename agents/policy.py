"""Policies: after each round, iterate, switch over, or give up.

A policy is a small class with one method, `decide`, from what is known after a round to a Decision. It has no clock and
no state but what it is given: the history of the rounds is its argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from unnoticed.agents.forecast import Outlook, Round, forecast


class Decision(Enum):
    """What to do after a round."""

    ITERATE = "iterate"
    SWITCH = "switch"
    GIVE_UP = "give-up"


class Policy(Protocol):
    """Decides after each round. `rounds` is never empty; the last one has just ended."""

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision: ...


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
    to get done. Without connections, RFC 6298's lower bound as Linux has it (200 ms) stands in. A digest of all RAM,
    where one is asked for in the blackout, is not counted.
    """

    max_rounds: int = 30
    patience: int = 5
    default_rto_ns: int = 200_000_000

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:
        limit_ns = self.default_rto_ns if outlook.smallest_rto_ns is None else outlook.smallest_rto_ns
        if forecast(rounds, outlook).blackout_ns <= limit_ns:
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
