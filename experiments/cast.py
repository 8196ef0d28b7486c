"""The cast of a trial: its processes, started in their places, told what to do, and ended.

Agents, observer, control server, load clients and probers are children of the runner. Each is one module of `agents` or
`probes`, with its settings as one JSON argument, and obeys a few commands.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unnoticed import workload
from unnoticed.agents.announce import NONE, Announcement, frames_for
from unnoticed.errors import MigrationError
from unnoticed.experiments.analysis.raw import CONTROL_STREAM, GUEST_STREAM
from unnoticed.experiments.child import Child, Reply
from unnoticed.experiments.interrupts import shielded
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.planning.settings import default_announcement
from unnoticed.experiments.watch import Watch
from unnoticed.patience import patient
from unnoticed.probes.tools import TOOLS, output_name
from unnoticed.topology.fabric import Fabric

_START_S = patient(30.0)  # longest wait for a process to be ready, on a machine under load
_COMPILE_S = patient(120.0)  # and for an agent that compiles what it will need, once on a machine
_MIGRATION_S = patient(300.0)
_STOP_S = patient(30.0)
_GRACE_S = patient(20.0)  # how long clients wait for their last answers: TCP may have backed off far by then
_SETTLE_S = 0.05  # for the last frames to reach the rings
_CONNECTIONS_PER_PROCESS = 1 << 24


class Cast:
    """The processes of a trial: agents, observer, control server, load clients, probers."""

    def __init__(self, trial: Trial, folder: Path, fabric: Fabric) -> None:
        self._trial, self._folder, self._fabric = trial, folder, fabric
        self._events = str(folder / "events.jsonl")
        self._children: list[Child] = []
        self.watch = Watch(self._children)
        self._load: list[Child] = []
        self._probers: list[Child] = []
        self._tools: list[Child] = []
        self._guest_at = "a"
        self._is_lost = False  # the guest runs nowhere any more

    def __enter__(self) -> Cast:
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._end)
            self._start()
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    # -- the phases ------------------------------------------------------------------------------------------------

    def start_load(self) -> None:
        """Let the clients, the probers and the tools of others begin."""
        for child in (*self._probers, *self._load, *self._tools):
            child.command("start")

    @property
    def guest_at(self) -> str:
        """A or b: the host where the guest runs."""
        return self._guest_at

    @property
    def events_path(self) -> str:
        """The event log that all processes of the trial share."""
        return self._events

    @property
    def guest_pid(self) -> int:
        """The process that was booted at A."""
        return self._guest_pid

    def migrate(self, *, number: int = 0, gap: str | None = None) -> Reply:
        """Migrate the guest from the host where it is to the other one; what the source reports of its end.

        `gap`: another one than the plan's. A cast whose plan holds frames can drop them as well. A guest that went
        before its pages may be lost with them, which is an outcome. Raises MigrationError where one is lost in another
        way.
        """
        if self._is_lost:
            raise MigrationError("There is no guest any more: it was lost in a migration.")
        migration = self._trial.settings.migration
        source, destination = ("a", "b") if self._guest_at == "a" else ("b", "a")
        self._agents[destination].command("expect", number=number)
        self.watch.wait_reply(self._agents[destination], "expecting", _START_S)
        self._agents[source].command(
            "migrate",
            number=number,
            destination=self._fabric.migration_places[destination].ipv4,
            mode=migration.mode,
            policy=migration.policy or "none",
            parameters=migration.policy_parameters,
            announce=migration.announce,
            tracking=migration.tracking,
            codec=migration.codec,
            rate_bytes_per_s=(migration.rate_limit_bit_per_s or 0) // 8,
            verify=migration.verify,
            gap=gap or migration.gap,
            hold_limit_bytes=migration.hold_limit_bytes,
            hold_time_ns=migration.hold_time_ns,
            zero_window=migration.zero_window and (gap or migration.gap) == "hold",
        )
        report = self.watch.wait_reply(self._agents[source], "migrated", self._trial.settings.foreseen_s + _MIGRATION_S)
        if report["outcome"] == "lost":
            arrival = self.watch.wait_reply(self._agents[destination], "arrival", _START_S)
            if arrival["arrival"] == "resumed":
                raise MigrationError(f"The guest runs at {destination}, but agent-{source} was not told that it does.")
            self._is_lost = True
        if report["outcome"] == "failed" and not report["here"]:
            raise MigrationError(f"agent-{source} has lost the guest in the migration: {report['reason']}")
        if report["outcome"] == "completed":
            self._guest_at = destination
            self.watch.wait_reply(self._agents[destination], "arrival", _START_S)
        return report

    def reveal(self) -> None:
        """Announce a guest that the plan leaves unannounced, now that what follows from that was measured.

        Else its clients could not end: nothing of theirs could be checked, and no counter compared.
        """
        migration = self._trial.settings.migration
        unannounced = migration.announce == NONE or not migration.announced_after_ns
        if not self._is_lost and self._guest_at == "b" and unannounced:
            self._agents["b"].command("announce", announce=self._plain_announcement)
            self.watch.wait_reply(self._agents["b"], "announced", _START_S)

    def stop_tools(self) -> None:
        """Interrupt the tools of others, or let them end, and wait until they have printed their accounts."""
        for child in self._tools:
            child.command("stop")
        for child in self._tools:
            self.watch.wait_reply(child, "done", self._trial.settings.foreseen_s + _STOP_S)

    def stop_load(self) -> None:
        """Let the clients end: every answer in, every counter read, every connection closed. And the probers."""
        for child in (*self._load, *self._probers):
            child.command("stop")
        for child in (*self._load, *self._probers):
            self.watch.wait_reply(child, "done", _GRACE_S + _STOP_S)

    def verify(self) -> None:
        """Have the guest's RAM compared with what its counters say it must be (event `ram`), unless it is lost."""
        if self._is_lost:
            return
        agent = self._agents[self._guest_at]
        agent.command("verify")
        if not self.watch.wait_reply(agent, "verified", _STOP_S)["here"]:
            raise MigrationError(f"The guest is not at {self._guest_at}, where it should be.")

    def stop_observer(self) -> list[str]:
        """End the captures; returns what is wrong with them, a sentence each."""
        self.watch.sleep(_SETTLE_S)
        self._observer.command("stop")
        problems: list[str] = self.watch.wait_reply(self._observer, "done", _STOP_S)["problems"]
        return problems

    # -- starting and ending ---------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start everybody at once, then wait for each: most of it is Python's start-up."""
        places, clients = self._fabric.places, self._fabric.clients
        captures = self._folder / "captures"
        captures.mkdir()
        points = {name: places[name] for name in (*clients, "guest-a", "guest-b")} | {
            "b": self._fabric.migration_places["b"]
        }
        self._observer = self.start_child(
            None,
            "observer",
            "probes.observer",
            points=[
                {
                    "name": name,
                    "pid": place.pid,
                    "interface": place.interface,
                    "file": str(captures / f"{name}.pcap"),
                }
                for name, place in points.items()
            ],
            switches=[
                {
                    "name": name,
                    "pid": switch.pid,
                    "toward": dict(switch.ports),
                    "control": switch.control,
                    "numbers": dict(switch.numbers),
                }
                for name, switch in self._fabric.switches.items()
            ],
            neighbours=self._neighbours(),
            guest_macs=sorted({places[guest].mac for guest in ("guest-a", "guest-b")}),
            guest_address=self._address("guest-a"),
            events=self._events,
        )
        self._agents = self._start_agents()
        echo = self.start_child(
            self._fabric.control,
            "control",
            "probes.echo",
            ip=self._address(self._fabric.control),
            port=workload.PROBE_PORT,
            realtime=True,
            events=self._events,
            who="control",
        )
        for number, client in enumerate(clients):
            self._probers.append(self._start_prober(client))
            self._load += self._start_clients(client, number)
        self._tools = [self._start_tool(clients[0], name) for name in self._trial.settings.clients.tool_names]
        guest = self._trial.settings.guest
        for agent in self._agents.values():
            self.watch.wait_reply(agent, "ready", _START_S + _COMPILE_S)
        self._agents["a"].command(
            "boot",
            memory_bytes=guest.memory_bytes,
            working_set_bytes=guest.working_set_bytes,
            dirty_bytes_per_s=guest.dirty_rate_bytes_per_s,
            pattern=guest.pattern,
            contents={"zero_ppm": guest.zero_pages_ppm, "compressible_ppm": guest.compressible_ppm},
            trace=None if guest.trace_path is None else str(guest.trace_path),
        )
        for child in (self._observer, echo, *self._probers, *self._load, *self._tools):
            self.watch.wait_reply(child, "ready", _START_S)
        self._guest_pid = int(self.watch.wait_reply(self._agents["a"], "booted", _START_S)["pid"])

    def _neighbours(self) -> list[dict[str, Any]]:
        """Who must learn the guest's MAC at its destination: where it is another one, all that speak to it directly."""
        places = self._fabric.places
        here = {places["guest-a"].mac: self._fabric.hosts["a"], places["guest-b"].mac: self._fabric.hosts["b"]}
        names = self._fabric.neighbours if len(here) > 1 else ()
        return [{"name": name, "pid": places[name].pid, "toward": here} for name in names]

    def _address(self, place: str) -> str:
        """What clients call a place."""
        return self._fabric.places[place].address(self._trial.settings.clients.ip)

    @property
    def _plain_announcement(self) -> str:
        """What the plan leaves out or puts off, when it is made up for: the guest announced at once."""
        return default_announcement(self._trial.settings.clients.ip)

    def _start_agents(self) -> dict[str, Child]:
        places, key = self._fabric.places, secrets.token_hex(32)
        agents: dict[str, Child] = {}
        for place in ("a", "b"):
            guest = places[f"guest-{place}"]
            migration = self._trial.settings.migration
            uplinks = [port for port in self._fabric.host_bridges[self._fabric.hosts[place]].ports if port != "guest"]
            holds = migration.gap == "hold"
            frames = {
                name: frames_for(name, mac=guest.mac, ipv4=guest.ipv4, ipv6=guest.ipv6)
                for name in (self._plain_announcement, migration.announce)
            }
            announcements = {name: Announcement(frames=these) for name, these in frames.items()}
            announcements[migration.announce] = Announcement(
                frames=frames[migration.announce],
                after_ns=migration.announced_after_ns,
                early=migration.announced_early,
            )
            agents[place] = self.start_child(
                self._fabric.hosts[place],
                f"agent-{place}",
                "agents.agent",
                place=place,
                address=self._fabric.migration_places[place].ipv4,
                key=key,
                guest_pid=guest.pid,
                gate="guest",
                announcements={name: each.packed() for name, each in announcements.items()},
                events=self._events,
                hold={"mac": guest.mac, "uplinks": uplinks, "zero_window": migration.zero_window} if holds else None,
                connections=self._trial.settings.clients.connections,
                pages_later=migration.has_later_pages,
                guest={
                    "addresses": [address for address in (guest.ipv4, guest.ipv6) if address],
                    "interface": guest.interface,
                    "congestion": self._trial.settings.clients.congestion_control,
                    "events": self._events,
                    "who": f"guest-{place}",
                },
            )
        return agents

    def _start_prober(self, client: str) -> Child:
        targets = [(GUEST_STREAM, self._address("guest-a")), (CONTROL_STREAM, self._address(self._fabric.control))]
        return self.start_child(
            client,
            f"{client}-prober",
            "probes.prober",
            client=client,
            targets=[{"stream": stream, "ip": ip, "port": workload.PROBE_PORT} for stream, ip in targets],
            records=str(self._folder),
            events=self._events,
        )

    def _start_clients(self, client: str, number: int) -> list[Child]:
        """A client's requests and new connections, and its bulk flows in another process, not to disturb those."""
        load = self._trial.settings.clients
        parts: dict[str, dict[str, BaseModel | None]] = {
            "requests": {"request_response": load.request_response, "connect": load.connect},
            "bulk": {"download": load.download, "upload": load.upload},
        }
        children: list[Child] = []
        for part, (name, workloads) in enumerate(parts.items()):
            given = {key: value.model_dump() for key, value in workloads.items() if value is not None}
            if given:
                child = self.start_child(
                    client,
                    f"{client}-{name}",
                    "probes.client",
                    client=client,
                    guest=self._address("guest-a"),
                    port=workload.TCP_PORT,
                    records=str(self._folder),
                    records_name=client if name == "requests" else f"{client}-{name}",
                    events=self._events,
                    congestion_control=load.congestion_control,
                    connection_base=(2 * number + part + 1) * _CONNECTIONS_PER_PROCESS,
                    grace_s=_GRACE_S,
                    realtime=name == "requests",
                    seed=f"{self._trial.id}/{client}",
                    **given,
                )
                children.append(child)
        return children

    def _start_tool(self, client: str, name: str) -> Child:
        tool, seconds = TOOLS[name], self._trial.settings.foreseen_s
        return self.start_child(
            client,
            f"{client}-{name}",
            "probes.tool_runner",
            argv=tool.arguments(self._address("guest-a"), seconds),
            seconds=None if tool.is_interrupted else seconds,
            output=str(self._folder / output_name(client, name)),
        )

    def start_child(self, where: str | None, name: str, module: str, /, **settings: Any) -> Child:
        """Start a child at a place, or in the runner's own namespace; it is ended with the cast."""
        stderr = self._folder / f"{name}.stderr"
        argv = [sys.executable, "-m", f"unnoticed.{module}", json.dumps(settings)]
        with stderr.open("wb") as file:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": file}
            pipes["process_group"] = 0  # an interrupt from the terminal is the runner's to handle
            with shielded():  # no child that nobody knows
                process = subprocess.Popen(argv, **pipes) if where is None else self._fabric.popen(where, argv, **pipes)
                child = Child(process, name=name, stderr=stderr)
                self._children.append(child)
        return child

    def _end(self) -> None:
        """End every child, at once: what it has not recorded by now is not wanted."""
        with shielded():
            while self._children:
                self._children[-1].kill()
                self._children.pop().close()
