"""A migration as its source is told to do it, and what the source says of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from unnoticed.agents.holding import LIMIT_BYTES
from unnoticed.agents.packing import NONE
from unnoticed.agents.tracking import AUTO
from unnoticed.agents.wire import Copying

_COPYING = {
    "stop-and-copy": Copying.BEFORE,
    "pre-copy": Copying.BEFORE,
    "post-copy": Copying.AFTER,
    "hybrid": Copying.BOTH,
}


@dataclass(frozen=True, kw_only=True)
class MigrationSettings:
    """What one migration is told to do."""

    number: int
    destination: str  # IPv4 address of the other agent
    mode: str
    policy: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    announce: str = "garp"
    tracking: str = AUTO  # how pages written in a round are found; see `tracking`
    codec: str = NONE  # how pages are coded on their way; see `packing`
    rate_bytes_per_s: int = 0  # 0: as fast as the link
    gap: str = "drop"  # or hold: what becomes of frames that come while the guest runs nowhere
    hold_limit_bytes: int = LIMIT_BYTES
    hold_time_ns: int = 2_000_000_000
    zero_window: bool = False  # of hold: clients are answered meanwhile; see `zero_window`
    verify: bool = False  # compare a digest of all RAM before the guest resumes: lengthens the blackout
    fail_at: str | None = None

    @property
    def copying(self) -> Copying:
        """When the pages come: before the guest, after it, or both."""
        return _COPYING[self.mode]


class Outcome(StrEnum):
    """How a migration ended, as seen by the source."""

    COMPLETED = "completed"
    GAVE_UP = "gave-up"
    FAILED = "failed"
    LOST = "lost"  # it had gone before all its pages had: some of them are nowhere, and so is the guest


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the source says of a migration: the event `migration`."""

    outcome: Outcome
    reason: str
    start_ns: int
    end_ns: int
    paused_ns: int | None
    resumed_ns: int | None
    completed_ns: int | None  # when the destination had all pages
    bytes_sent: int
    rounds: int
    rto_min_ns: int | None
    tracker: str
    connections: int | None
