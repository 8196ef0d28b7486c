"""The tables `outages`, `waterfall`, `relearned`: what each client felt, how surely, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from unnoticed.experiments.analysis.raw import CONTROL_STREAM, GUEST_STREAM, RawRecords
from unnoticed.experiments.analysis.waits import probe_waits, request_waits
from unnoticed.experiments.analysis.waterfall import Moments, Part, TimedStep, Wait, waterfall
from unnoticed.probes import outages
from unnoticed.probes.outages import Outage
from unnoticed.probes.samples import NEVER, Samples, samples
from unnoticed.probes.stalls import STALL_NS, Interval, machine_stalls, merged, overlap_ns, prober_stalls
from unnoticed.results.cells import NOTABLE_STALL
from unnoticed.results.schema import empty
from unnoticed.workload import Kind


@dataclass(frozen=True, kw_only=True)
class Felt:
    """What one client felt by one estimator, and what it consists of."""

    client: str
    outage: Outage
    parts: list[Part]


class Downtime:
    """The downtime of one trial, client by client. `retransmits` is the table of that name."""

    def __init__(self, raw: RawRecords, retransmits: pd.DataFrame) -> None:
        self._raw = raw
        self._retransmits = retransmits
        # Only what was sent in the time that is judged: later the bench may end an outage itself.
        until_ns = raw.phase_ns("quiesce")
        self._probes = {client: raw.probe(client, GUEST_STREAM).between(0, until_ns) for client in raw.clients}

    @cached_property
    def window(self) -> tuple[int, int]:
        """Where an outage counts as the migration's: from the cutover to the end of the cool-down.

        Without a pause (it gave up), from the start of the migration.
        """
        migration = self._raw.migration
        start_ns = migration.start_ns if migration.cutover_ns is None else migration.cutover_ns
        return start_ns, self._raw.phase_ns("quiesce")

    @cached_property
    def felt(self) -> list[Felt]:
        """For each client: the longest outage in the window by the time-stamp method, and its parts."""
        from_ns, to_ns = self.window
        return [
            self._consists_of(
                client,
                outages.time_stamp(self._probes[client], from_ns=from_ns, to_ns=to_ns),
                probe_waits(self._raw, client),
            )
            for client in self._raw.clients
        ]

    @cached_property
    def slowest(self) -> list[Felt]:
        """For each client with requests in the window: the longest wait for an answer, and its parts."""
        found = [(client, self._longest_wait(client, Kind.REQUEST)) for client in self._raw.clients]
        return [
            self._consists_of(client, outage, request_waits(self._raw, client, outage, self._retransmits))
            for client, outage in found
            if outage is not None
        ]

    @property
    def worst(self) -> Outage:
        """The longest of the clients' outages."""
        return max((felt.outage for felt in self.felt), key=lambda outage: outage.outage_ns)

    @cached_property
    def stalls(self) -> list[Interval]:
        """See `stalls_of`."""
        return stalls_of(self._raw)

    @property
    def stalls_within(self) -> list[Interval]:
        """The stalls from the warm-up on, as far as they lie before the quiescing."""
        since_ns, until_ns = self._raw.phase_ns("warm-up"), self._raw.phase_ns("quiesce")
        cut = [
            Interval(start_ns=max(stall.start_ns, since_ns), end_ns=min(stall.end_ns, until_ns))
            for stall in self.stalls
        ]
        return [stall for stall in cut if stall.duration_ns > 0]

    @property
    def longest_stall_ns(self) -> int:
        """The longest of them."""
        return max((stall.duration_ns for stall in self.stalls_within), default=0)

    @property
    def disturbed(self) -> bool:
        """Whether the machine stood still for a notable part of the time that a client was without answers."""
        if self._raw.migration.paused_ns is None:
            return False  # there was no cutover to disturb
        from_ns, until_ns = self.window
        # An outage that meets the window may have begun before it.
        start_ns = min(from_ns, *(felt.outage.start_ns or from_ns for felt in self.felt))
        end_ns = max(felt.outage.end_ns or until_ns for felt in self.felt)
        stood_ns = overlap_ns(self.stalls, from_ns=start_ns, to_ns=end_ns)
        return stood_ns > NOTABLE_STALL * self.worst.outage_ns

    # -- tables ----------------------------------------------------------------------------------------------------

    def outages_table(self) -> pd.DataFrame:
        """One row per client and estimator."""
        rows = [
            {
                "client": client,
                "estimator": _title(outage),
                "outage_ns": outage.outage_ns,
                "low_ns": outage.low_ns,
                "high_ns": outage.high_ns,
                "start_ns": outage.start_ns,
                "end_ns": outage.end_ns,
            }
            for client in self._raw.clients
            for outage in self._estimates(client)
        ]
        return pd.DataFrame(rows, columns=[name for name in empty("outages").columns if name != "trial_id"])

    def waterfall_table(self) -> pd.DataFrame:
        """One row per client, estimator and part."""
        rows = [
            {
                "client": felt.client,
                "estimator": _title(felt.outage),
                "order": order,
                "part": part.name,
                "start_ns": part.start_ns,
                "end_ns": part.end_ns,
            }
            for felt in [*self.felt, *self.slowest]
            for order, part in enumerate(felt.parts)
        ]
        return pd.DataFrame(rows, columns=[name for name in empty("waterfall").columns if name != "trial_id"])

    def relearned_table(self) -> pd.DataFrame:
        """One row per switch that learned the guest's new port in the cutover or later, before the bench told it."""
        from_ns, until_ns = self._raw.migration.cutover_ns, self._raw.phase_ns("quiesce")
        announced_ns = [int(event["time_ns"]) for event in self._raw.named("announced")]
        rows: list[dict[str, Any]] = []
        for event in self._raw.relearned:
            time_ns = int(event["time_ns"])
            if from_ns is None or not from_ns <= time_ns < until_ns:
                continue
            close = any(0 <= time_ns - each < _ANNOUNCEMENT_NS for each in announced_ns)
            rows.append(
                {
                    "switch": event["switch"],
                    "port": event["port"],
                    "time_ns": time_ns,
                    "cause": "announcement" if close and self._announces else "traffic of the guest",
                }
            )
        return pd.DataFrame(rows, columns=[name for name in empty("relearned").columns if name != "trial_id"])

    def stalls_table(self) -> pd.DataFrame:
        """One row per stall of the machine."""
        rows = [{"start_ns": stall.start_ns, "end_ns": stall.end_ns} for stall in self.stalls_within]
        return pd.DataFrame(rows, columns=["start_ns", "end_ns"])

    # -- how -------------------------------------------------------------------------------------------------------

    @property
    def _announces(self) -> bool:
        return self._raw.settings.migration.announce != "none"

    def _consists_of(self, client: str, outage: Outage, waits: list[Wait]) -> Felt:
        parts: list[Part] = []
        if outage.start_ns is not None:
            migration = self._raw.migration
            moments = Moments(
                steps=[
                    TimedStep(name=step["step"], start_ns=step["start_ns"], end_ns=step["end_ns"])
                    for step in self._raw.named("step")
                ],
                paused_ns=migration.paused_ns,
                resumed_ns=migration.resumed_ns,
                turned_ns=migration.turned_ns,
                waits=waits,
                stalls=[(stall.start_ns, stall.end_ns) for stall in self.stalls],
            )
            end_ns = outage.start_ns + outage.outage_ns  # also where it was not over, as far as it was seen
            parts = waterfall(moments, start_ns=outage.start_ns, end_ns=end_ns)
        return Felt(client=client, outage=outage, parts=parts)

    def _estimates(self, client: str) -> Iterator[Outage]:
        from_ns, to_ns = self.window
        probe = self._probes[client]
        yield outages.time_stamp(probe, from_ns=from_ns, to_ns=to_ns)
        yield outages.lost_frames(probe, from_ns=from_ns, to_ns=to_ns)
        yield outages.answer_gap(probe, from_ns=from_ns, to_ns=to_ns)
        for kind in (Kind.REQUEST, Kind.CONNECT):
            longest = self._longest_wait(client, kind)
            if longest is not None:
                yield longest

    def _longest_wait(self, client: str, kind: Kind) -> Outage | None:
        from_ns, to_ns = self.window
        waits = as_of(self._requests(client, kind), until_ns=to_ns)
        if not len(waits):
            return None
        # A request meant shortly before the pause may be the one that waits longest.
        longest = outages.longest_answer(waits, from_ns=from_ns - _LOOK_BACK_NS, to_ns=to_ns)
        name = "request_latency" if kind == Kind.REQUEST else "new_connection"
        return None if longest.start_ns is None else replace(longest, estimator=name)

    def _requests(self, client: str, kind: Kind) -> Samples:
        records = self._raw.requests(client)
        chosen = records.workload == kind
        period_ns = int(np.median(np.diff(np.sort(records.intended_ns[chosen])))) if chosen.sum() > 1 else 0
        return samples(
            intended_ns=records.intended_ns[chosen],
            sent_ns=records.sent_ns[chosen],
            answered_ns=records.answered_ns[chosen],
            period_ns=period_ns,
        )


def stalls_of(raw: RawRecords, *, late_ns: int = STALL_NS, queues_fill: bool = True) -> list[Interval]:
    """When this machine stood still, merged and in order.

    By the probers' own lateness; by the probes to the control server; and by the kernel's account of the guest, where
    it wanted to run and got no processor. The page stream fills the links' queues, and a control probe waits in them
    too: that much is no stall, unless nothing fills them (`queues_fill`). Nor is what the links delay every probe by,
    with a jitter of that at most. While the schedule has cut a link, probes that are not answered say nothing about the
    machine. `late_ns`: so much later than it should be counts.
    """
    queues_ns = (
        2 * raw.settings.fabric.longest_queue_ns if queues_fill else 0
    ) + raw.settings.fabric.scheduled_delay_ns
    cuts = _cuts(raw)
    found = [_starved(event) for event in raw.named("starved")]
    for client in raw.clients:
        # Captures stamp what leaves the client's own queue: only the prober knows whether it was late itself.
        found += prober_stalls(raw.prober(client, CONTROL_STREAM), late_ns=late_ns)
        control = raw.probe(client, CONTROL_STREAM)
        found += [
            stall
            for stall in machine_stalls(control, late_ns=late_ns + queues_ns + 2 * _typical_answer_ns(control))
            if not overlap_ns(cuts, from_ns=stall.start_ns, to_ns=stall.end_ns)
        ]
    return merged(found)


def _starved(event: Mapping[str, Any]) -> Interval:
    """For how long the guest got no processor, at the end of the time that the kernel was not asked about it.

    That time is some milliseconds, but longer where the guest waited for something else meanwhile: for pages that come
    after it, say. Then only a part of it was the machine's doing.
    """
    end_ns = int(event["time_ns"])
    return Interval(start_ns=max(int(event["since_ns"]), end_ns - int(event["starved_ns"])), end_ns=end_ns)


def _cuts(raw: RawRecords) -> list[Interval]:
    """When a link was cut by the schedule, until it had been restored for long enough for switches to learn again."""
    since: dict[str, int] = {}
    found = []
    for event in raw.named("link"):
        if event["change"] == "cut":
            since.setdefault(event["link"], int(event["start_ns"]))
        elif event["change"] == "restored" and event["link"] in since:
            found.append(Interval(start_ns=since.pop(event["link"]), end_ns=int(event["end_ns"]) + _RELEARNED_NS))
    return merged(found)


def _title(outage: Outage) -> str:
    return outage.estimator.replace("_", "-")


def as_of(requests: Samples, *, until_ns: int) -> Samples:
    """What was known of requests at `until_ns`: later the bench may have helped, or answered only since it ended.

    A request that was still open then, but had not waited as long as others had to, says nothing.
    """
    answered_ns = np.where(requests.answered_ns < until_ns, requests.answered_ns, NEVER)
    is_open = answered_ns == NEVER
    waits = (answered_ns - requests.intended_ns)[~is_open]
    longest_ns = int(waits.max()) if len(waits) else 0
    kept = (requests.sent_ns < until_ns) & (~is_open | (until_ns - requests.intended_ns > longest_ns))
    return Samples(
        intended_ns=requests.intended_ns[kept],
        sent_ns=requests.sent_ns[kept],
        answered_ns=answered_ns[kept],
        period_ns=requests.period_ns,
    )


_LOOK_BACK_NS = 100_000_000
_ANNOUNCEMENT_NS = 100_000_000
_RELEARNED_NS = 1_000_000_000


def _typical_answer_ns(control: Samples) -> int:
    """The median time to an answer; 0 where none came."""
    answered = control.answered_ns != NEVER
    return int(np.median((control.answered_ns - control.sent_ns)[answered])) if answered.any() else 0
