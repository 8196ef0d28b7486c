"""A lab: the fabric up, the guest serving, the clients drawing load, and what can be done to it from a console."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from unnoticed import workload
from unnoticed.clock import now_ns, realtime_offset_ns
from unnoticed.errors import FabricError, MigrationError, UnnoticedError
from unnoticed.events import Event, EventLog, EventTail
from unnoticed.experiments.cast import Cast
from unnoticed.experiments.interrupts import shielded
from unnoticed.experiments.lab.pulse import PERIOD_S, Beat, Felt, Pulse, felt
from unnoticed.experiments.live import fabric_for
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.planning.plan import Plan, setting_of, trials
from unnoticed.probes.capture import Capture
from unnoticed.probes.namespace import inside_network_of
from unnoticed.probes.stamped_datagrams import open_stamped
from unnoticed.topology.runs import Run

_AROUND_NS = 200_000_000  # before and after a migration, for what its clients felt of it
_DRAIN_S = 0.1
_PROBES, _PROBE_GRACE_S = 100, 0.5


@dataclass(frozen=True, kw_only=True)
class Migrated:
    """What came of one migration. Times in ns; `felt` by client, from a little before it to a little after."""

    number: int
    outcome: str
    reason: str
    source: str
    destination: str
    took_ns: int
    blackout_ns: int | None
    rounds: list[Event]
    felt: Mapping[str, Felt]


def lab_trial(plan: Plan, case: str | None) -> Trial:
    """What a lab sets up: the first setting of the plan, or of a case. Raises PlanError if there is no such case."""
    setting = setting_of(plan, case)
    asked = (setting.case, setting.factors)
    return next(trial for trial in trials(plan) if (trial.case, trial.factors) == asked)


class Lab:
    """From `start` to `close`. Everything of it carries the run's id; records go to `folder`, to stay or not."""

    def __init__(self, trial: Trial, *, folder: Path, is_temporary: bool = False) -> None:
        self.trial, self.folder = trial, folder
        self._run = Run(output=folder, is_output_temporary=is_temporary)
        self._at_end = ExitStack()
        self._captures: dict[str, _Recorder] = {}
        self._number = 0

    def start(self) -> None:
        """Bring everything up. Whatever it raises, nothing is left."""
        with ExitStack() as on_failure:
            self._run.begin()
            on_failure.callback(self._run.end)
            self.fabric = fabric_for(self.trial.settings, run_id=self._run.id, adjustable=True)
            on_failure.callback(self.fabric.stop)
            self.fabric.start()
            self._events = EventLog(self.folder / "events.jsonl", who="runner")
            on_failure.callback(self._events.close)
            (self.folder / "fabric.json").write_text(json.dumps(self.fabric.describe(), indent=1))
            self.cast = on_failure.enter_context(Cast(self.trial, self.folder, self.fabric))
            self._events.write("clock", offset_ns=realtime_offset_ns(), at="start")
            self.pulse = Pulse({client: self._pulse_socket(client) for client in self.fabric.clients})
            on_failure.callback(self.pulse.stop)
            self.cast.start_load()
            self.pulse.start()
            self._at_end = on_failure.pop_all()

    def finish(self) -> list[str]:
        """End the load and check everything; what is wrong, a sentence each. The fabric stays up."""
        problems: list[str] = []
        for recorder in self._captures.values():
            recorder.stop()
        for step in (self.cast.stop_tools, self.cast.reveal, self.cast.stop_load, self.cast.verify):
            try:
                step()
            except UnnoticedError as error:
                return [str(error)]
        problems += self.cast.stop_observer()
        self._events.write("clock", offset_ns=realtime_offset_ns(), at="stop")
        for event in EventTail(self.folder / "events.jsonl").read():
            if event["event"] == "ram" and event["wrong_pages"]:
                problems.append(f"{event['wrong_pages']} pages of the guest's memory are wrong.")
        return problems

    def close(self) -> None:
        """Take everything down; may be repeated."""
        with shielded():
            self._at_end.close()

    # -- what can be done ------------------------------------------------------------------------------------------

    @property
    def guest_at(self) -> str:
        """The host where the guest runs, as the topology calls it."""
        return self.fabric.hosts[self.cast.guest_at]

    @property
    def guest_to(self) -> str:
        """The host that it would migrate to."""
        return self.fabric.hosts["b" if self.cast.guest_at == "a" else "a"]

    def migrate(self) -> Migrated:
        """Migrate the guest to the other host, and wait for the end. Raises UnnoticedError if the guest is lost."""
        tail = EventTail(self.folder / "events.jsonl")
        for _ in tail.read():
            pass
        source, destination, begin = self.guest_at, self.guest_to, now_ns()
        number, self._number = self._number, self._number + 1
        report = self.cast.migrate(number=number)
        if report["outcome"] == "lost":
            raise MigrationError(f"The guest is lost: {report['reason']}")
        end = now_ns()
        time.sleep(_AROUND_NS / 1e9)
        mine = [event for event in tail.read() if event.get("migration") == number]
        moments = {event["step"]: event for event in mine if event["event"] == "step"}
        paused, resumed = moments.get("pause"), moments.get("resume")
        return Migrated(
            number=number,
            outcome=report["outcome"],
            reason=report.get("reason") or "",
            source=source,
            destination=destination,
            took_ns=end - begin,
            blackout_ns=resumed["end_ns"] - paused["start_ns"] if paused and resumed else None,
            rounds=[event for event in mine if event["event"] == "round"],
            felt=self.felt(from_ns=begin, to_ns=end + _AROUND_NS),
        )

    def felt(self, *, from_ns: int, to_ns: int) -> dict[str, Felt]:
        """What each client felt within a span of time."""
        return {
            client: felt(self.pulse.beats(client, from_ns=from_ns, to_ns=to_ns), to_ns=to_ns)
            for client in self.pulse.clients
        }

    def beats(self, *, span_ns: int) -> dict[str, list[Beat]]:
        """The last probes of each client."""
        now = now_ns()
        return {client: self.pulse.beats(client, from_ns=now - span_ns, to_ns=now) for client in self.pulse.clients}

    def tables(self) -> dict[str, str | None]:
        """For each switch the port behind which it takes the guest to be, and where that leads; None: not known."""
        found: dict[str, str | None] = {}
        for name, switch in {**self.fabric.switches, **self.fabric.host_bridges}.items():
            port = self.fabric.guest_port(name)
            found[name] = None if port is None else switch.ports.get(port, port)
        return found

    @property
    def interfaces(self) -> dict[str, tuple[str, str]]:
        """Every interface by a name that is its own, such as c1-eth0 or guest-a-eth0: its node, its name there."""
        network = self.fabric.network
        every = [(name, interface) for name in network for interface in network[name].intfNames()]
        return {
            interface if interface.startswith(f"{node}-") else f"{node}-{interface}": (node, interface)
            for node, interface in every
        }

    def record(self, node: str, interface: str) -> Path:
        """Capture at an interface from now until the end, into a file that may be read meanwhile; its path."""
        name = interface if interface.startswith(f"{node}-") else f"{node}-{interface}"
        if name not in self._captures:
            pid = self.fabric.network[node].pid
            self._captures[name] = _Recorder(pid, interface, self.folder / f"lab-{name}.pcap")
        return self._captures[name].file

    def probe(self, client: str) -> Felt:
        """A hundred probes from one client, now."""
        pulse = Pulse({client: self._pulse_socket(client)})
        begin = now_ns()
        pulse.start()
        time.sleep(_PROBES * PERIOD_S)
        sent = now_ns()
        time.sleep(_PROBE_GRACE_S)
        pulse.stop()
        return felt(pulse.beats(client, from_ns=begin, to_ns=sent)[:_PROBES], to_ns=sent)

    @property
    def has_display(self) -> bool:
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

    def open_wireshark(self, node: str, interface: str) -> None:
        """Start Wireshark at an interface; it ends with the lab."""
        argv = ["wireshark", "-k", "-i", interface]
        self.fabric.popen(node, argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def address(self, place: str) -> str:
        """The address of a place that clients speak to."""
        return self.fabric.places[place].address(self.trial.settings.clients.ip)

    def _pulse_socket(self, client: str) -> socket.socket:
        with inside_network_of(self.fabric.places[client].pid):
            try:
                return open_stamped((self.address("guest-a"), workload.PROBE_PORT))
            except OSError as error:
                raise FabricError(f"{client} cannot send anything to the guest: {error.strerror}.") from error


class _Recorder:
    """One capture of the user's own, drained by a thread."""

    def __init__(self, pid: int, interface: str, file: Path) -> None:
        self.file = file
        with inside_network_of(pid):
            self._capture = Capture(file.stem, interface=interface, file=file, snap=1600, slots=1 << 12)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=file.stem, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            self._capture.stop()

    def _run(self) -> None:
        while not self._stop.wait(_DRAIN_S):
            self._capture.drain()
            self._capture.flush()
