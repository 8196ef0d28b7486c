"""The live bench: one trial on a real fabric, with real processes, from the first bridge to the last record.

The order is that of DESIGN: fabric up; guest, load, captures and probes start; warm-up; the migration; cool-down;
quiesce and stop the captures; fabric down. What is left is the trial's folder of raw records, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

from unnoticed.clock import realtime_offset_ns
from unnoticed.errors import PlanError, RecordError
from unnoticed.events import EventLog
from unnoticed.experiments.bench import Progress
from unnoticed.experiments.cast import Cast
from unnoticed.experiments.interrupts import shielded
from unnoticed.experiments.planning.checks import MOST_CONNECTIONS
from unnoticed.experiments.planning.grid import Trial
from unnoticed.experiments.planning.plan import Plan
from unnoticed.experiments.planning.settings import Settings
from unnoticed.experiments.schedule import LinkSchedule
from unnoticed.topology.fabric import Fabric, FabricSpec, check_design, check_switches
from unnoticed.topology.neighbours import Neighbours
from unnoticed.topology.roles import Roles
from unnoticed.topology.runs import Run
from unnoticed.topology.spec import is_own
from unnoticed.topology.switching import Switching


def spec_for(settings: Settings, *, adjustable: bool = False) -> FabricSpec:
    """The fabric that the settings ask for. Of a topology of the user's own all clients draw load, unless counted.

    `adjustable`: its links can be asked for anything later.
    """
    fabric = settings.fabric
    counted = "count" in settings.clients.model_fields_set or not is_own(fabric.shape)
    return FabricSpec(
        shape=fabric.shape,
        clients=settings.clients.count if counted else None,
        roles=Roles(source=fabric.source, destination=fabric.destination, control=fabric.control),
        switching=Switching(**fabric.switch.model_dump()),
        neighbours=Neighbours(**fabric.neighbours.model_dump()),
        guest_mac=settings.guest.mac,
        migration_network=fabric.migration_network,
        ipv6=settings.clients.ip == "ipv6",
        **fabric.link.model_dump(),
        links=fabric.changes,
        later=fabric.later,
        cut_later=fabric.cut_later,
        adjustable=adjustable,
    )


def check_fabrics(plan: Plan) -> None:
    """See that there is a topology for every setting of a plan, with all that the setting counts on.

    Raises PlanError with one sentence for each mistake, and MachineError where this machine has not such switches.
    """
    problems: dict[str, None] = {}
    for setting in plan.settings:
        try:
            clients = len(check_design(spec_for(setting.settings)))
        except PlanError as error:
            problems |= dict.fromkeys(error.problems)
            continue
        load = setting.settings.clients
        connections = clients * load.connections // load.count
        if connections > MOST_CONNECTIONS:
            problems[
                f"clients: the {clients} clients of {setting.settings.fabric.shape} make {connections} connections; "
                f"the guest holds at most {MOST_CONNECTIONS}: let fewer of them draw load, by clients.count."
            ] = None
    if problems:
        raise PlanError(*problems)
    for kind in dict.fromkeys(setting.settings.fabric.switch.kind for setting in plan.settings):
        check_switches(kind)


def fabric_for(settings: Settings, *, run_id: str, adjustable: bool = False) -> Fabric:
    """The fabric that the settings ask for; it is not yet up."""
    return Fabric(spec_for(settings, adjustable=adjustable), run_id=run_id)


class LiveBench:
    """Performs trials on this machine; needs root. One run, registered so that `unnoticed clean` knows it."""

    def __init__(self, *, output: Path) -> None:
        self._run = Run(output=output)
        self._run.begin()

    def perform(self, trial: Trial, folder: Path, progress: Progress) -> None:
        """See `Bench.perform`."""
        events = EventLog(folder / "events.jsonl", who="runner")
        try:
            progress("fabric")
            fabric = fabric_for(trial.settings, run_id=self._run.id)
            try:
                fabric.start()
                (folder / "fabric.json").write_text(json.dumps(fabric.describe(), indent=1))
                schedule = LinkSchedule(
                    trial.settings.fabric.schedule,
                    links=fabric,
                    log=folder / "events.jsonl",
                    events=events,
                    has_rounds=trial.settings.migration.has_rounds,
                )
                with Cast(trial, folder, fabric) as cast, schedule:
                    _play(trial, cast, fabric, schedule, events, progress)
            finally:
                with shielded():
                    fabric.stop()
        finally:
            events.close()

    def close(self) -> None:
        """See `Bench.close`."""
        self._run.end()


def _play(  # noqa: PLR0917  # each is somebody
    trial: Trial, cast: Cast, fabric: Fabric, schedule: LinkSchedule, events: EventLog, progress: Progress
) -> None:
    """The phases of a trial, once everybody is ready."""

    def phase(name: str) -> None:
        cast.watch.phase = name
        events.write("phase", phase=name)
        progress(name)

    events.write("clock", offset_ns=realtime_offset_ns(), at="start")
    cast.start_load()
    phase("warm-up")
    cast.watch.sleep(trial.settings.phases.warm_up_ns / 1e9)
    phase("migration")
    cast.migrate()
    phase("cool-down")
    cast.watch.sleep(trial.settings.phases.cool_down_ns / 1e9)
    phase("quiesce")
    problems = schedule.stop()
    cast.stop_tools()
    cast.reveal()
    cast.stop_load()
    cast.verify()
    problems += cast.stop_observer()
    counts = fabric.link_counts()
    events.write("links", **counts)
    problems += [
        f"The link {way} dropped {count} frames that nobody asked it to: this machine was too slow for its rate."
        for way, count in counts["dropped"].items()
        if count
    ]
    events.write("clock", offset_ns=realtime_offset_ns(), at="stop")
    phase("end")
    if problems:
        raise RecordError(" ".join(problems))
