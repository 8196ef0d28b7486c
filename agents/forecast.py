"""The forecast: how long the guest would stand still if it were paused now.

What is known are the rounds so far and what was measured just before: the connections, what they hold, what it costs to
move one, the way between the agents. Each part is taken from the less favourable side, because the policy that asks
promises that the blackout will not be longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_FIXED_NS = 4_000_000  # pause, gate, hand-over: what even a guest without pages and connections costs
_HUSH_NS = 2_000_000  # between the decision and the pause, while the guest writes on
_WAYS = 1.5  # round trips beyond the one that each round's duration holds: READY, RELINQUISH, RESUMED
_STATE_BYTES = 256  # of a connection with empty queues, on the wire
_RECENT = 2  # rounds that count: older ones met another network, or a guest that did something else


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

    @property
    def dirty_bytes_per_s(self) -> float:
        """How fast the guest wrote to pages that were clean. A long round sees it low: hot pages count once."""
        return self.remaining_bytes * 1e9 / self.duration_ns if self.duration_ns else 0.0


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What does not come from the rounds: measured after the last one, on the running guest."""

    smallest_rto_ns: int | None = None  # over the live connections; None when there are none
    connections: int = 0
    connection_ns: int = 0  # to take one out of one kernel and build it up in another
    queued_bytes: int = 0  # sent or received, and still in the connections' queues: they move as well
    settle_ns: int = 0  # longest wait for what is in flight, in which clients may send on
    path_ns: int = 0  # round trip between the agents, with the queues that others fill
    elapsed_ns: int = 0  # since the migration was ordered
    harvest_ns: int = 0  # what the last search for dirty pages took: there is one more in the blackout
    since_ns: int = 0  # since that search began


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The parts of the blackout to come, in ns; infinite where no rate is known."""

    pages_ns: float  # those found dirty at the end of the last round
    rewritten_ns: float  # those written from then to the pause
    queues_ns: float  # state and queues of the connections, on the wire
    connections_ns: float
    settle_ns: float
    path_ns: float
    harvest_ns: float
    fixed_ns: float

    @property
    def blackout_ns(self) -> float:
        return float(sum(asdict(self).values()))

    def as_integers(self) -> dict[str, int | None]:
        """The whole and its parts for the log; None for what has no end."""
        parts = {"blackout_ns": self.blackout_ns, **asdict(self)}
        return {name: round(value) if math.isfinite(value) else None for name, value in parts.items()}

    def __str__(self) -> str:
        """One clause for a message."""
        pages, connections = self.pages_ns + self.rewritten_ns, self.queues_ns + self.connections_ns
        rest = self.settle_ns + self.path_ns + self.harvest_ns + self.fixed_ns
        return (
            f"a blackout of {self.blackout_ns / 1e6:.0f} ms is to be expected (pages {pages / 1e6:.0f} ms, "
            f"connections {connections / 1e6:.0f} ms, hand-over {rest / 1e6:.0f} ms)"
        )


def forecast(rounds: Sequence[Round], outlook: Outlook) -> Forecast:
    """What is to be expected of a pause now. `rounds` is not empty."""
    rate = recent_rate_bit_per_s(rounds)
    rewritten_bytes = _dirty_rate_bytes_per_s(rounds) * (outlook.since_ns + _HUSH_NS) / 1e9
    state_bytes = outlook.queued_bytes + outlook.connections * _STATE_BYTES
    return Forecast(
        pages_ns=_wire_ns(rounds[-1].remaining_bytes, rate),
        rewritten_ns=_wire_ns(rewritten_bytes, rate),
        # While they settle, clients go on sending, hardly faster than these links take it: as long again on the wire.
        queues_ns=_wire_ns(state_bytes, rate) + outlook.settle_ns,
        connections_ns=outlook.connections * outlook.connection_ns,
        settle_ns=outlook.settle_ns,
        path_ns=outlook.path_ns * _WAYS,
        harvest_ns=outlook.harvest_ns,
        fixed_ns=_FIXED_NS,
    )


def recent_rate_bit_per_s(rounds: Sequence[Round]) -> float:
    """The slower of the last two rounds that sent anything; 0 if none did.

    A short round's rate is low, since it holds the way of the acknowledgement: what is to be sent then is as short.
    """
    return min((entry.bit_per_s for entry in _recent(rounds)), default=0.0)


def _dirty_rate_bytes_per_s(rounds: Sequence[Round]) -> float:
    """The highest of the last rounds: the shorter one was, the less often it counted a page once for many writes."""
    return max(entry.dirty_bytes_per_s for entry in rounds[-_RECENT:])


def _recent(rounds: Sequence[Round]) -> Sequence[Round]:
    return [entry for entry in rounds if entry.sent_bytes and entry.duration_ns][-_RECENT:]


def _wire_ns(size_bytes: float, rate_bit_per_s: float) -> float:
    if size_bytes == 0:
        return 0.0
    return size_bytes * 8e9 / rate_bit_per_s if rate_bit_per_s else float("inf")
