"""The prober of a client: `python -m unnoticed.probes.prober SETTINGS` (JSON, see ProberSettings).

A small UDP datagram to the guest and one to the control server in every slot of a 1 kHz schedule; both echo it. The
two leave together, so that what delays both was this machine.

The prober wakes once per slot: it sends, then reads the answers that have come since, with the kernel's stamps of
their arrival. A prober that wakes late sends the slot that is current, late, and skips the slots it missed: sent_ns
stays 0, and a `late` event says so. To send them all at once would be wrong twice: a burst tells no more about the
time that has passed than one probe does, and one dropped burst would count as many lost probes, a long outage by the
lost-frames method. A skipped slot is a hole in the evidence, which bounds of an outage must respect.

What the kernel refuses to send (ICMP errors, no route) counts as sent and lost: the client tried.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unnoticed.clock import now_ns, realtime_offset_ns
from unnoticed.control import Control, ParentGoneError
from unnoticed.events import EventLog
from unnoticed.probes.probe_stream import ProbeStream
from unnoticed.probes.realtime import become_realtime, sleep_until
from unnoticed.probes.records import write_probes
from unnoticed.probes.schedule import Schedule
from unnoticed.probes.stamped_datagrams import open_stamped, receive_stamped

LEAD_NS = 5_000_000  # from "start" to the first probe
GRACE_NS = 300_000_000  # for the last answers
LATE_EVENTS_MAX = 1000
_COMMANDS_EVERY_NS = 20_000_000
_OFFSET_EVERY_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class ProberSettings:
    """client: name, as in the event log. targets: (stream, address, port). records: folder."""

    client: str
    targets: tuple[tuple[int, str, int], ...]
    records: Path
    events: Path
    rate_hz: float = 1000.0
    realtime: bool = True

    @classmethod
    def from_json(cls, text: str) -> ProberSettings:
        """Read the settings. Raises ValueError, KeyError or TypeError (a fault of the runner, not of the user)."""
        given: dict[str, Any] = json.loads(text)
        given["events"], given["records"] = Path(given["events"]), Path(given["records"])
        given["targets"] = tuple((each["stream"], each["ip"], each["port"]) for each in given["targets"])
        return cls(**given)


class Prober:
    """Probes from "start" to "stop". `run` returns when its records are written."""

    def __init__(self, settings: ProberSettings, *, control: Control, events: EventLog) -> None:
        self._settings = settings
        self._control = control
        self._events = events
        self._commands = select.poll()
        self._commands.register(control.fileno(), select.POLLIN)
        self._streams = [
            (ProbeStream(stream), open_stamped((address, port))) for stream, address, port in settings.targets
        ]
        self._buffer = bytearray(64)
        self._offset_ns = realtime_offset_ns()
        self._errors: dict[str, int] = {}
        self._late = {"late_max_ns": 0, "late_events": 0, "skipped": 0}

    def run(self) -> None:
        """Serve the control channel; probe between "start" and "stop". Raises ParentGoneError."""
        self._control.reply("ready")
        while not self._commanded("start", wait=True):
            pass
        schedule = Schedule.at_rate(start_ns=now_ns() + LEAD_NS, rate_hz=self._settings.rate_hz)
        self._probe(schedule)
        self._collect(schedule)
        self._write(schedule)

    def _commanded(self, command: str, *, wait: bool = False) -> bool:
        if not self._commands.poll(None if wait else 0):
            return False
        return any(each["command"] == command for each in self._control.receive())

    def _probe(self, schedule: Schedule) -> None:
        """Send one probe per slot and stream until told to stop."""
        slot = 0
        next_commands_ns = next_offset_ns = schedule.start_ns
        while True:
            sleep_until(schedule.intended_ns(slot))
            woke_ns = now_ns()
            current = max(slot, schedule.due(woke_ns) - 1)
            for stream, datagrams in self._streams:
                if current > slot:
                    stream.skip(current - slot)
                self._send(stream, datagrams, schedule.intended_ns(current))
            late_ns = woke_ns - schedule.intended_ns(slot)
            self._late["late_max_ns"] = max(self._late["late_max_ns"], late_ns)
            if current > slot:
                self._note_skipped(late_ns=late_ns, skipped=current - slot)
            slot = current + 1
            for stream, datagrams in self._streams:
                self._receive(stream, datagrams)
            if woke_ns >= next_offset_ns:
                self._offset_ns = realtime_offset_ns()
                next_offset_ns = woke_ns + _OFFSET_EVERY_NS
            if woke_ns >= next_commands_ns:
                if self._commanded("stop"):
                    return
                next_commands_ns = woke_ns + _COMMANDS_EVERY_NS

    def _send(self, stream: ProbeStream, datagrams: socket.socket, intended_ns: int) -> None:
        data = stream.probe(intended_ns=intended_ns, now_ns=now_ns())
        try:
            datagrams.send(data)
        except OSError as error:
            self._note_error(error)
            if isinstance(error, ConnectionRefusedError):  # of an earlier probe: this one has not been sent yet
                try:
                    datagrams.send(data)
                except OSError as again:
                    self._note_error(again)

    def _receive(self, stream: ProbeStream, datagrams: socket.socket) -> None:
        while True:
            try:
                length, stamp_ns = receive_stamped(datagrams, self._buffer)
            except BlockingIOError:
                return
            except OSError as error:
                self._note_error(error)
                continue
            read_ns = now_ns()
            arrived_ns = stamp_ns - self._offset_ns
            if not 0 <= read_ns - arrived_ns < 10_000_000_000:  # no stamp, or the clock was set
                arrived_ns = read_ns
            stream.answer(self._buffer, length, arrived_ns=arrived_ns)

    def _collect(self, schedule: Schedule) -> None:
        """Wait for the answers to the last second's probes, as long as they may still come."""
        deadline_ns = now_ns() + GRACE_NS
        last_slots = max(1, 1_000_000_000 // schedule.period_ns)
        while now_ns() < deadline_ns:
            for stream, datagrams in self._streams:
                self._receive(stream, datagrams)
            if not any(stream.unanswered_of_last(last_slots) for stream, _ in self._streams):
                return
            sleep_until(now_ns() + 5_000_000)

    def _note_skipped(self, *, late_ns: int, skipped: int) -> None:
        self._late["late_events"] += 1
        self._late["skipped"] += skipped
        if self._late["late_events"] <= LATE_EVENTS_MAX:
            self._events.write("late", workload="probe", late_ns=late_ns, skipped=skipped)

    def _note_error(self, error: OSError) -> None:
        name = error.strerror or str(error)
        self._errors[name] = self._errors.get(name, 0) + 1

    def _write(self, schedule: Schedule) -> None:
        records = [stream for stream, _ in self._streams]
        write_probes(
            self._settings.records / f"{self._settings.client}.probe.npz",
            schedule=schedule,
            streams={each.stream: (each.sent_ns, each.answered_ns) for each in records},
        )
        self._control.reply(
            "done",
            slots=len(records[0].sent_ns) if records else 0,
            streams={
                each.stream: {"answers": each.answers, "duplicates": each.duplicates, "strange": each.strange}
                for each in records
            },
            errors=self._errors,
            **self._late,
        )


def main() -> int:
    """Run as a child process; 1 if the parent went away."""
    settings = ProberSettings.from_json(sys.argv[1])
    control = Control()
    events = EventLog(settings.events, who=f"{settings.client}-prober")
    if settings.realtime:
        for refused in become_realtime():
            events.write("not-realtime", detail=refused)
    try:
        Prober(settings, control=control, events=events).run()
    except ParentGoneError:
        return 1
    finally:
        events.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
