"""The agent: one process per host, told what to do over its control channel, reached by the other agent over TCP.

Commands: `boot` (a guest, here and now), `expect` (a migration of this number), `migrate` (the guest, away), `announce`
(the guest, out of turn), `verify` (its RAM against what its counters say), `stop`. An incoming migration needs no
command: the agent listens.
"""

from __future__ import annotations

import dataclasses
import json
import select
import socket
import sys
from pathlib import Path
from typing import Any

from unnoticed.agents import batches, dirtier, replay
from unnoticed.agents.announce import Announcement, Announcer
from unnoticed.agents.channel import PORT
from unnoticed.agents.destination import Destination
from unnoticed.agents.guest_process import GuestProcess, GuestSettings
from unnoticed.agents.helper import ANSWERS, LATER_PAGES, Nursery
from unnoticed.agents.holding import Holding
from unnoticed.agents.host import Host, discard
from unnoticed.agents.kernel import descriptors
from unnoticed.agents.kernel.bridge_port import BridgePort, PortState
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.socket_diag import HandshakeMonitor
from unnoticed.agents.migration import MigrationSettings
from unnoticed.agents.ram import SLOTS, Super
from unnoticed.agents.source import Source
from unnoticed.agents.trace import read_trace
from unnoticed.agents.writer import writer_of
from unnoticed.control import Command, Control, ParentGoneError
from unnoticed.errors import MigrationError, UnnoticedError
from unnoticed.events import EventLog


class Agent:
    """Obeys commands and receives guests, one thing at a time."""

    def __init__(self, host: Host, control: Control, listener: socket.socket) -> None:
        self._host, self._control, self._listener = host, control, listener
        self._expected = 0  # number of the migration that may come in
        self._fail_at: str | None = None

    def run(self) -> None:
        """Until told to stop. Raises ParentGoneError when there is nobody left to tell."""
        self._control.reply("ready")
        while True:
            control, listener = self._control.fileno(), self._listener.fileno()
            guest = self._host.guest
            watched = [control, listener] if guest is None else [control, listener, guest.fileno()]
            readable, _, _ = select.select(watched, [], [])
            if guest is not None and guest.fileno() in readable:
                self._lose(guest)
            if listener in readable:
                self._receive_guest()
            if control in readable:
                for command in self._control.receive():
                    try:
                        if not self._obey(command):
                            return
                    except (UnnoticedError, OSError, TypeError, ValueError) as error:  # a guest that is here runs on
                        self._control.reply("error", message=str(error))

    def _receive_guest(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone before it was accepted
            return
        destination = Destination(self._host, connection, self._listener, number=self._expected, fail_at=self._fail_at)
        arrival = destination.run()
        self._control.reply("arrival", arrival=arrival.value, reason=destination.reason)

    def _lose(self, guest: GuestProcess) -> None:
        """The guest has ended by itself, which it never should: what it leaves is cleared away, and the parent told."""
        how = guest.how_it_ended()
        discard(guest)
        self._host.guest = None
        self._control.reply("error", message=f"The guest process (pid {guest.pid}) {how}.")

    def _obey(self, command: Command) -> bool:
        """Carry out one command; False when it was the last."""
        host = self._host
        match command["command"]:
            case "boot":
                self._boot(command)
                self._control.reply("booted", pid=None if host.guest is None else host.guest.pid)
            case "expect":
                self._expected, self._fail_at = command["number"], command.get("fail_at")
                self._control.reply("expecting")
            case "migrate":
                fields = {key: value for key, value in command.items() if key != "command"}
                if host.guest is None:
                    raise MigrationError(f"There is no guest on host {host.place} to be migrated.")
                report = Source(host, MigrationSettings(**fields)).run()
                self._control.reply("migrated", **dataclasses.asdict(report), here=host.guest is not None)
            case "announce":
                self._host.announcer.send(host.announcements[command["announce"]].frames)
                self._control.reply("announced")
            case "verify":
                self._control.reply("verified", **self._verify())
            case "stop":
                if host.guest is not None:
                    discard(host.guest)
                self._control.reply("done")
                return False
        return True

    def _boot(self, command: Command) -> None:
        if self._host.guest is not None:
            raise MigrationError(f"Host {self._host.place} already has a guest.")
        guest = self._host.new_guest(memory_bytes=command["memory_bytes"])
        try:
            guest.boot(
                working_set_bytes=command["working_set_bytes"],
                dirty_bytes_per_s=command["dirty_bytes_per_s"],
                pattern=command["pattern"],
                contents=dirtier.Contents(**command.get("contents", {})),
            )
            if command.get("trace") is not None:
                replay.load(guest.ram, read_trace(Path(command["trace"])))
            self._host.gate.set(PortState.FORWARDING)
            guest.resume(moved=False)
        except BaseException:
            discard(guest)
            raise
        self._host.guest = guest

    def _verify(self) -> dict[str, Any]:
        """Stop the guest for as long as it takes to look at every page of the dirtier's area."""
        guest = self._host.guest
        if guest is None:
            return {"here": False}
        guest.pause()
        quads = guest.ram.quads
        written = quads[Super.PAGES_WRITTEN]
        wrong = writer_of(guest.ram).wrong_pages(guest.ram.words, written=written)
        found = {
            "pages": guest.ram.pages,
            "wrong_pages": wrong,
            "pages_written": written,
            "pages_skipped": quads[Super.PAGES_SKIPPED],
            "resumes": quads[Super.RESUMES],
        }
        guest.resume(moved=False)
        self._host.events.write("ram", **found)
        return {"here": True, **found}


def main() -> None:
    """Argument: JSON with place, address, key in hex, announcements by name, guest, guest_pid, gate, events.

    And, where frames are to be held, `hold`: the guest's mac, the uplinks of the host's bridge, and `zero_window`:
    whether clients may have to be answered meanwhile. `connections`: how
    many the guest is expected to have; `pages_later`: whether guests are expected to come before their pages.
    """
    settings = json.loads(sys.argv[1])
    if settings.get("connections", 0) >= batches.MANY:
        batches.make_ready()
    hold = settings.get("hold")
    zero_window = hold is not None and hold.get("zero_window", False)
    nursery = Nursery()
    modules = (LATER_PAGES if settings.get("pages_later") else ()) + (ANSWERS if zero_window else ())
    if modules:
        nursery.begin(modules)
    descriptors.reserve(SLOTS)  # a cutover duplicates every connection's descriptor
    guest = GuestSettings(**settings["guest"])
    namespace = NetworkNamespace(settings["guest_pid"])
    gate = BridgePort(settings["gate"])
    gate.set(PortState.DISABLED)  # nobody is behind it yet, whatever an agent that died has left
    with namespace.entered():
        announcer = Announcer(guest.interface)
        handshakes = HandshakeMonitor()
    events = EventLog(Path(settings["events"]), who=f"agent-{settings['place']}")
    holding = None
    if hold is not None:
        mac = bytes.fromhex(hold["mac"].replace(":", ""))
        port, ends = settings["gate"], (namespace, guest.interface)
        answering = nursery if zero_window else None
        holding = Holding(port=port, guest=ends, uplinks=hold["uplinks"], mac=mac, nursery=answering)
    listener = socket.create_server((settings["address"], PORT))
    host = Host(
        place=settings["place"],
        address=settings["address"],
        key=bytes.fromhex(settings["key"]),
        events=events,
        settings=guest,
        namespace=namespace,
        gate=gate,
        announcer=announcer,
        handshakes=handshakes,
        holding=holding,
        nursery=nursery,
        announcements={name: Announcement.unpacked(each) for name, each in settings["announcements"].items()},
    )
    try:
        Agent(host, Control(), listener).run()
    except ParentGoneError:
        sys.exit(0)  # the guest, if it is here, dies with this process


if __name__ == "__main__":
    main()
