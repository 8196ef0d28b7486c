"""The source's side of a migration: rounds, cutover, and the return to normal when it fails."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from dataclasses import asdict

from unnoticed.agents import wire
from unnoticed.agents.channel import PORT, Channel
from unnoticed.agents.connections import DepartingConnections
from unnoticed.agents.cutover import Cutover
from unnoticed.agents.dirty import DirtyTracker
from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.holding import Holding
from unnoticed.agents.host import Host, discard
from unnoticed.agents.hush import Hush
from unnoticed.agents.kernel.bridge_port import PortState
from unnoticed.agents.kernel.pagemap import Runs
from unnoticed.agents.migration import MigrationSettings, Outcome, Report
from unnoticed.agents.packing import check_codec
from unnoticed.agents.page_runs import NO_RUNS, pages_in, whole
from unnoticed.agents.page_sender import PageSender
from unnoticed.agents.policy import Policy
from unnoticed.agents.policy_catalogue import make_policy
from unnoticed.agents.postcopy_source import PageService
from unnoticed.agents.precopy import GaveUpError, Precopy
from unnoticed.agents.rehearsal import connection_cost_ns
from unnoticed.agents.throttle import Throttle
from unnoticed.agents.tracking import track
from unnoticed.agents.urgency import Urgency
from unnoticed.agents.zero_window import positions_behind
from unnoticed.clock import now_ns
from unnoticed.errors import MigrationError, PeerError, UnnoticedError
from unnoticed.patience import patient

_CONNECT_S = patient(5.0)
_PREPARE_S = patient(20.0)  # longest wait for the destination to start a shell
_PREPARE_S_PER_GIB = patient(15.0)  # and to fault in its RAM
_RETURN_S = 3.0  # longest wait for frames that the destination held
_DYING_S = 0.5  # a process that is ending does not answer any more, and shows it only when it has ended
_LATE_NS = 10_000_000  # a pause so long after the forecast is not the one that was forecast


class Source:
    """One migration away from this host. `run` returns a Report whatever happens; on a failure the guest stays."""

    def __init__(self, host: Host, settings: MigrationSettings) -> None:
        assert host.guest is not None, "the guest must be here"
        self._host, self._settings = host, settings
        self._guest: GuestProcess = host.guest
        self._policy: Policy | None = None
        self._copying = settings.copying
        if settings.mode in {"pre-copy", "hybrid"}:
            self._policy = make_policy(settings.policy, settings.parameters)
        check_codec(settings.codec)
        self._holding: Holding | None = host.holding if settings.gap == "hold" else None
        self._throttle = Throttle(host.guest)
        self._hush = Hush(host.guest, host.handshakes, holding=self._holding)
        self._cutover = Cutover(place=host.place, migration=settings.number, fail_at=settings.fail_at)
        self._urgency = Urgency()
        self._connections = DepartingConnections(host.guest)
        self._channel: Channel | None = None
        self._sender: PageSender | None = None
        self._tracker: DirtyTracker | None = None
        self._precopy: Precopy | None = None
        self._service: PageService | None = None  # of pages that come after the guest
        self._ordered_ns = now_ns()
        self._connection_ns = 0  # to move one: measured while the destination prepares
        self._is_pausing = False
        self._paused_ns: int | None = None
        self._resumed_ns: int | None = None
        self._completed_ns: int | None = None
        self._is_diverted = False
        self._is_announcement_seen = True
        self._late: list[bytes] = []  # frames for the guest that were put aside here

    def run(self) -> Report:
        """Migrate. After COMPLETED the host has no guest any more; after anything else it runs here as before."""
        self._ordered_ns = now_ns()
        outcome, reason = Outcome.COMPLETED, ""
        try:
            self._completed_ns = self._resumed_ns = self._migrate()
        except GaveUpError as error:
            outcome, reason = Outcome.GAVE_UP, str(error)
        except (UnnoticedError, OSError) as error:
            outcome, reason = Outcome.FAILED, str(error)
        self._throttle.end()
        if self._sender is not None:
            self._sender.close()
        relinquished = self._channel is not None and self._channel.wire.state not in wire.MAY_SOURCE_RESUME
        if not relinquished:
            reason = self._return_to_normal(reason)
        elif self._resumed_ns is None:
            reason = f"{reason} The guest was relinquished before that: if it runs, then at the destination."
        self._urgency.end()
        if self._tracker is not None:
            self._tracker.close()
        self._cutover.report(self._host.events)
        if not self._is_announcement_seen:
            self._host.events.write("announcement-unseen", migration=self._settings.number, place=self._host.place)
        if relinquished:
            self._leave()
            if self._service is not None:
                self._completed_ns = None
                try:
                    self._completed_ns = self._service.serve(self._require_channel())
                except (UnnoticedError, OSError) as error:
                    outcome, reason = Outcome.LOST, f"{reason} {error}".strip()
            self._guest.ram.close()
        if self._service is not None:
            self._service.close()
        if self._channel is not None:
            self._channel.close()
        return self._report(outcome, reason)

    def _migrate(self) -> int:
        """Everything up to the guest's resuming at the destination; returns when it did."""
        channel, content = self._connect(), self._guest.ram
        if self._policy is not None:
            self._tracker = track(self._guest, self._settings.tracking)
            content = self._tracker.content
        sender = self._sender = PageSender(channel, self._guest, content=content, codec=self._settings.codec)
        if self._policy is not None and self._tracker is not None:
            self._precopy = Precopy(
                self._settings,
                self._policy,
                sender=sender,
                tracker=self._tracker,
                throttle=self._throttle,
                connections=self._connections,
                connection_ns=self._connection_ns,
                ordered_ns=self._ordered_ns,
                events=self._host.events,
            )
            self._iterate(self._precopy)
        return self._switch(sender)

    def _report(self, outcome: Outcome, reason: str) -> Report:
        """What is to be said in the end, and logged."""
        events, settings, sender, service = self._host.events, self._settings, self._sender, self._service
        bytes_sent = sender.bytes_sent if sender is not None else 0
        report = Report(
            outcome=outcome,
            reason=reason,
            start_ns=self._ordered_ns,
            end_ns=now_ns(),
            paused_ns=self._paused_ns,
            resumed_ns=self._resumed_ns,
            completed_ns=self._completed_ns,
            bytes_sent=bytes_sent + (service.bytes_sent if service is not None else 0),
            rounds=len(self._precopy.rounds) if self._precopy is not None else 0,
            rto_min_ns=self._connections.rto_min_ns,
            tracker=self._tracker.name if self._tracker is not None else "none",
            connections=self._connections.dumped if self._paused_ns is not None else None,
        )
        if sender is not None and self._paused_ns is not None:
            events.write("rest", migration=settings.number, encodings=sender.take_counts())
        events.write("migration", source=self._host.place, **asdict(settings), **asdict(report))
        return report

    # -- before the cutover ----------------------------------------------------------------------------------------

    def _connect(self) -> Channel:
        settings = self._settings
        if settings.gap == "hold":
            self._check_holding()
        if settings.verify and self._copying is not wire.Copying.BEFORE:
            raise MigrationError("A digest of all RAM cannot be compared before the guest resumes: it comes later.")
        try:
            connection = socket.create_connection((settings.destination, PORT), timeout=_CONNECT_S)
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
            self._service = PageService(self._host.nursery, ram, rate_bytes_per_s=settings.rate_bytes_per_s)
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

    def _iterate(self, precopy: Precopy) -> None:
        """Rounds until the policy says switch, and still does once new connections wait. Raises GaveUpError."""
        while True:
            precopy.iterate()
            decided_ns = now_ns()
            with self._cutover.step("hush"):
                self._hush.begin()
            # Where handshakes took their time, the guest wrote on.
            if now_ns() - decided_ns <= _LATE_NS or precopy.look_again():
                precopy.go_on()
                return
            self._hush.end()
            self._cutover.forget()

    # -- the cutover -----------------------------------------------------------------------------------------------

    def _switch(self, sender: PageSender) -> int:
        """Pause here, resume there; returns when it resumed. Up to `relinquish` any failure leaves the guest ours."""
        step, channel, connections = self._cutover.step, sender.channel, self._connections
        self._throttle.end()
        self._host.announcer.forget()  # it came here not long ago, perhaps
        if self._precopy is None:
            connections.refresh()
            connections.survey()  # for the report
            with step("hush"):
                self._hush.begin()
        if self._service is not None:
            with step("owe"):
                self._owe_early(self._service, sender)
        connections.announce(sender.send)
        if self._holding is not None:
            self._urgency.begin()  # who connects now waits
            self._divert(self._holding, channel)
        self._urgency.begin(self._guest.pid)
        with step("pause"):
            self._is_pausing = True
            self._paused_ns = self._guest.pause()
        with step("hold"):
            connections.refresh()
            if self._holding is not None:
                connections.acknowledge()
            connections.hold()
            if self._holding is not None:
                self._holding.close_out()
                if self._settings.zero_window:
                    self._holding.quiesce()
                    self._late = self._holding.take_late()
        with step("scan"):
            runs, owed = self._scan()
        with step("send"):  # before the connections: they are dumped while the pages are on their way
            before = channel.wire.pages_in_all
            sender.send(wire.Final(), more=True)
            if self._settings.zero_window:
                sender.send(wire.Positions(positions_behind(self._late, connections.positions())))
            sender.send_pages(runs)
            sender.send_owed(owed)
        if self._holding is None:  # else what is in flight is acknowledged to the destination
            with step("settle"):
                connections.settle()
            with step("close-gate"):
                self._host.gate.set(PortState.DISABLED)
        with step("dump"):
            for part in connections.dump():  # the destination restores one while the next is dumped
                sender.send(part)
            final_pages = pages_in(runs)
            sender.send(
                wire.Commit(
                    final_pages=final_pages,
                    total_pages=before + final_pages,
                    announce=self._settings.announce,
                    digest=hashlib.blake2b(self._guest.ram.view).digest() if self._settings.verify else b"",
                    owed_pages=self._service.owed_pages if self._service is not None else 0,
                )
            )
        with step("await-ready"):
            ready = channel.expect(wire.Ready)
            if ready.connections != connections.dumped:
                raise MigrationError(f"{ready.connections} of {connections.dumped} connections were restored.")
        with step("relinquish"):
            if self._holding is not None:
                self._late += self._holding.take_late()
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

    def _owe_early(self, service: PageService, sender: PageSender) -> None:
        """Name what is known to come after the guest."""
        precopy = self._precopy
        if precopy is None:
            service.owe_early(whole(self._guest.ram.pages), sender, round_number=0)
        else:
            service.owe_early(precopy.pending, sender, round_number=len(precopy.rounds))

    def _scan(self) -> tuple[Runs, Runs]:
        """What must be sent before the guest resumes, and what comes after it besides what was named early."""
        service = self._service
        if self._precopy is None:
            return (service.head() if service is not None else whole(self._guest.ram.pages)), NO_RUNS
        runs = self._precopy.scan()
        return service.divide(runs) if service is not None else (runs, NO_RUNS)

    def _divert(self, holding: Holding, channel: Channel) -> None:
        """Have the guest's frames go to the destination, which holds them; see `unnoticed.agents.holding`."""
        settings = self._settings
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
                self._hush.end()
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
            try:
                holding.go_on(taken=self._late, returned=returned)
            except OSError as error:
                number, place = self._settings.number, host.place
                host.events.write("trouble", migration=number, place=place, step="go-on", reason=str(error))
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

    def _require_channel(self) -> Channel:
        assert self._channel is not None
        return self._channel
