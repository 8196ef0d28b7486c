"""The source's side of a migration: rounds, cutover, and the return to normal when it fails."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from unnoticed.agents import wire
from unnoticed.agents.channel import PORT, Channel
from unnoticed.agents.connections import SETTLE_NS, DepartingConnections
from unnoticed.agents.cutover import Cutover
from unnoticed.agents.dirty import DirtyTracker
from unnoticed.agents.forecast import Outlook, Round, forecast
from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.holding import LIMIT_BYTES, Holding
from unnoticed.agents.host import Host, discard
from unnoticed.agents.kernel import socket_filter, tcp_repair
from unnoticed.agents.kernel.bridge_port import PortState
from unnoticed.agents.kernel.pagemap import PAGE_BYTES, Runs
from unnoticed.agents.packing import NONE, Packer, check_codec
from unnoticed.agents.page_runs import NO_RUNS, cut, pages_in, runs_of, union, whole
from unnoticed.agents.page_wire import FRAME_BYTES
from unnoticed.agents.policy import SWITCH, Action, Decision, Policy
from unnoticed.agents.policy_catalogue import make_policy
from unnoticed.agents.postcopy_source import PageService
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE
from unnoticed.agents.rehearsal import connection_cost_ns
from unnoticed.agents.throttle import Throttle
from unnoticed.agents.tracking import AUTO, track
from unnoticed.agents.urgency import Urgency
from unnoticed.clock import now_ns
from unnoticed.errors import MigrationError, PeerError, UnnoticedError
from unnoticed.patience import patient
from unnoticed.tcpinfo import read_tcp_info

_HANDSHAKE_NS = 100_000_000  # longest wait for connections that begin or end when the listener is hushed
_PREPARE_S = patient(20.0)  # longest wait for the destination to start a shell
_PREPARE_S_PER_GIB = patient(15.0)  # and to fault in its RAM
_RETURN_S = 3.0  # longest wait for frames that the destination held
_LIMITED_PAGES = 1024  # in one PAGES frame of a round that may have to end early: between two looks at the clock
_DYING_S = 0.5  # a process that is ending does not answer any more, and shows it only when it has ended
_LATE_NS = 10_000_000  # a pause so long after the forecast is not the one that was forecast


class Outcome(StrEnum):
    """How a migration ended, as seen by the source."""

    COMPLETED = "completed"
    GAVE_UP = "gave-up"
    FAILED = "failed"
    LOST = "lost"  # it had gone before all its pages had: some of them are nowhere, and so is the guest


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
    verify: bool = False  # compare a digest of all RAM before the guest resumes: lengthens the blackout
    fail_at: str | None = None


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


_COPYING = {
    "stop-and-copy": wire.Copying.BEFORE,
    "pre-copy": wire.Copying.BEFORE,
    "post-copy": wire.Copying.AFTER,
    "hybrid": wire.Copying.BOTH,
}


class _GaveUpError(UnnoticedError):
    """The policy sees no use in going on."""


class Source:
    """One migration away from this host. `run` returns a Report whatever happens; on a failure the guest stays."""

    def __init__(self, host: Host, settings: MigrationSettings) -> None:
        assert host.guest is not None, "the guest must be here"
        self._host, self._settings = host, settings
        self._guest: GuestProcess = host.guest
        self._content = host.guest.ram  # where pages are sent from
        self._policy: Policy | None = None
        self._copying = _COPYING[settings.mode]
        if settings.mode in {"pre-copy", "hybrid"}:
            self._policy = make_policy(settings.policy, settings.parameters)
        self._throttle = Throttle(host.guest)
        check_codec(settings.codec)
        self._packer: Packer | None = None
        self._ordered_ns = now_ns()
        self._cutover = Cutover(place=host.place, migration=settings.number, fail_at=settings.fail_at)
        self._channel: Channel | None = None
        self._rounds: list[Round] = []
        self._bytes_sent = 0
        self._rto_min_ns: int | None = None
        self._connection_ns = 0  # to move one: measured while the destination prepares
        self._queued_bytes = 0  # in the connections' queues, when they were last looked at
        self._harvested_ns = 0  # when the search for the last round's dirty pages began
        self._harvest_ns = 0  # how long it took
        self._is_pausing = False
        self._urgency = Urgency()
        self._paused_ns: int | None = None
        self._connections = DepartingConnections(host.guest)
        self._pending: Runs = NO_RUNS  # found dirty, not sent yet
        self._holding: Holding | None = host.holding if settings.gap == "hold" else None
        self._is_diverted = False
        self._is_announcement_seen = True
        self._late: list[bytes] = []  # frames for the guest that were put aside here
        self._service: PageService | None = None  # of pages that come after the guest

    def run(self) -> Report:
        """Migrate. After COMPLETED the host has no guest any more; after anything else it runs here as before."""
        self._ordered_ns = start_ns = now_ns()
        outcome, reason, tracker = Outcome.COMPLETED, "", None
        resumed_ns: int | None = None
        completed_ns: int | None = None
        try:
            self._channel = self._connect()
            if self._policy is not None:
                tracker = track(self._guest, self._settings.tracking)
                self._content = tracker.content
            self._packer = Packer(self._settings.codec, self._content)
            if tracker is not None:
                self._precopy(tracker)
            completed_ns = resumed_ns = self._switch(tracker)
        except _GaveUpError as error:
            outcome, reason = Outcome.GAVE_UP, str(error)
        except (UnnoticedError, OSError) as error:
            outcome, reason = Outcome.FAILED, str(error)
        self._throttle.end()
        if self._packer is not None:
            self._packer.close()
        relinquished = self._channel is not None and self._channel.wire.state not in wire.MAY_SOURCE_RESUME
        if not relinquished:
            reason = self._return_to_normal(reason)
        elif resumed_ns is None:
            reason = f"{reason} The guest was relinquished before that: if it runs, then at the destination."
        self._urgency.end()
        if tracker is not None:
            tracker.close()
        self._cutover.report(self._host.events)
        if not self._is_announcement_seen:
            self._host.events.write("announcement-unseen", migration=self._settings.number, place=self._host.place)
        if relinquished:
            self._leave()
            if self._service is not None:
                completed_ns = None
                try:
                    completed_ns = self._serve(self._service)
                except (UnnoticedError, OSError) as error:
                    outcome, reason = Outcome.LOST, f"{reason} {error}".strip()
            self._guest.ram.close()
        if self._service is not None:
            self._service.close()
        if self._channel is not None:
            self._channel.close()
        report = Report(
            outcome=outcome,
            reason=reason,
            start_ns=start_ns,
            end_ns=now_ns(),
            paused_ns=self._paused_ns,
            resumed_ns=resumed_ns,
            completed_ns=completed_ns,
            bytes_sent=self._bytes_sent,
            rounds=len(self._rounds),
            rto_min_ns=self._rto_min_ns,
            tracker=tracker.name if tracker is not None else "none",
            connections=self._connections.dumped if self._paused_ns is not None else None,
        )
        if self._packer is not None and self._paused_ns is not None:
            self._host.events.write("rest", migration=self._settings.number, encodings=self._packer.take_counts())
        self._host.events.write("migration", source=self._host.place, **asdict(self._settings), **asdict(report))
        return report

    # -- before the cutover ----------------------------------------------------------------------------------------

    def _connect(self) -> Channel:
        settings = self._settings
        if settings.gap == "hold":
            self._check_holding()
        if settings.verify and self._copying is not wire.Copying.BEFORE:
            raise MigrationError("A digest of all RAM cannot be compared before the guest resumes: it comes later.")
        try:
            connection = socket.create_connection((settings.destination, PORT), timeout=5)
        except OSError as error:
            raise PeerError(f"The agent at {settings.destination}:{PORT} cannot be reached: {error}.") from error
        channel = Channel(
            connection, role=wire.Role.SOURCE, key=self._host.key, rate_bytes_per_s=settings.rate_bytes_per_s
        )
        self._channel = channel  # from here on a failure tells the peer
        ram = self._guest.ram
        channel.send(wire.Hello(nonce=channel.wire.nonce, memory_bytes=ram.memory_bytes, copying=self._copying))
        channel.expect(wire.Welcome)
        channel.send(wire.Proof())
        if self._copying is not wire.Copying.BEFORE:
            self._service = PageService(ram, rate_bytes_per_s=settings.rate_bytes_per_s)
            self._service.join((settings.destination, PORT), session_key=channel.wire.session_key)
        if self._policy is not None:
            self._connection_ns = connection_cost_ns()
        with channel.patience(_PREPARE_S + _PREPARE_S_PER_GIB * (self._guest.ram.memory_bytes >> 30)):
            channel.expect(wire.Prepared)
        if self._service is not None:
            self._service.prepare(session_key=channel.wire.session_key)
        return channel

    def _check_holding(self) -> None:
        if self._holding is None:
            raise MigrationError(f"The agent of host {self._host.place} was not started to hold frames.")
        announcement = self._host.announcements.get(self._settings.announce)
        if announcement is None or not announcement.at_once:
            raise MigrationError("Frames can only be held for a guest that is announced at once.")

    def _precopy(self, tracker: DirtyTracker) -> None:
        """Rounds until the policy says switch, and new connections wait. Raises _GaveUpError when it sees no end."""
        assert self._policy is not None
        runs: Runs = whole(self._guest.ram.pages)
        decision = self._policy.begin(self._outlook())
        while True:
            self._go_on(decision)
            runs = self._round(runs, tracker, decision)
            decision = self._decide()
            if decision.action is not Action.SWITCH:
                continue
            decided_ns = now_ns()
            with self._cutover.step("hush"):
                self._hush()
            if now_ns() - decided_ns > _LATE_NS:  # handshakes took their time, and the guest wrote on: look again
                runs = union(runs, self._harvest(tracker))
                self._rounds[-1] = replace(self._rounds[-1], remaining_bytes=pages_in(runs) * PAGE_BYTES)
                decision = self._decide()
                if decision.action is not Action.SWITCH:
                    self._unhush()
                    self._cutover.forget()
                    continue
            self._pending = runs
            self._go_on(decision)
            return

    def _go_on(self, decision: Decision) -> None:
        """Send at the pace, and slow the guest down, as the policy says."""
        self._require_channel().pace(decision.rate_bit_per_s)
        self._throttle.set(decision.throttle_ppm)

    def _decide(self) -> Decision:
        """What the policy says. Raises _GaveUpError."""
        assert self._policy is not None
        outlook = self._outlook()
        expected = forecast(self._rounds, outlook)
        decision = self._policy.decide(self._rounds, outlook)
        if decision.action is Action.GIVE_UP and self._service is not None:
            decision = SWITCH  # what rounds cannot end, coming after the guest does
        self._host.events.write(
            "forecast",
            migration=self._settings.number,
            round=len(self._rounds) - 1,
            decision=decision.action.value,
            **expected.as_integers(),
            **{f"known_{key}": value for key, value in asdict(outlook).items()},
        )
        if decision.action is Action.GIVE_UP:
            left = self._rounds[-1].remaining_bytes / (1 << 20)
            timeout_ns = outlook.smallest_rto_ns
            timeout = "" if timeout_ns is None else f", where the smallest TCP timeout is {timeout_ns / 1e6:.0f} ms"
            raise _GaveUpError(
                f"After {len(self._rounds)} rounds {left:.1f} MiB were still dirty: {expected}{timeout}; "
                f"the {self._settings.policy} policy sees no end."
            )
        return decision

    def _round(self, runs: Runs, tracker: DirtyTracker, decision: Decision) -> Runs:
        """Send one round; returns the pages that were written meanwhile, and those that it had no time for."""
        channel, number = self._require_channel(), len(self._rounds)
        start_ns, stopped_ns, bytes_before = now_ns(), self._throttle.stopped_ns, self._bytes_sent
        self._bytes_sent += channel.send(wire.RoundStart(number), more=True)
        self._announce_connections()  # there is time to prepare for them while the pages are on their way
        unsent = self._send_pages(runs, end_ns=None if decision.limit_ns is None else start_ns + decision.limit_ns)
        pages = pages_in(runs) - pages_in(unsent)
        self._bytes_sent += channel.send(wire.RoundEnd(pages))
        channel.expect(wire.RoundAck)
        end_ns = now_ns()
        dirty = self._harvest(tracker)
        if len(unsent):
            dirty = union(unsent, dirty)
        dirty_pages = pages_in(dirty)
        self._rounds.append(
            Round(
                number=number,
                sent_bytes=pages * PAGE_BYTES,
                duration_ns=end_ns - start_ns,
                remaining_bytes=dirty_pages * PAGE_BYTES,
            )
        )
        self._host.events.write(
            "round",
            migration=self._settings.number,
            round=number,
            start_ns=start_ns,
            end_ns=end_ns,
            pages=pages,
            bytes=pages * PAGE_BYTES,
            wire_bytes=self._bytes_sent - bytes_before,
            dirty_pages=dirty_pages,
            rate_limit_bit_per_s=decision.rate_bit_per_s,
            throttle_ppm=decision.throttle_ppm,
            throttled_ns=self._throttle.stopped_ns - stopped_ns,
            encodings=self._require_packer().take_counts(),
        )
        return dirty

    def _harvest(self, tracker: DirtyTracker) -> Runs:
        """The pages written since the last look, with a note of when and how long it looked."""
        self._harvested_ns = now_ns()
        runs = tracker.harvest()
        self._harvest_ns = now_ns() - self._harvested_ns
        return runs

    def _send_pages(self, runs: Runs, *, end_ns: int | None = None) -> Runs:
        """Send the pages of the runs, in as many PAGES frames as it takes, while there is a guest they belong to.

        Returns those that were not sent by `end_ns`; all are, if there is no such time.
        """
        channel, packer = self._require_channel(), self._require_packer()
        unsent: list[Runs] = []
        packer.begin()
        for message in wire.split(runs, most_pages=packer.piece_pages if end_ns is None else _LIMITED_PAGES):
            if not self._guest.is_alive:
                raise MigrationError("There is nothing to migrate any more.")
            if end_ns is not None and now_ns() >= end_ns:
                unsent.append(message.runs)
            else:
                waiting_bytes = tcp_repair.unacknowledged_bytes(channel.socket)
                packer.note(sent_bytes=self._bytes_sent, waiting_bytes=waiting_bytes, time_ns=now_ns())
                for packed in packer.pack(message.runs):
                    self._bytes_sent += channel.send_packed(packed, self._content)
        return np.concatenate(unsent) if unsent else NO_RUNS

    def _outlook(self) -> Outlook:
        """The connections of the running guest, and the way to the other agent.

        Queues come and go: the fuller of this look and the last one counts.
        """
        self._connections.refresh()
        timeouts, queued_bytes = self._connections.survey()
        self._rto_min_ns = min(timeouts, default=None)
        path = read_tcp_info(self._require_channel().socket)
        outlook = Outlook(
            smallest_rto_ns=self._rto_min_ns,
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

    def _announce_connections(self) -> None:
        """Tell the destination what connections have come and gone, for it to prepare."""
        self._connections.refresh()
        message = self._connections.announcement()
        if message is not None:
            self._bytes_sent += self._require_channel().send(message)

    # -- the cutover -----------------------------------------------------------------------------------------------

    def _switch(self, tracker: DirtyTracker | None) -> int:
        """Pause here, resume there; returns when it resumed. Up to `relinquish` any failure leaves the guest ours."""
        step, channel, ram = self._cutover.step, self._require_channel(), self._guest.ram
        self._throttle.end()
        self._host.announcer.forget()  # it came here not long ago, perhaps
        if tracker is None:
            self._outlook()
            with step("hush"):
                self._hush()
        if self._service is not None:
            with step("owe"):
                self._owe_early(self._service)
        self._announce_connections()
        if self._holding is not None:
            self._urgency.begin()  # who connects now waits
            self._divert(self._holding)
        self._urgency.begin(self._guest.pid)
        with step("pause"):
            self._is_pausing = True
            self._paused_ns = self._guest.pause()
        with step("hold"):
            connections = self._connections
            connections.refresh()
            if self._holding is not None:
                connections.acknowledge()
            connections.hold()
            if self._holding is not None:
                self._holding.close_out()
        with step("scan"):
            owed: Runs = NO_RUNS
            if self._service is not None:
                runs, owed = self._divide(tracker, self._service)
            elif tracker is None:
                runs = whole(ram.pages)
            else:
                runs = union(self._pending, tracker.harvest())
        with step("send"):  # before the connections: they are dumped while the pages are on their way
            before = channel.wire.pages_in_all
            self._bytes_sent += channel.send(wire.Final(), more=True)
            self._send_pages(runs)
            self._send_owed(owed)
        if self._holding is None:  # else what is in flight is acknowledged to the destination
            with step("settle"):
                connections.settle()
            with step("close-gate"):
                self._host.gate.set(PortState.DISABLED)
        with step("dump"):
            for part in connections.dump():  # the destination restores one while the next is dumped
                self._bytes_sent += channel.send(part)
            final_pages = pages_in(runs)
            self._bytes_sent += channel.send(
                wire.Commit(
                    final_pages=final_pages,
                    total_pages=before + final_pages,
                    announce=self._settings.announce,
                    digest=hashlib.blake2b(ram.view).digest() if self._settings.verify else b"",
                    owed_pages=self._service.owed_pages if self._service is not None else 0,
                )
            )
        with step("await-ready"):
            ready = channel.expect(wire.Ready)
            if ready.connections != connections.dumped:
                raise MigrationError(f"{ready.connections} of {connections.dumped} connections were restored.")
        with step("relinquish"):
            if self._holding is not None:
                self._late = self._holding.take_late()
                for frames in wire.split_frames(self._late):
                    channel.send(wire.Late(frames), more=True)
            channel.send(wire.Relinquish())
        if self._service is not None:
            self._service.begin()
        connections.close()  # at once: what their timers would send again goes nowhere, but the kernel counts it
        resumed_ns = channel.expect(wire.Resumed).time_ns
        if self._holding is not None:
            with contextlib.suppress(PeerError):  # the guest does not depend on it
                self._holding.follow(channel)
            channel.say_no_more()
        return resumed_ns

    def _owe_early(self, service: PageService) -> None:
        """Name the pages that are known to come after the guest, while it still runs: to forget them takes time.

        The RAM's head, which the cutover itself needs, is never among them.
        """
        channel = self._require_channel()
        if self._policy is None:
            self._pending = whole(self._guest.ram.pages)
        owed = cut(self._pending, FIRST_DIRTIER_PAGE)[1]
        self._bytes_sent += channel.send(wire.RoundStart(len(self._rounds)), more=True)
        service.owe(owed)
        self._send_owed(owed)
        self._bytes_sent += channel.send(wire.RoundEnd(0))
        channel.expect(wire.RoundAck)

    def _divide(self, tracker: DirtyTracker | None, service: PageService) -> tuple[Runs, Runs]:
        """What must be sent before the guest resumes, and what is owed besides what was named early."""
        ram = self._guest.ram
        if tracker is None:  # the destination's head is new, so all zero
            return runs_of(np.any(ram.words[:FIRST_DIRTIER_PAGE] != 0, axis=1)), NO_RUNS
        head, rest = cut(union(self._pending, tracker.harvest()), FIRST_DIRTIER_PAGE)
        owed = service.not_owed(rest)
        service.owe(owed)
        return head, owed

    def _send_owed(self, runs: Runs) -> None:
        for message in wire.split_owed(runs):
            self._bytes_sent += self._require_channel().send(message, more=True)

    def _serve(self, service: PageService) -> int:
        """Serve the pages of the guest that has gone; returns when the destination had all. Raises PeerError."""
        channel = self._require_channel()
        if channel.wire.state is not wire.State.RESUMED:
            raise PeerError("The guest had gone before its pages did, and they cannot follow it.")
        trouble = ""
        try:
            service.wait(channel.socket)
        except MigrationError as error:  # what has become of the guest is for the destination to say
            trouble = f" At the source: {error}"
            service.close()
        try:
            message = channel.receive()
        except PeerError as error:
            raise PeerError(f"Whether the guest has all its pages is not known: {error}{trouble}") from error
        if isinstance(message, wire.Lost):
            raise PeerError(f"{message.reason}{trouble}")
        assert isinstance(message, wire.Complete), "the protocol's states say so"
        self._bytes_sent += service.bytes_pushed + message.demanded_pages * (FRAME_BYTES + PAGE_BYTES)
        return message.time_ns

    def _divert(self, holding: Holding) -> None:
        """Have the guest's frames go to the destination, which holds them; see `unnoticed.agents.holding`."""
        settings, channel = self._settings, self._require_channel()
        with self._cutover.step("divert"):
            holding.hide()
            self._is_diverted = True
            channel.send(
                wire.Divert(
                    announce=settings.announce,
                    limit_bytes=settings.hold_limit_bytes,
                    limit_ns=settings.hold_time_ns,
                )
            )
        with self._cutover.step("await-announcement"):
            self._is_announcement_seen = holding.await_announcement(channel)
        with self._cutover.step("close-in"):
            holding.close_in()

    def _hush(self) -> None:
        """Let no new connection begin: its SYN waits aside, or is dropped unseen. Those half open may finish.

        So may those that the guest has closed: they are the kernel's alone, and what they have to say would stay here.
        """
        if self._holding is not None:
            self._holding.put_attempts_aside()
        else:
            for listener in self._guest.listeners:
                socket_filter.drop_new_connections(listener)
        deadline_ns = now_ns() + _HANDSHAKE_NS
        handshakes = self._host.handshakes
        while (handshakes.half_open() or handshakes.closing()) and now_ns() < deadline_ns:
            time.sleep(0.0002)

    def _unhush(self) -> None:
        if self._holding is not None:
            self._holding.put_back()
        else:
            for listener in self._guest.listeners:
                socket_filter.accept_new_connections(listener)

    # -- afterwards ------------------------------------------------------------------------------------------------

    def _return_to_normal(self, reason: str) -> str:
        """The guest stays: wake its connections, open its gate, let it run. Returns the reason, and what went wrong."""
        peer_knows = self._channel is not None and self._channel.wire.state is wire.State.ABORTED
        if self._channel is not None:
            self._channel.abort(reason)
        holding = self._holding if self._is_diverted else None
        try:
            if holding is not None:
                holding.turn_back(limit_bytes=self._settings.hold_limit_bytes)
            else:
                self._unhush()
            if self._is_pausing:
                self._connections.release()
                self._host.gate.set(PortState.FORWARDING)
                self._guest.resume(moved=False)
        except (MigrationError, OSError) as error:
            reason = f"{reason} The guest could not go on here: {error}"
            self._guest.await_end(_DYING_S)
        finally:
            self._urgency.end()
        self._connections.let_go()
        if holding is not None:
            self._call_back(holding, peer_knows=peer_knows)
        if not self._guest.is_alive:
            reason = f"The guest's process has ended. What failed first: {reason}"
            discard(self._guest)
            self._host.guest = None
        return reason

    def _call_back(self, holding: Holding, *, peer_knows: bool) -> None:
        """Have the guest's frames come here again, and give it those that the destination had held."""
        channel, host = self._require_channel(), self._host
        returned: list[bytes] = []
        try:
            if not peer_knows:  # it may be about to announce the guest: ours must be the last word
                channel.await_abort(patience_s=_RETURN_S)
            host.announcer.send(host.announcements[self._settings.announce].frames)
            returned = channel.receive_held(patience_s=_RETURN_S)
        finally:
            holding.go_on(taken=self._late, returned=returned)
        host.events.write("returned", migration=self._settings.number, place=host.place, frames=len(returned))

    def _leave(self) -> None:
        """The guest is the destination's: end the process here, silently, since its connections are in repair mode."""
        if self._holding is not None:
            self._host.gate.set(PortState.DISABLED)
            self._holding.forget()
            self._host.handshakes.end_closing()  # or they would repeat their FIN to a closed gate for minutes
        self._connections.close()
        self._connections.log(self._host.events)
        self._guest.kill()  # its RAM may still be served
        self._host.guest = None

    def _require_packer(self) -> Packer:
        assert self._packer is not None
        return self._packer

    def _require_channel(self) -> Channel:
        assert self._channel is not None
        return self._channel
