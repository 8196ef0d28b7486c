"""The rounds of a pre-copy: pages are sent while the guest writes on, until the policy says that it may stand still.

Each round sends what was written during the one before. After it the tracker is harvested, the guest's connections and
the way to the other agent are looked at, and the policy decides.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from unnoticed.agents import wire
from unnoticed.agents.connections import SETTLE_NS, DepartingConnections
from unnoticed.agents.dirty import DirtyTracker
from unnoticed.agents.forecast import Outlook, Round, forecast
from unnoticed.agents.kernel.pagemap import PAGE_BYTES, Runs
from unnoticed.agents.migration import MigrationSettings
from unnoticed.agents.page_runs import pages_in, union, whole
from unnoticed.agents.page_sender import PageSender
from unnoticed.agents.policy import ITERATE, SWITCH, Action, Policy
from unnoticed.agents.throttle import Throttle
from unnoticed.clock import now_ns
from unnoticed.errors import UnnoticedError
from unnoticed.events import EventLog
from unnoticed.tcpinfo import read_tcp_info


class GaveUpError(UnnoticedError):
    """The policy sees no use in going on."""


class Precopy:
    """The rounds of one migration. `rounds`: those that ended; `pending`: pages that are still to be sent."""

    def __init__(
        self,
        settings: MigrationSettings,
        policy: Policy,
        *,
        sender: PageSender,
        tracker: DirtyTracker,
        throttle: Throttle,
        connections: DepartingConnections,
        connection_ns: int,
        ordered_ns: int,
        events: EventLog,
    ) -> None:
        """`connection_ns`: what it takes to move one connection. `ordered_ns`: when the migration was ordered."""
        self.rounds: list[Round] = []
        self.pending: Runs = whole(tracker.content.pages)
        self._settings, self._policy, self._events = settings, policy, events
        self._sender, self._tracker, self._throttle = sender, tracker, throttle
        self._connections, self._connection_ns, self._ordered_ns = connections, connection_ns, ordered_ns
        self._decision = ITERATE  # the last one
        self._queued_bytes = 0  # in the connections' queues, when they were last looked at
        self._harvested_ns = 0  # when the search for the last round's dirty pages began
        self._harvest_ns = 0  # how long it took

    def iterate(self) -> None:
        """Rounds, one at least, until the policy says switch. Raises GaveUpError when it sees no end."""
        if not self.rounds:
            self._decision = self._policy.begin(self._outlook())
        while True:
            self.go_on()
            self._round()
            self._decide()
            if self._decision.action is Action.SWITCH:
                return

    def look_again(self) -> bool:
        """The guest has written on since: whether the policy still says switch. Raises GaveUpError."""
        self.pending = union(self.pending, self._harvest())
        dirty_pages = pages_in(self.pending)
        self.rounds[-1] = replace(self.rounds[-1], remaining_bytes=dirty_pages * PAGE_BYTES)
        self._events.write(
            "looked-again", migration=self._settings.number, round=len(self.rounds) - 1, dirty_pages=dirty_pages
        )
        self._decide()
        return self._decision.action is Action.SWITCH

    def go_on(self) -> None:
        """Send at the pace, and slow the guest down, as the policy said last."""
        self._sender.channel.pace(self._decision.rate_bit_per_s)
        self._throttle.set(self._decision.throttle_ppm)

    def scan(self) -> Runs:
        """Once the guest stands still: all pages that the destination has not got as they are."""
        return union(self.pending, self._tracker.harvest())

    def _decide(self) -> None:
        """Ask the policy. Raises GaveUpError."""
        outlook = self._outlook()
        expected = forecast(self.rounds, outlook)
        decision = self._policy.decide(self.rounds, outlook)
        if decision.action is Action.GIVE_UP and self._settings.copying is wire.Copying.BOTH:
            decision = SWITCH  # what rounds cannot end, coming after the guest does
        self._events.write(
            "forecast",
            migration=self._settings.number,
            round=len(self.rounds) - 1,
            decision=decision.action.value,
            **expected.as_integers(),
            **{f"known_{key}": value for key, value in asdict(outlook).items()},
        )
        if decision.action is Action.GIVE_UP:
            left = self.rounds[-1].remaining_bytes / (1 << 20)
            timeout_ns = outlook.smallest_rto_ns
            timeout = "" if timeout_ns is None else f", where the smallest TCP timeout is {timeout_ns / 1e6:.0f} ms"
            raise GaveUpError(
                f"After {len(self.rounds)} rounds {left:.1f} MiB were still dirty: {expected}{timeout}; "
                f"the {self._settings.policy} policy sees no end."
            )
        self._decision = decision

    def _round(self) -> None:
        """Send what is pending; then pending is what was written meanwhile, and what there was no time for."""
        sender, decision, number = self._sender, self._decision, len(self.rounds)
        start_ns, stopped_ns, bytes_before = now_ns(), self._throttle.stopped_ns, sender.bytes_sent
        sender.send(wire.RoundStart(number), more=True)
        self._connections.announce(sender.send)  # there is time to prepare for them while the pages are on their way
        unsent = sender.send_pages(
            self.pending, end_ns=None if decision.limit_ns is None else start_ns + decision.limit_ns
        )
        pages = pages_in(self.pending) - pages_in(unsent)
        sender.send(wire.RoundEnd(pages))
        sender.channel.expect(wire.RoundAck)
        end_ns = now_ns()
        dirty = self._harvest()
        if len(unsent):
            dirty = union(unsent, dirty)
        self.pending = dirty
        dirty_pages = pages_in(dirty)
        self.rounds.append(
            Round(
                number=number,
                sent_bytes=pages * PAGE_BYTES,
                duration_ns=end_ns - start_ns,
                remaining_bytes=dirty_pages * PAGE_BYTES,
            )
        )
        self._events.write(
            "round",
            migration=self._settings.number,
            round=number,
            start_ns=start_ns,
            end_ns=end_ns,
            pages=pages,
            bytes=pages * PAGE_BYTES,
            wire_bytes=sender.bytes_sent - bytes_before,
            dirty_pages=dirty_pages,
            rate_limit_bit_per_s=decision.rate_bit_per_s,
            throttle_ppm=decision.throttle_ppm,
            throttled_ns=self._throttle.stopped_ns - stopped_ns,
            encodings=sender.take_counts(),
        )

    def _harvest(self) -> Runs:
        """The pages written since the last look, with a note of when and how long it looked."""
        self._harvested_ns = now_ns()
        runs = self._tracker.harvest()
        self._harvest_ns = now_ns() - self._harvested_ns
        return runs

    def _outlook(self) -> Outlook:
        """The connections of the running guest, and the way to the other agent.

        Queues come and go: the fuller of this look and the last one counts.
        """
        connections = self._connections
        connections.refresh()
        timeouts, queued_bytes = connections.survey()
        path = read_tcp_info(self._sender.channel.socket)
        outlook = Outlook(
            smallest_rto_ns=connections.rto_min_ns,
            connections=len(timeouts),
            connection_ns=self._connection_ns,
            queued_bytes=max(queued_bytes, self._queued_bytes),
            settle_ns=SETTLE_NS if timeouts else 0,
            path_ns=path.rtt_us * 1000,
            elapsed_ns=now_ns() - self._ordered_ns,
            harvest_ns=self._harvest_ns,
            since_ns=now_ns() - self._harvested_ns,
        )
        self._queued_bytes = queued_bytes
        return outlook
