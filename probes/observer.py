"""The observer: one child process that captures at all points of a trial and listens to all of its switches.

Settings (JSON): {"points": [{"name", "pid", "interface", "file"}], "switches": [{"name", "pid", "toward", "control",
"numbers"}], "neighbours": [{"name", "pid", "toward"}], "guest_macs", "guest_address", "events", "snap", "slots"}. `pid`
is any process in the point's network namespace; `toward` (optional) maps a port's name to the place it leads to, or for
a neighbour (who must learn another MAC of the guest's) a MAC to the place that has it. `control` is the socket of a
switch that is Open vSwitch's, and `numbers` are its ports by their numbers; without it the switch is a Linux bridge.
`neighbours`, `guest_address`, `snap` and `slots` are optional.

It captures from `ready` on. `stop` empties the rings, writes one `capture` event per point, with by how much the
kernel's count of segments sent again grew in the point's namespace (`kernel_retransmits`), and replies
{"reply": "done", "captures": {name: {...}}, "problems": [sentence, ...]}: an incomplete capture is a problem. What
keeps it from working at all is {"reply": "error", "message": sentence}.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unnoticed.control import Control, ParentGoneError
from unnoticed.errors import RecordError, UnnoticedError
from unnoticed.events import EventLog
from unnoticed.probes.capture import DEFAULT_SLOTS, DEFAULT_SNAP, Capture
from unnoticed.probes.namespace import inside_network_of, tcp_counter_of
from unnoticed.probes.relearn import NeighbourListener, RelearnListener
from unnoticed.probes.table_poller import TablePoller

DRAIN_INTERVAL_S = 0.02
_RETRANSMITS = "RetransSegs"

Listener = RelearnListener | TablePoller


@dataclass(frozen=True, kw_only=True)
class PointSettings:
    """Where to capture, and to which file."""

    name: str
    pid: int
    interface: str
    file: str


@dataclass(frozen=True, kw_only=True)
class SwitchSettings:
    """Which switch to listen to."""

    name: str
    pid: int
    toward: dict[str, str]
    control: str | None = None
    numbers: dict[str, str] = field(default_factory=dict)


class Observer:
    """All captures and listeners of a trial."""

    def __init__(
        self,
        *,
        points: list[PointSettings],
        switches: list[SwitchSettings],
        guest_macs: list[str],
        events: EventLog,
        neighbours: Sequence[SwitchSettings] = (),
        guest_address: str = "",
        snap: int = DEFAULT_SNAP,
        slots: int = DEFAULT_SLOTS,
    ) -> None:
        self._events = events
        self._problems: list[str] = []
        self._captures: list[Capture] = []
        self._pids = {point.name: point.pid for point in points}
        self._listeners: list[tuple[Listener, SwitchSettings]] = []
        for switch in switches:
            if switch.control is not None:
                poller = TablePoller(switch.name, control=switch.control, ports=switch.numbers, macs=guest_macs)
                self._listeners.append((poller, switch))
                continue
            with inside_network_of(switch.pid):
                self._listeners.append((RelearnListener(switch.name, macs=guest_macs), switch))
        for neighbour in neighbours:
            with inside_network_of(neighbour.pid):
                self._listeners.append((NeighbourListener(neighbour.name, address=guest_address), neighbour))
        for point in points:
            with inside_network_of(point.pid):
                capture = Capture(point.name, interface=point.interface, file=Path(point.file), snap=snap, slots=slots)
            self._captures.append(capture)
        self._retransmits = self._count_retransmits()

    def _count_retransmits(self) -> dict[str, int]:
        return {name: tcp_counter_of(pid, _RETRANSMITS) for name, pid in self._pids.items()}

    def run(self, control: Control) -> None:
        """Work until `stop`; raises ParentGoneError when the parent is gone."""
        poll = select.epoll()
        poll.register(control.fileno(), select.EPOLLIN)
        listeners = {listener.fileno(): (listener, switch) for listener, switch in self._listeners}
        for fd in listeners:
            poll.register(fd, select.EPOLLIN)
        control.reply("ready")
        next_drain = time.monotonic()
        while True:
            for fd, _ in poll.poll(max(0.0, next_drain - time.monotonic())):
                if fd in listeners:
                    self._report_relearned(*listeners[fd])
                elif any(command.get("command") == "stop" for command in control.receive()):
                    poll.close()
                    control.reply("done", **self.stop())
                    return
            now = time.monotonic()
            if now >= next_drain:
                for capture in self._captures:
                    capture.drain()
                next_drain = now + DRAIN_INTERVAL_S

    def _report_relearned(self, listener: Listener, switch: SwitchSettings) -> None:
        try:
            relearned = listener.receive()
        except RecordError as error:
            self._problems.append(str(error))
            return
        for one in relearned:
            fields = asdict(one)
            self._events.write("relearned", **fields, toward=switch.toward.get(one.port))

    def stop(self) -> dict[str, Any]:
        """Finish all records; returns what the parent is told."""
        counts: dict[str, Any] = {}
        for capture in self._captures:
            capture.refuse()
        again = self._count_retransmits()
        for capture in self._captures:
            try:
                count = capture.stop()
            except RecordError as error:
                self._problems.append(str(error))
                continue
            grown = again[capture.name] - self._retransmits[capture.name]
            fields = {**asdict(count), "file": str(capture.file), "kernel_retransmits": grown}
            self._events.write("capture", point=capture.name, **fields)
            counts[capture.name] = fields
            if count.drops:
                self._problems.append(
                    f"Capture {capture.name} lost {count.drops} of {count.packets} packets: its ring was full; "
                    f"give it more slots or quiet the machine."
                )
        for listener, switch in self._listeners:
            self._report_relearned(listener, switch)
            listener.close()
        return {"captures": counts, "problems": self._problems}


def _switches(described: list[dict[str, Any]]) -> list[SwitchSettings]:
    return [
        SwitchSettings(
            name=each["name"],
            pid=each["pid"],
            toward=each.get("toward") or {},
            control=each.get("control"),
            numbers=each.get("numbers") or {},
        )
        for each in described
    ]


def main() -> None:
    """Entry of the child process."""
    settings = json.loads(sys.argv[1])
    control = Control()
    try:
        observer = Observer(
            points=[PointSettings(**point) for point in settings["points"]],
            switches=_switches(settings["switches"]),
            neighbours=_switches(settings.get("neighbours", [])),
            guest_macs=settings["guest_macs"],
            guest_address=settings.get("guest_address", ""),
            events=EventLog(Path(settings["events"]), who="observer"),
            snap=settings.get("snap", DEFAULT_SNAP),
            slots=settings.get("slots", DEFAULT_SLOTS),
        )
        observer.run(control)
    except ParentGoneError:
        os._exit(1)
    except (UnnoticedError, OSError) as error:
        control.reply("error", message=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
