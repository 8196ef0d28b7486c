"""The policies that come with the product: those of the literature, and the claim's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unnoticed.agents.forecast import Outlook, Round, forecast
from unnoticed.agents.policy import GIVE_UP, ITERATE, SWITCH, Action, Decision, Policy, parameter

_MS, _MIB = 1_000_000, 1 << 20
_MOST_ROUNDS = 1000
_WHOLE_PPM = 1_000_000


@dataclass(frozen=True)
class FixedRounds(Policy):
    """Switch after a set number of rounds, however much is left."""

    rounds: int = parameter(5, at_least=1, at_most=_MOST_ROUNDS)

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:  # noqa: ARG002 (a Policy)
        return SWITCH if len(rounds) >= self.rounds else ITERATE


@dataclass(frozen=True)
class Threshold(Policy):
    """Switch once at most so many bytes are dirty; after `max_rounds` anyway, as Xen does (Clark et al., 2005)."""

    threshold_bytes: int = parameter(256 << 10, at_least=0)
    max_rounds: int = parameter(30, at_least=1, at_most=_MOST_ROUNDS)

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:  # noqa: ARG002 (a Policy)
        if rounds[-1].remaining_bytes <= self.threshold_bytes or len(rounds) >= self.max_rounds:
            return SWITCH
        return ITERATE


@dataclass(frozen=True)
class TcpTimeout(Policy):
    """The claim: switch once the blackout would fit under the smallest retransmission timeout of the live connections.

    Gives up when the rest has stopped shrinking for `patience` rounds, or after `max_rounds`: it never breaks the claim
    to get done. Without connections, RFC 6298's lower bound as Linux has it (200 ms) stands in. A digest of all RAM,
    where one is asked for in the blackout, is not counted.
    """

    max_rounds: int = parameter(30, at_least=1, at_most=_MOST_ROUNDS)
    patience: int = parameter(5, at_least=1)
    default_rto_ns: int = parameter(200 * _MS, at_least=1)

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:
        limit_ns = self.default_rto_ns if outlook.smallest_rto_ns is None else outlook.smallest_rto_ns
        if forecast(rounds, outlook).blackout_ns <= limit_ns:
            return SWITCH
        if len(rounds) >= self.max_rounds or self._is_stuck(rounds):
            return GIVE_UP
        return ITERATE

    def _is_stuck(self, rounds: Sequence[Round]) -> bool:
        if len(rounds) <= self.patience:
            return False
        before = min(entry.remaining_bytes for entry in rounds[: -self.patience])
        return min(entry.remaining_bytes for entry in rounds[-self.patience :]) > before * 0.95


@dataclass(frozen=True)
class Clark(Policy):
    """Clark's dynamic rate limit (Clark et al., NSDI 2005): spare the network while pages are written slowly.

    Round 0 goes at the least rate. Each round then goes at the rate at which the last one's pages were dirtied, plus a
    constant. It switches when that would be more than the highest rate, when little is left, or after `max_rounds`
    anyway, as Xen does; what is left goes at the highest rate. The rates are those of the paper's experiments.
    """

    min_rate_bit_per_s: int = parameter(100_000_000, at_least=1_000_000)
    max_rate_bit_per_s: int = parameter(500_000_000, at_least=1_000_000)
    increment_bit_per_s: int = parameter(50_000_000, at_least=0)
    threshold_bytes: int = parameter(256 << 10, at_least=0)
    max_rounds: int = parameter(30, at_least=1, at_most=_MOST_ROUNDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_rate_bit_per_s > self.max_rate_bit_per_s:
            raise ValueError("min_rate is more than max_rate")

    def begin(self, outlook: Outlook) -> Decision:  # noqa: ARG002 (a Policy)
        return Decision(Action.ITERATE, rate_bit_per_s=self.min_rate_bit_per_s)

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:  # noqa: ARG002 (a Policy)
        last = rounds[-1]
        wanted = max(round(last.dirty_bytes_per_s * 8) + self.increment_bit_per_s, self.min_rate_bit_per_s)
        is_enough = last.remaining_bytes <= self.threshold_bytes or len(rounds) >= self.max_rounds
        if is_enough or wanted > self.max_rate_bit_per_s:
            return Decision(Action.SWITCH, rate_bit_per_s=self.max_rate_bit_per_s)
        return Decision(Action.ITERATE, rate_bit_per_s=wanted)


@dataclass(frozen=True)
class DowntimeLimit(Policy):
    """QEMU's rule (migration/migration.c): switch once what is left takes at most so long at the measured rate.

    With `auto_converge` the guest is slowed down while that does not come nearer (migration/ram.c): each second round
    that leaves more than half of what it sent keeps the guest from running for a larger share of the time. QEMU looks
    once a second and goes on for ever; here it looks after each round, and `max_rounds` is the end.
    """

    downtime_limit_ns: int = parameter(300 * _MS, at_least=0)
    auto_converge: bool = True
    throttle_initial_ppm: int = parameter(200_000, at_least=0, at_most=990_000)
    throttle_increment_ppm: int = parameter(100_000, at_least=0, at_most=990_000)
    max_throttle_ppm: int = parameter(990_000, at_least=0, at_most=990_000)
    max_rounds: int = parameter(100, at_least=1, at_most=_MOST_ROUNDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.throttle_initial_ppm > self.max_throttle_ppm:
            raise ValueError("throttle_initial is more than max_throttle")

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:  # noqa: ARG002 (a Policy)
        last, throttle_ppm = rounds[-1], self._throttle_ppm(rounds)
        rate = next((entry.bit_per_s for entry in reversed(rounds) if entry.bit_per_s), 0.0)
        if last.remaining_bytes * 8e9 <= self.downtime_limit_ns * rate or not last.remaining_bytes:
            return Decision(Action.SWITCH, throttle_ppm=throttle_ppm)
        if len(rounds) >= self.max_rounds:
            return GIVE_UP
        return Decision(Action.ITERATE, throttle_ppm=throttle_ppm)

    def _throttle_ppm(self, rounds: Sequence[Round]) -> int:
        steps = sum(entry.remaining_bytes * 2 > entry.sent_bytes for entry in rounds) // 2
        if not self.auto_converge or not steps:
            return 0
        return min(self.throttle_initial_ppm + (steps - 1) * self.throttle_increment_ppm, self.max_throttle_ppm)


@dataclass(frozen=True)
class Deadline(Policy):
    """Be done a set time after the order: round upon round until then, and what is left then, however much, at once.

    The time to switch is told by the forecast of the blackout; a round that would last longer than that is ended. What
    cannot be done in time is done late. It switches earlier where little is left.
    """

    deadline_ns: int = parameter(5_000 * _MS, at_least=1)
    threshold_bytes: int = parameter(256 << 10, at_least=0)

    def begin(self, outlook: Outlook) -> Decision:
        return Decision(Action.ITERATE, limit_ns=max(self.deadline_ns - outlook.elapsed_ns, 0))

    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:
        spare_ns = self.deadline_ns - outlook.elapsed_ns - forecast(rounds, outlook).blackout_ns
        if spare_ns <= 0 or rounds[-1].remaining_bytes <= self.threshold_bytes:
            return SWITCH
        return Decision(Action.ITERATE, limit_ns=round(spare_ns))


STOCK: Mapping[str, type[Policy]] = {
    "fixed-rounds": FixedRounds,
    "threshold": Threshold,
    "tcp-timeout": TcpTimeout,
    "clark": Clark,
    "downtime-limit": DowntimeLimit,
    "deadline": Deadline,
}
