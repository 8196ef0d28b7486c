"""The destination's side of a migration: prepare, receive, restore, and let the guest run once it has been given up."""

from __future__ import annotations

import functools
import hashlib
import socket
from collections.abc import Callable
from enum import Enum

from unnoticed.agents import wire
from unnoticed.agents.announce import Announcement
from unnoticed.agents.arrivals import ArrivingConnections
from unnoticed.agents.channel import Channel
from unnoticed.agents.cutover import Cutover
from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.holding import Holding, TimeLimit
from unnoticed.agents.host import Host, discard
from unnoticed.agents.kernel.bridge_port import PortState
from unnoticed.agents.kernel.tcp_repair import Position
from unnoticed.agents.packing import Unpacker
from unnoticed.agents.plug import Held
from unnoticed.agents.postcopy_destination import PageArrival
from unnoticed.agents.ram import SMALLEST_BYTES
from unnoticed.agents.urgency import Urgency
from unnoticed.clock import now_ns
from unnoticed.errors import MachineError, MigrationError, PeerError, UnnoticedError


class Arrival(Enum):
    """How an incoming migration ended."""

    RESUMED = "resumed"  # the guest runs here
    REFUSED = "refused"  # it never became ours
    LOST = "lost"  # it had become ours, but its process here did not come up: it runs nowhere


class Destination:
    """One migration to this host, over one accepted connection."""

    def __init__(
        self, host: Host, connection: socket.socket, listener: socket.socket, *, number: int, fail_at: str | None
    ) -> None:
        """`listener`: where the connection came from, and more of the same migration come from."""
        self._host, self._listener = host, listener
        self._channel = Channel(connection, role=wire.Role.DESTINATION, key=host.key)
        self._cutover = Cutover(place=host.place, migration=number, fail_at=fail_at)
        self._number = number
        self._urgency = Urgency()
        self._guest: GuestProcess | None = None
        self._connections: ArrivingConnections | None = None
        self._troubles: list[tuple[str, str]] = []  # step and reason: what failed when there was no way back
        self._holding: Holding | None = None  # while frames are held
        self._time_limit: TimeLimit | None = None
        self._limit_bytes = 0  # of what is held
        self._announced_ns = 0
        self._held: Held | None = None
        self._late: list[bytes] = []
        self._stragglers = 0  # frames that were later than those
        self._unpacker: Unpacker | None = None
        self._pages: PageArrival | None = None  # of a migration whose guest comes before its pages
        self.reason = ""  # why the guest was refused or lost

    def run(self) -> Arrival:
        """Receive a guest. After RESUMED the host has it; after REFUSED nothing of it is left here."""
        try:
            return self._run()
        finally:
            self._urgency.end()

    def _run(self) -> Arrival:
        try:
            self._prepare()
            commit = self._receive()
            with self._cutover.step("await-relinquish"):
                self._channel.send(wire.Ready(len(self._require_connections())))
                if self._holding is not None:
                    self._held = self._holding.held
                while isinstance(message := self._channel.receive(), wire.Late):
                    self._late += message.frames
        except (UnnoticedError, OSError) as error:
            self.reason = str(error)
            self._channel.abort(self.reason)
            self._host.events.write("refused", migration=self._number, reason=self.reason)
            if self._holding is not None:
                self._held = self._held or self._holding.held
                self._give_back(self._holding)
            self._drop()
            return Arrival.REFUSED
        finally:
            if self._channel.wire.state in wire.MAY_SOURCE_RESUME:
                self._channel.close()
        arrival = self._resume(commit)
        if arrival is Arrival.RESUMED and self._pages is not None:
            arrival = self._await_pages(self._pages, commit.owed_pages)
        self._channel.close()
        return arrival

    def _prepare(self) -> None:
        """Greet; allocate and fault in the RAM; start the guest's shell."""
        channel = self._channel
        hello = channel.expect(wire.Hello)
        channel.send(wire.Welcome(nonce=channel.wire.nonce))
        channel.expect(wire.Proof)
        if self._host.guest is not None:
            raise MigrationError(f"Host {self._host.place} already has a guest.")
        if hello.memory_bytes < SMALLEST_BYTES:
            raise PeerError(f"The source has a guest of {hello.memory_bytes} bytes: too small to be one.")
        if hello.copying is not wire.Copying.BEFORE:
            self._pages = PageArrival(self._host.nursery, memory_bytes=hello.memory_bytes)
        try:
            self._guest = self._host.new_guest(memory_bytes=hello.memory_bytes, copying=hello.copying)
            self._unpacker = Unpacker(self._guest.ram)
        except OSError as error:
            raise MachineError(f"{hello.memory_bytes >> 20} MiB of RAM cannot be had here: {error}.") from error
        self._connections = ArrivingConnections(self._guest, self._host.namespace)
        if self._pages is not None:
            self._expect_pages(self._pages, self._guest)
        channel.send(wire.Prepared())

    def _expect_pages(self, pages: PageArrival, guest: GuestProcess) -> None:
        """Let the source open its page channels, for the pages that come after the guest."""
        if guest.fault_fd is None:
            raise MachineError(
                "A guest that comes before its pages needs userfaultfd for missing pages of shared memory, which this "
                "kernel, or this container, has not got."
            )
        session_key = self._channel.wire.session_key
        pages.join(self._listener, session_key=session_key)
        pages.prepare(fault_fd=guest.fault_fd, address=guest.address, session_key=session_key)

    def _receive(self) -> wire.Commit:
        """Everything up to COMMIT: pages into place, connections restored (in repair mode, behind a closed gate)."""
        assert self._guest is not None
        assert self._unpacker is not None
        channel, ram, unpacker = self._channel, self._guest.ram, self._unpacker
        connections = self._require_connections()
        final_start_ns: int | None = None
        while True:
            match channel.receive():
                case wire.Pages() as message:
                    channel.receive_pages(message, ram)
                case wire.Coded() as message:
                    unpacker.take(message, channel.receive_coded(message))
                case wire.RoundEnd(pages):
                    unpacker.settle()
                    channel.send(wire.RoundAck(pages))
                case wire.RoundStart():
                    continue
                case wire.Owed(runs):
                    if self._pages is None:
                        raise PeerError("The source owes pages of a guest that was to come after all of them.")
                    ram.discard(runs)  # what is there of them is out of date
                case wire.Divert() as message:
                    self._urgency.begin(self._guest.pid)  # who connects now waits
                    self._hold(message)
                case wire.Final():
                    final_start_ns = now_ns()
                    self._urgency.begin(self._guest.pid)
                case wire.Positions(packed):
                    self._answer(packed)
                case wire.Connections() as message:
                    connections.expect(message)
                case wire.GuestState() as state:
                    assert final_start_ns is not None, "the protocol's states say so"
                    unpacker.settle()
                    self._cutover.record("receive", start_ns=final_start_ns, end_ns=now_ns())
                    with self._cutover.step("restore"):
                        commit = self._restore(connections, state)
                    if commit.digest and hashlib.blake2b(ram.view).digest() != commit.digest:
                        raise MigrationError("The RAM that arrived is not the RAM that was sent: its digest differs.")
                    if commit.announce not in self._host.announcements:
                        raise PeerError(f"The source asks for an announcement that is not known: {commit.announce!r}.")
                    return commit
                case other:
                    raise PeerError(f"The source sent {type(other).__name__} among the pages.")

    def _restore(self, connections: ArrivingConnections, part: wire.GuestState) -> wire.Commit:
        """The connections, as the source dumps them, part by part, and the COMMIT behind them."""
        message: wire.Message = part
        while isinstance(message, wire.GuestState):
            connections.restore(message)
            message = self._channel.receive()
        if not isinstance(message, wire.Commit):
            raise PeerError(f"The source sent {type(message).__name__} among the connections.")
        connections.check()
        return message

    def _hold(self, message: wire.Divert) -> None:
        """Have the guest's frames come here, and hold them."""
        gate, holding = self._host.gate, self._host.holding
        announcement = self._host.announcements.get(message.announce)
        if holding is None:
            raise MigrationError(f"The agent of host {self._host.place} was not started to hold frames.")
        if announcement is None or not announcement.at_once:
            raise PeerError(f"The source asks for an announcement that is not known here: {message.announce!r}.")
        with self._cutover.step("plug"):
            self._holding = holding
            self._limit_bytes = message.limit_bytes
            holding.hold(limit_bytes=message.limit_bytes)
            self._time_limit = TimeLimit(message.limit_ns / 1e9, lambda: gate.set(PortState.DISABLED))
        with self._cutover.step("open-gate"):
            gate.set(PortState.FORWARDING)
        with self._cutover.step("announce"):
            self._announced_ns = now_ns()
            self._host.announcer.send(announcement.at_once)

    def _answer(self, positions: bytes) -> None:
        """Answer the guest's clients while their frames are held."""
        if self._holding is None:
            raise PeerError("The source wants clients to be answered whose frames are not held.")
        try:
            Position.unpack_all(positions)
        except ValueError as error:
            raise PeerError(f"The positions of the guest's connections cannot be read: {error}.") from error
        self._holding.answer(positions, limit_bytes=self._limit_bytes)

    def _give_back(self, holding: Holding) -> None:
        """Return what was held to the source, once the switches do; what fails here is noted."""
        host = self._host
        if self._time_limit is not None:
            self._time_limit.end()
        try:
            frames = holding.give_back(close_gate=lambda: host.gate.set(PortState.DISABLED))
            self._channel.send_held(frames)
        except (UnnoticedError, OSError) as error:
            self._troubles.append(("give-back", str(error)))

    def _resume(self, commit: wire.Commit) -> Arrival:
        """The guest is ours: open the gate, announce, let its connections speak, let it run.

        There is no way back: what fails here is noted, and the guest runs all the same.
        """
        assert self._guest is not None
        connections = self._require_connections()
        connections.tell_ram()
        announcement, holding = self._host.announcements[commit.announce], self._holding
        if holding is None:
            if announcement.early:
                self._do("announce-early", lambda: self._host.announcer.send(announcement.frames))
            self._do("open-gate", lambda: self._host.gate.set(PortState.FORWARDING))
            self._announced_ns = now_ns()
            self._do("announce", lambda: self._host.announcer.send(announcement.at_once))
            self._do("revive", lambda: self._revive(connections))
        else:
            self._do("revive", lambda: self._revive(connections))
            self._do("release", lambda: self._release(holding))
        try:
            with self._cutover.step("resume"):
                resumed_ns = self._guest.resume(moved=True)
        except MigrationError as error:
            self.reason = str(error)
            self._troubles.append(("resume", self.reason))
            self._drop()
            return Arrival.LOST
        finally:
            self._urgency.end()
        self._host.guest = self._guest
        if announcement.later_ns:
            self._repeat(commit.announce, announcement)
        try:
            self._channel.send(wire.Resumed(resumed_ns))
        except PeerError as error:  # the source has gone: nothing is lost with it
            self._troubles.append(("report", str(error)))
        self._host.events.write("resumed", time_ns=resumed_ns, migration=self._number, place=self._host.place)
        if holding is not None:
            self._host.announcer.send(announcement.at_once)  # again, for switches that the first has not reached
            self._await_stragglers(holding)
            self._stop_answering(holding)
            holding.settle()
        connections.close()
        if self._unpacker is not None:
            self._unpacker.close()
        self._report()
        if announcement.at_once:
            self._note_announcement(commit.announce, len(announcement.frames), self._announced_ns)
        return Arrival.RESUMED

    def _repeat(self, name: str, announcement: Announcement) -> None:
        """Have the guest announced again, as its schedule says; counted from when the gate opened."""
        self._host.announcer.repeat(
            announcement.frames,
            at_ns=[self._announced_ns + after_ns for after_ns in announcement.later_ns],
            sent=functools.partial(self._note_announcement, name, len(announcement.frames)),
        )

    def _note_announcement(self, name: str, frames: int, time_ns: int) -> None:
        self._host.events.write(
            "announced",
            time_ns=time_ns,
            migration=self._number,
            place=self._host.place,
            announce=name,
            frames=frames,
        )

    def _await_pages(self, pages: PageArrival, owed_pages: int) -> Arrival:
        """The guest runs: until all its pages have come. Without them it is lost, and ended before it can touch one."""
        assert self._guest is not None
        events, number = self._host.events, self._number
        try:
            arrived = pages.wait(self._guest.fileno(), owed_pages=owed_pages)
        except (UnnoticedError, OSError) as error:
            self.reason = f"The guest is lost, since a part of its RAM is nowhere: {error}"
            discard(self._guest)
            self._host.guest = None
            self._do("close-gate", lambda: self._host.gate.set(PortState.DISABLED))
            self._say(wire.Lost(self.reason))
            pages.close()
            events.write("lost", migration=number, place=self._host.place, reason=self.reason)
            return Arrival.LOST
        completed_ns = now_ns()
        self._say(
            wire.Complete(
                time_ns=completed_ns, pushed_pages=arrived.pushed_pages, demanded_pages=arrived.demanded_pages
            )
        )
        pages.finish()
        arrived.report(events, migration=number, time_ns=completed_ns)
        return Arrival.RESUMED

    def _say(self, message: wire.Message) -> None:
        """Tell the source something that changes nothing here."""
        try:
            self._channel.send(message)
        except PeerError as error:
            self._host.events.write(
                "trouble", migration=self._number, place=self._host.place, step="report", reason=str(error)
            )

    def _release(self, holding: Holding) -> None:
        """Let the guest have its frames: those that were late, those that were held, then all."""
        assert self._time_limit is not None
        self._time_limit.end()
        try:
            holding.forward(self._late)
        finally:
            if self._time_limit.was_reached:
                self._host.gate.set(PortState.FORWARDING)

    def _stop_answering(self, holding: Holding) -> None:
        try:
            holding.stop_answering()
        except (UnnoticedError, OSError) as error:
            self._troubles.append(("answer", str(error)))

    def _await_stragglers(self, holding: Holding) -> None:
        """Give the guest what the source sends after it."""
        try:
            self._stragglers = holding.forward_stragglers(self._channel)
        except OSError as error:
            self._troubles.append(("follow", str(error)))

    def _do(self, step: str, action: Callable[[], None]) -> None:
        """Carry out a step whose failure is noted and changes nothing else."""
        try:
            with self._cutover.step(step):
                action()
        except (UnnoticedError, OSError) as error:
            self._troubles.append((step, str(error)))

    def _revive(self, connections: ArrivingConnections) -> None:
        """Let every connection speak."""
        self._troubles += [("revive", trouble) for trouble in connections.revive()]

    def _require_connections(self) -> ArrivingConnections:
        assert self._connections is not None, "prepared before all else"
        return self._connections

    def _drop(self) -> None:
        if self._unpacker is not None:
            self._unpacker.close()
        if self._connections is not None:
            self._connections.close()
        if self._guest is not None:
            discard(self._guest)
        if self._pages is not None:
            self._pages.close()
        self._report()

    def _report(self) -> None:
        """Log what could not be logged while the guest stood still."""
        self._cutover.report(self._host.events)
        for step, reason in self._troubles:
            self._host.events.write("trouble", migration=self._number, place=self._host.place, step=step, reason=reason)
        if self._held is not None and self._holding is not None and self._time_limit is not None:
            self._host.events.write(
                "held",
                migration=self._number,
                place=self._host.place,
                frames=self._held.frames,
                bytes=self._held.bytes,
                late=len(self._late) + self._stragglers,
                refused=self._holding.held.refused,
                overdue=self._time_limit.was_reached,
                answers=self._holding.answers,
            )
        for slot in self._connections.lost if self._connections is not None else ():
            self._host.events.write("connection-lost", migration=self._number, place=self._host.place, slot=slot)
