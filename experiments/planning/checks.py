"""What a plan's fields must be to one another, beyond what each must be alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from unnoticed.errors import PlanError
from unnoticed.experiments.planning.document import Document, Keys
from unnoticed.experiments.planning.policies import DEFAULT_POLICY
from unnoticed.experiments.planning.problems import one_of
from unnoticed.experiments.planning.quantities import BYTE_RATE, DURATION, SIZE, written
from unnoticed.experiments.planning.settings import (
    GUEST_OVERHEAD_BYTES,
    NO_TRACE,
    PAGE_BYTES,
    POLICIES,
    RATE_AND_PATTERN,
    ROUNDLESS,
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


def trace_conflicts(base: Document, cases: list[Document]) -> Iterator[tuple[int | None, Conflict]]:
    """Rates and patterns beside a trace, which is replayed instead, as (number of the case or None, conflict).

    What is only inherited is no mistake: a case may replay a trace and leave the plan's rate standing.
    """
    for number, document in [(None, base), *enumerate(cases)]:
        table = _table(document, "guest")
        traces = _listed([table.get("trace", NO_TRACE)])
        if NO_TRACE in traces:
            continue
        for key in RATE_AND_PATTERN:
            if key in table:
                sentence = "means nothing beside guest.trace, which says what is written when; remove one of the two."
                yield number, Conflict(paths=(("guest", key), ("guest", "trace")), sentence=sentence)


def policy_conflicts(base: Document, cases: list[Document]) -> Iterator[tuple[int | None, Conflict]]:
    """Policies and parameters of policies that could never take effect, as (number of the case or None, conflict).

    A parameter that is only inherited is no mistake: a case may change the mode and leave the plan's policy standing.
    """
    tables: list[tuple[int | None, dict[str, Any]]] = [(None, _table(base, "migration"))]
    tables += [(number, _table(case, "migration")) for number, case in enumerate(cases)]
    inherited = tables[0][1]
    policies = _listed([table["policy"] for _, table in tables if "policy" in table]) or [DEFAULT_POLICY]
    for number, table in tables:
        modes = _listed([table.get("mode", inherited.get("mode", "pre-copy"))])
        roundless = [mode for mode in modes if mode in ROUNDLESS]
        for key in ("policy", *POLICIES.keys):
            path = ("migration", key)
            if key not in table:
                if roundless and _is_repeated(inherited, key, "mode", table, number):
                    yield number, Conflict(paths=(("migration", "mode"), path), sentence=_repeated(key, roundless))
                continue
            if modes and roundless == modes:
                named = " or ".join(modes)
                sentence = f'{named} has no rounds and so no policy; remove this, or set mode = "pre-copy".'
                yield number, Conflict(paths=(path, ("migration", "mode")), sentence=sentence)
            elif isinstance(table[key], list) and roundless:
                sentence = (
                    f"a list here would repeat {' or '.join(roundless)}, which has no policy, for each of its values; "
                    f"make a [[case]] of {' or '.join(roundless)}, and one of the other modes with this list."
                )
                yield number, Conflict(paths=(path, ("migration", "mode")), sentence=sentence)
            elif key != "policy":
                own = _listed([table["policy"]]) if "policy" in table and number is not None else policies
                taking = POLICIES.taking(key)
                if not set(own) & set(taking) and all(policy in POLICIES.parameters for policy in own):
                    sentence = f"the policy {one_of(own)} takes no such parameter; it belongs to {one_of(taking)}."
                    yield number, Conflict(paths=(path, ("migration", "policy")), sentence=sentence)


# Keys of [migration] that take effect only with some values of another one; that one's default; what to do.
_IDLE_WITHOUT: tuple[tuple[str, str, str, frozenset[str], str], ...] = (
    ("hold_limit", "gap", "drop", frozenset({"hold"}), 'means nothing where no frame is held; set gap = "hold".'),
    ("hold_time", "gap", "drop", frozenset({"hold"}), 'means nothing where no frame is held; set gap = "hold".'),
    (
        *("tracking", "mode", "pre-copy", frozenset({"pre-copy", "hybrid"})),
        "means nothing without rounds, between which pages are tracked; remove it.",
    ),
    (
        *("codec", "mode", "pre-copy", frozenset({"pre-copy", "hybrid", "stop-and-copy"})),
        "means nothing in a post-copy, whose pages follow the guest as they are; remove it.",
    ),
)


def idle_conflicts(base: Document, cases: list[Document]) -> Iterator[tuple[int | None, Conflict]]:
    """Keys that could never take effect, as (number of the case or None, conflict).

    What is only inherited is no mistake: a case may change the mode and leave the plan's codec standing.
    """
    tables: list[tuple[int | None, dict[str, Any]]] = [(None, _table(base, "migration"))]
    tables += [(number, _table(case, "migration")) for number, case in enumerate(cases)]
    inherited = tables[0][1]
    for number, table in tables:
        for key, other, default, effective, sentence in _IDLE_WITHOUT:
            own = _listed([table.get(other, inherited.get(other, default))])
            idle = [value for value in own if value not in effective]
            path: Keys = ("migration", key)
            if key not in table:
                if idle and _is_repeated(inherited, key, other, table, number):
                    yield number, Conflict(paths=(("migration", other), path), sentence=_repeated(key, idle))
                continue
            if _listed([table[key]]) == ["none"]:
                continue
            elsewhere = [case[other] for _, case in tables if other in case] if number is None else []
            if not effective & {*own, *_listed(elsewhere)}:
                yield number, Conflict(paths=(path, ("migration", other)), sentence=sentence)
            elif idle and isinstance(table[key], list) and (number is not None or not any(cases)):
                yield number, Conflict(paths=(path, ("migration", other)), sentence=_repeating(idle))


def _is_repeated(inherited: dict[str, Any], key: str, other: str, table: dict[str, Any], number: int | None) -> bool:
    """Whether a case that says for itself that a key means nothing has it as a list from the plan."""
    return number is not None and other in table and isinstance(inherited.get(key), list)


def _repeating(values: list[str]) -> str:
    named = " or ".join(values)
    return (
        f"a list here would repeat {named}, for which it means nothing, for each of its values; make a [[case]] of "
        f"{named}, and one of what takes it with this list."
    )


def _repeated(key: str, values: list[str]) -> str:
    return (
        f"{' or '.join(values)} would be repeated for each value of migration.{key}, which means nothing for it; move "
        "that list into the [[case]] that it is for."
    )


def _table(document: Document, section: str) -> dict[str, Any]:
    table = document.get(section, {})
    return table if isinstance(table, dict) else {}


def _listed(values: list[Any]) -> list[str]:
    """The words among the values, with lists taken apart, each once."""
    flat = [inner for value in values for inner in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(value for value in flat if isinstance(value, str)))
