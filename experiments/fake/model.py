"""The model behind the fake bench: what a migration takes, computed from the settings by known formulas.

It is no simulation of Linux; it is a source of records whose truth is known, so that plans, runs, analysis and reports
can be tested without a network. All times in nanoseconds on one clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from unnoticed.agents.forecast import Outlook, Round
from unnoticed.agents.policy import SWITCH, Action
from unnoticed.agents.policy_catalogue import make_policy
from unnoticed.agents.trace import read_trace
from unnoticed.experiments.planning.settings import PAGE_BYTES, GuestSettings, Settings

MS, S = 10**6, 10**9
RTO_NS = 204 * MS
DELAY_NS = MS // 10  # one way between a client and the guest
LINK_SHARE = 0.94  # of a link's rate that page bytes get
TRACKED_SHARE = 0.9  # of what the dirtier is asked for that it writes while its pages are tracked
_NATURAL_NS = 8 * MS  # the fixed cost of a cutover
_HELD_BEFORE_NS = MS // 2  # from the announcement, where frames are held, to the pause
_SHARES = (("freeze", 0.05), ("dump", 0.25), ("send-rest", 0.2), ("restore", 0.3), ("announce", 0.1), ("resume", 0.1))


@dataclass(frozen=True, kw_only=True)
class FakeRound:
    """One round: what it sent, and what was dirty at its end."""

    start_ns: int
    end_ns: int
    sent_bytes: int
    dirty_bytes: int
    rate_limit_bit_per_s: int | None
    throttle_ppm: int


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What happened in a fake trial. The cuts are when frames to the guest are lost: of UDP, and of TCP.

    Or nothing is lost, and what comes to the guest from `held[0]` on is delivered at `held[1]`.
    """

    start_ns: int
    end_ns: int
    outcome: str
    reason: str
    rounds: tuple[FakeRound, ...]
    paused_ns: int | None
    resumed_ns: int | None
    probe_cut: tuple[int, int] | None
    tcp_cut: tuple[int, int] | None
    trial_start_ns: int
    trial_end_ns: int
    held: tuple[int, int] | None = None
    completed_ns: int | None = None  # the last page is there: after the resume, where pages come later
    later_bytes: int = 0

    def arrives(self, sent_ns: int) -> int:
        """When the guest has what a client sends now, if it is not lost."""
        at = sent_ns + DELAY_NS
        return self.held[1] if self.held is not None and self.held[0] <= at < self.held[1] else at

    @property
    def announced_ns(self) -> int | None:
        """When the guest was announced, if it was announced."""
        return self.resumed_ns if self.held is None else self.held[0]

    @property
    def blackout_ns(self) -> int | None:
        return None if self.paused_ns is None or self.resumed_ns is None else self.resumed_ns - self.paused_ns

    def written_bytes(self, time_ns: int, *, rate_bytes_per_s: int) -> tuple[int, int]:
        """What the dirtier has written since the trial began, and what it has left out."""
        ran_ns = time_ns - self.trial_start_ns
        if self.paused_ns is not None and self.resumed_ns is not None:
            ran_ns -= max(0, min(time_ns, self.resumed_ns) - self.paused_ns)
        until_ns = self.paused_ns if self.paused_ns is not None else self.end_ns
        tracked_ns = max(0, min(time_ns, until_ns) - self.start_ns) if self.rounds else 0
        left_out = round(rate_bytes_per_s * (1 - TRACKED_SHARE) * tracked_ns / S)
        return rate_bytes_per_s * ran_ns // S - left_out, left_out

    def document(self) -> dict[str, Any]:
        """For the truth's own file."""
        return {**asdict(self), "blackout_ns": self.blackout_ns}

    def steps(self) -> Iterator[tuple[str, str, int, int]]:
        """The cutover's steps: name, place, start and end."""
        if self.paused_ns is None or self.blackout_ns is None:
            return
        at = self.paused_ns
        for name, share in _SHARES:
            end = at + round(self.blackout_ns * share)
            if name == _SHARES[-1][0]:
                end = self.paused_ns + self.blackout_ns
            yield name, "a" if name in ("freeze", "dump", "send-rest") else "b", at, end
            at = end


def writes_of(guest: GuestSettings) -> tuple[int, int]:
    """How much memory the guest writes to, and how fast; of a trace on the average."""
    if guest.trace_path is None:
        return guest.working_set_bytes, guest.dirty_rate_bytes_per_s
    trace = read_trace(guest.trace_path)
    return trace.pages * PAGE_BYTES, round(trace.bytes_per_s)


def migrate(settings: Settings, *, seed: str, trial_start_ns: int, warm_up_ns: int, cool_down_ns: int) -> Truth:
    """Compute one migration. The same seed gives the same one."""
    luck = random.Random(seed)
    guest, migration = settings.guest, settings.migration
    working_set_bytes, dirty_bytes_per_s = writes_of(guest)
    link_bit_per_s = min(settings.fabric.link.rate_bit_per_s, migration.rate_limit_bit_per_s or 1 << 62)
    rate = link_bit_per_s / 8 * LINK_SHARE  # bytes per second
    start = trial_start_ns + warm_up_ns
    at, rest = start, guest.memory_bytes
    rounds: list[FakeRound] = []
    outcome, reason = "completed", ""
    history: list[Round] = []
    policy = None if migration.policy is None else make_policy(migration.policy, migration.policy_parameters)
    decision = SWITCH if policy is None else policy.begin(Outlook())
    while policy is not None and decision.action is Action.ITERATE:
        paced = min(rate, (decision.rate_bit_per_s or link_bit_per_s) / 8 * LINK_SHARE)
        duration = round(rest / paced * S * luck.uniform(1.0, 1.03))
        unsent = 0
        if decision.limit_ns is not None and duration > decision.limit_ns:
            unsent, duration = round(rest * (1 - decision.limit_ns / duration)), decision.limit_ns
            unsent -= unsent % PAGE_BYTES
        written = dirty_bytes_per_s * duration / S * (1 - decision.throttle_ppm / 1e6)
        dirty = min(working_set_bytes, int(written)) + unsent
        dirty -= dirty % PAGE_BYTES
        rounds.append(
            FakeRound(
                start_ns=at,
                end_ns=at + duration,
                sent_bytes=rest - unsent,
                dirty_bytes=dirty,
                rate_limit_bit_per_s=decision.rate_bit_per_s,
                throttle_ppm=decision.throttle_ppm,
            )
        )
        history.append(
            Round(number=len(history), sent_bytes=rest - unsent, duration_ns=duration, remaining_bytes=dirty)
        )
        at, rest = at + duration, dirty
        decision = policy.decide(history, Outlook(smallest_rto_ns=RTO_NS, elapsed_ns=at - start))
    if decision.action is Action.GIVE_UP and not migration.has_later_pages:
        outcome, reason = "gave-up", f"the {migration.policy} policy sees no end"
    held = None
    later = rest if migration.has_later_pages else 0
    rest -= later
    if outcome == "gave-up":
        paused = resumed = completed = None
        probe_cut = tcp_cut = None
        end = at
    else:
        paused = at
        resumed = paused + round(_NATURAL_NS * luck.uniform(0.8, 1.6) + rest / rate * S)
        completed = resumed + round(later / rate * S)
        end = completed + 2 * MS
        taught = MS // 2 if migration.announce != "none" else None
        probe_cut = (paused, resumed + (taught or 1500 * MS))
        tcp_cut = (paused, resumed + (taught or 200 * MS))
        if migration.gap == "hold":
            held = (paused - _HELD_BEFORE_NS, resumed)
            probe_cut = tcp_cut = None
    last = max(end, probe_cut[1] if probe_cut else 0)
    return Truth(
        start_ns=start,
        end_ns=end,
        outcome=outcome,
        reason=reason,
        rounds=tuple(rounds),
        paused_ns=paused,
        resumed_ns=resumed,
        probe_cut=probe_cut,
        tcp_cut=tcp_cut,
        trial_start_ns=trial_start_ns,
        trial_end_ns=last + cool_down_ns,
        held=held,
        completed_ns=completed,
        later_bytes=later,
    )
