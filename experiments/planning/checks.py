"""What a plan's fields must be to one another, beyond what each must be alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath

from unnoticed.errors import PlanError
from unnoticed.experiments.planning.document import Keys
from unnoticed.experiments.planning.quantities import BYTE_RATE, DURATION, SIZE, written
from unnoticed.experiments.planning.settings import (
    GUEST_OVERHEAD_BYTES,
    PAGE_BYTES,
    POLICIES,
    FabricSettings,
    Settings,
)
from unnoticed.experiments.planning.toml_lines import Path
from unnoticed.probes.tools import TOOLS
from unnoticed.topology.direction import LinkChange, cut_problems, readings
from unnoticed.topology.switching import Switching

MOST_CONNECTIONS = 1000  # the guest has 1024 slots; the rest is for connections that come and go


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Two or more fields that do not go together. `paths`: the one to change first; the others take part.

    `within`: where the mistake is in what stands at the first path, if that is a list of tables.
    """

    paths: tuple[Keys, ...]
    sentence: str
    within: Path = ()


def conflicts(settings: Settings) -> Iterator[Conflict]:
    """What does not go together in one setting of the grid."""
    for check in _CHECKS:
        found = check(settings)
        if found is not None:
            yield found
    yield from _links_can_be(settings)
    yield from _switches_can_be(settings)
    yield from _schedule_can_be(settings)
    yield from _policy_can_be(settings)


def _working_set_fits(settings: Settings) -> Conflict | None:
    guest = settings.guest
    room = guest.memory_bytes - GUEST_OVERHEAD_BYTES
    if guest.working_set_bytes <= room or guest.trace_path is not None:
        return None
    most = f'at most "{written(room, SIZE)}" is left for it' if room > 0 else "nothing is left for it"
    return Conflict(
        paths=(("guest", "working_set"), ("guest", "memory")),
        sentence=f'"{written(guest.working_set_bytes, SIZE)}" does not fit: of guest.memory = '
        f'"{written(guest.memory_bytes, SIZE)}" {written(GUEST_OVERHEAD_BYTES, SIZE)} are the guest\'s own, so {most}.',
    )


def _dirtier_has_pages(settings: Settings) -> Conflict | None:
    guest = settings.guest
    if guest.working_set_bytes or not guest.dirty_rate_bytes_per_s or guest.trace_path is not None:
        return None
    return Conflict(
        paths=(("guest", "dirty_rate"), ("guest", "working_set")),
        sentence=f'"{written(guest.dirty_rate_bytes_per_s, BYTE_RATE)}" cannot be written to a working set of "0 B"; '
        'give guest.working_set a size, or set the rate to "0 B/s".',
    )


def _trace_fits(settings: Settings) -> Conflict | None:
    guest = settings.guest
    if guest.trace_path is None:
        return None
    try:
        needed = GUEST_OVERHEAD_BYTES + _trace_bytes(guest.trace_path)
    except PlanError as error:
        return Conflict(paths=(("guest", "trace"),), sentence=" ".join(error.problems))
    if needed <= guest.memory_bytes:
        return None
    least = written(-(-needed // (1 << 20)) << 20, SIZE)
    return Conflict(
        paths=(("guest", "memory"), ("guest", "trace")),
        sentence=f'"{written(guest.memory_bytes, SIZE)}" is too small for the trace; it takes "{least}".',
    )


@functools.cache
def _trace_bytes(path: FilePath) -> int:
    """What a trace takes of a guest's memory: the pages that it writes, and its own. Raises PlanError."""
    from unnoticed.agents.trace import read_trace

    trace = read_trace(path)
    return trace.pages * PAGE_BYTES + trace.matrix_bytes


def _guest_has_slots(settings: Settings) -> Conflict | None:
    clients = settings.clients
    if clients.connections <= MOST_CONNECTIONS:
        return None
    return Conflict(
        paths=(
            ("clients", "count"),
            *((("clients", load, "connections")) for load in ("request_response", "download", "upload")),
        ),
        sentence=f"{clients.count} clients with {clients.connections // clients.count} connections each make "
        f"{clients.connections}; the guest holds at most {MOST_CONNECTIONS}.",
    )


def _tools_are_ready(settings: Settings) -> Conflict | None:
    tools = [TOOLS[name] for name in settings.clients.tool_names]
    slowest = max(tools, key=lambda tool: tool.start_ns, default=None)
    if slowest is None or settings.phases.warm_up_ns >= slowest.start_ns:
        return None
    return Conflict(
        paths=(("phases", "warm_up"), ("clients", "tools")),
        sentence=f'"{written(settings.phases.warm_up_ns, DURATION)}" is too short for {slowest.name}, which measures '
        f'nothing in its first "{written(slowest.start_ns, DURATION)}"; give it at least that, or leave it out.',
    )


def _held_frames_find_the_guest(settings: Settings) -> Conflict | None:
    if settings.migration.gap != "hold" or settings.guest.mac != "new":
        return None
    return Conflict(
        paths=(("guest", "mac"), ("migration", "gap")),
        sentence='"new" does not go with migration.gap = "hold": frames are held for the MAC address that they were '
        'sent to, which the guest no longer has then; set mac = "kept" or gap = "drop".',
    )


def _held_frames_come_once(settings: Settings) -> Conflict | None:
    if settings.migration.gap != "hold" or settings.fabric.switch.learning:
        return None
    return Conflict(
        paths=(("migration", "gap"), ("fabric", "switch", "learning")),
        sentence='"hold" has switches bring the frames to the destination, but where none learns each frame comes to '
        'both hosts; set gap = "drop", or let the switches learn.',
    )


def _links_can_be(settings: Settings) -> Iterator[Conflict]:
    fabric = settings.fabric
    yield from _link_conflicts(("fabric", "link"), lambda: fabric.direction)
    for change in fabric.changes:
        path = ("fabric", "links", change.link)
        if any(readings(change.link)):
            yield from _link_conflicts(path, functools.partial(_changed, fabric, change))
        else:
            sentence = 'names no link; write two nodes as "s1-s2", or as "s1>s2" for that direction alone.'
            yield Conflict(paths=(path,), sentence=sentence)


def _switches_can_be(settings: Settings) -> Iterator[Conflict]:
    try:
        Switching(**settings.fabric.switch.model_dump())
    except PlanError as error:
        for problem in error.problems:
            field, _, sentence = problem.partition(": ")
            yield Conflict(paths=(tuple(field.split(".")),), sentence=sentence)


def _schedule_can_be(settings: Settings) -> Iterator[Conflict]:
    migration = settings.migration
    for number, each in enumerate(settings.fabric.schedule):
        path = ("fabric", "schedule")
        if not any(readings(each.link)):
            sentence = (
                f'"{each.link}" names no link; write two nodes as "s1-s2", or as "s1>s2" for that direction alone.'
            )
            yield Conflict(paths=(path,), within=(number, "link"), sentence=sentence)
        for sentence in cut_problems(each.link) if each.state == "cut" else ():
            yield Conflict(paths=(path,), within=(number, "state"), sentence=sentence)
        if each.state is None and not each.given:
            sentence = 'changes nothing; give the link a value, as in loss = "5 %", or state = "cut" or "restored".'
            yield Conflict(paths=(path,), within=(number,), sentence=sentence)
        if each.state is not None and each.given:
            sentence = f"a link that is {each.state} takes no other value: write another [[fabric.schedule]] for that."
            yield Conflict(paths=(path,), within=(number, "state"), sentence=sentence)
        if each.when.startswith("round") and not migration.has_rounds:
            sentence = f'"{each.when}" never comes: {migration.mode} has no rounds.'
            yield Conflict(paths=(path, ("migration", "mode")), within=(number, "when"), sentence=sentence)


def _policy_can_be(settings: Settings) -> Iterator[Conflict]:
    migration = settings.migration
    if migration.has_rounds and migration.policy is not None:
        for key, sentence in POLICIES.mistakes(migration.policy, migration.policy_parameters):
            yield Conflict(paths=(("migration", key),), sentence=sentence)


def _changed(fabric: FabricSettings, change: LinkChange) -> None:
    try:
        base = fabric.direction
    except PlanError:  # which is said of all links
        return
    change.applied(base)


def _link_conflicts(path: Keys, make: Callable[[], object]) -> Iterator[Conflict]:
    try:
        make()
    except PlanError as error:
        for problem in error.problems:
            words = problem.lower()
            named = [
                key for key in ("jitter", "reorder", "queue", "rate", "delay", "loss", "duplicate") if key in words
            ]
            yield Conflict(paths=(*((*path, key) for key in named), path), sentence=problem)


def _held_is_announced(settings: Settings) -> Conflict | None:
    migration = settings.migration
    if migration.gap != "hold" or migration.announce != "none":
        return None
    return Conflict(
        paths=(("migration", "gap"), ("migration", "announce")),
        sentence='"hold" has the switches bring the frames to where they are held, which takes an announcement; '
        'announce the guest, or set gap = "drop".',
    )


def _held_is_announced_at_once(settings: Settings) -> Conflict | None:
    migration = settings.migration
    if migration.gap != "hold" or (0 in migration.announced_after_ns and not migration.announced_early):
        return None
    return Conflict(
        paths=(("migration", "announce_at"), ("migration", "gap")),
        sentence=f'"{migration.announce_at}" does not go with migration.gap = "hold", where the announcement brings '
        'the frames to where they are held; begin with "0 ms", without "early", or set gap = "drop".',
    )


def _answered_is_held(settings: Settings) -> Conflict | None:
    if not settings.migration.zero_window or settings.migration.gap == "hold":
        return None
    return Conflict(
        paths=(("migration", "zero_window"), ("migration", "gap")),
        sentence='true goes with migration.gap = "hold" only: what is dropped must not be acknowledged; '
        "hold the frames, or leave zero_window out.",
    )


def _announced_address_is_there(settings: Settings) -> Conflict | None:
    if settings.clients.ip == "ipv6" or "na" not in settings.migration.announce.split("+"):
        return None
    return Conflict(
        paths=(("migration", "announce"), ("clients", "ip")),
        sentence='"na" announces an IPv6 address, and the guest has one only with clients.ip = "ipv6".',
    )


def _tools_speak_it(settings: Settings) -> Conflict | None:
    if settings.clients.ip == "ipv4" or not settings.clients.tool_names:
        return None
    return Conflict(
        paths=(("clients", "tools"), ("clients", "ip")),
        sentence=f'"{settings.clients.tools}": tools of others run over IPv4 only; set clients.ip = "ipv4", '
        "or leave them out.",
    )


def _all_is_there_to_be_verified(settings: Settings) -> Conflict | None:
    migration = settings.migration
    if not migration.verify or not migration.has_later_pages:
        return None
    return Conflict(
        paths=(("migration", "verify"), ("migration", "mode")),
        sentence=f"with {migration.mode} the guest resumes before all of its memory is there to be compared; every "
        "trial compares what the guest has written at its end, without this too.",
    )


_CHECKS: tuple[Callable[[Settings], Conflict | None], ...] = (
    _working_set_fits,
    _dirtier_has_pages,
    _trace_fits,
    _guest_has_slots,
    _tools_are_ready,
    _held_frames_find_the_guest,
    _held_frames_come_once,
    _answered_is_held,
    _held_is_announced,
    _held_is_announced_at_once,
    _announced_address_is_there,
    _tools_speak_it,
    _all_is_there_to_be_verified,
)
