"""The settings of one trial: what a plan's sections mean once each value is one value, in integers of base units.

Field names carry the unit; their aliases are the names that a plan uses. The same models check a plan and describe a
trial, so that the two cannot drift apart. Checks that concern several fields are in `checks`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, create_model, field_validator
from pydantic_core import PydanticCustomError

from unnoticed.agents.announce import KINDS, NONE
from unnoticed.experiments.planning.fields import (
    BitRate,
    ByteRate,
    DurationNs,
    Frequency,
    SharePpm,
    SizeBytes,
    dimension_of,
)
from unnoticed.experiments.planning.policies import DEFAULT_POLICY, Policies
from unnoticed.experiments.planning.problems import near_word, one_of, shown, suggestion
from unnoticed.experiments.planning.quantities import DURATION, SHARE, QuantityError, parse, written
from unnoticed.probes.tools import TOOLS
from unnoticed.topology.direction import Direction, LinkChange
from unnoticed.topology.spec import STOCK_SHAPES
from unnoticed.topology.switching import Kind

PAGE_BYTES = 4096
NO_TRACE = "none"
RATE_AND_PATTERN = ("working_set", "dirty_rate", "pattern")  # of a guest that replays no trace
STOCK_TRACES = Path(__file__).resolve().parents[1] / "stock"
GUEST_OVERHEAD_BYTES = 16 << 20  # superblock, connection table, key-value area and I/O rings: not for the dirtier
MOMENTS = ("migration", "cutover", "resumed")  # it was ordered; its policy said switch; the guest runs again
_MOMENT = re.compile(r"migration|cutover|resumed|round (0|[1-9][0-9]{0,3})")
AUTO, EARLY = "auto", "early"
_MS, _S, _MIB, _GBIT = 10**6, 10**9, 1 << 20, 10**9
_SLOWEST_STREAM_BIT_PER_S = 100_000  # what is slower cannot be told from a peer that has gone


def _read_tools(value: Any) -> Any:
    """A text of one or more tools, joined by +, each once; or "none"."""
    names = value.split("+") if isinstance(value, str) else []
    unknown = [name for name in names if name not in TOOLS and value != "none"]
    if isinstance(value, str) and (unknown or len(set(names)) != len(names)):
        choice = ", ".join(f'"{name}"' for name in ("none", *TOOLS))
        wrong = f'"{unknown[0]}" is not a tool that can be run' if unknown else f'"{value}" names a tool twice'
        sentence = f'{wrong}; join any of these by +, as in "fping+wrk": {choice}.'
        raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})
    return value


Tools = Annotated[str, BeforeValidator(_read_tools)]


def _read_announcement(value: Any) -> Any:
    """A text of one or more kinds of announcements, joined by +, each once; or "auto", or "none"."""
    names = value.split("+") if isinstance(value, str) else []
    unknown = [name for name in names if name not in KINDS and value not in (AUTO, NONE)]
    if isinstance(value, str) and (unknown or len(set(names)) != len(names)):
        choice = ", ".join(f'"{name}"' for name in (AUTO, NONE, *KINDS))
        wrong = f'"{unknown[0]}" is not an announcement' if unknown else f'"{value}" names an announcement twice'
        sentence = f'{wrong}; join any of these by +, as in "garp+na": {choice}.'
        raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})
    return value


def _read_times(value: Any) -> Any:
    """A text of durations, joined by commas, and "early" among them."""
    if isinstance(value, str):
        try:
            for each in map(str.strip, value.split(",")):
                if each != EARLY:
                    parse(each, DURATION)
        except QuantityError as error:
            sentence = f'{str(error).rstrip(".")}; join several by commas, as in "0 ms, 50 ms", "{EARLY}" among them.'
            raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence}) from error
    return value


Announcement = Annotated[str, BeforeValidator(_read_announcement)]
AnnouncementTimes = Annotated[str, BeforeValidator(_read_times)]


class Section(BaseModel):
    """One table of a plan: strict, frozen, and closed to unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class LinkSettings(Section):
    """Every link of the fabric, in each direction."""

    rate_bit_per_s: BitRate = Field(alias="rate", default=_GBIT, gt=0)
    queue_ns: DurationNs = Field(alias="queue", default=10 * _MS, gt=0)  # how long a full queue takes to drain
    delay_ns: DurationNs = Field(alias="delay", default=0, le=10 * _S)
    jitter_ns: DurationNs = Field(alias="jitter", default=0)  # at most so much less or more than the delay, evenly
    loss_ppm: SharePpm = Field(alias="loss", default=0)  # of frames, each on its own
    reorder_ppm: SharePpm = Field(alias="reorder", default=0)  # of frames that do not wait for the delay
    duplicate_ppm: SharePpm = Field(alias="duplicate", default=0)


class LinkOverride(Section):
    """What differs on some links; what is None is as on every link."""

    rate_bit_per_s: BitRate | None = Field(alias="rate", default=None, gt=0)
    queue_ns: DurationNs | None = Field(alias="queue", default=None, gt=0)
    delay_ns: DurationNs | None = Field(alias="delay", default=None, le=10 * _S)
    jitter_ns: DurationNs | None = Field(alias="jitter", default=None)
    loss_ppm: SharePpm | None = Field(alias="loss", default=None)
    reorder_ppm: SharePpm | None = Field(alias="reorder", default=None)
    duplicate_ppm: SharePpm | None = Field(alias="duplicate", default=None)


def _file_beside(name: str, info: ValidationInfo) -> Path | None:
    """A file that a plan names: beside the plan first (`folder` of the context), then where the command was given."""
    return next(((folder / name).resolve() for folder in _folders(info) if (folder / name).is_file()), None)


def _folders(info: ValidationInfo) -> list[Path]:
    folders = [Path(folder) for folder in ((info.context or {}).get("folder"), Path.cwd()) if folder is not None]
    return list(dict.fromkeys(folders))


def _read_shape(value: Any, info: ValidationInfo) -> Any:
    """A stock shape, or a Mininet Topo of the user's: "module:Name", or "file.py:Name" with the file's full path."""
    if not isinstance(value, str) or value in STOCK_SHAPES:
        return value
    where, _, name = value.rpartition(":")
    if not where or not name.isidentifier():
        near = near_word(value, STOCK_SHAPES)
        hint = "." if near is None else suggestion(value, STOCK_SHAPES)
        hint = hint if ":" not in value else "; did you forget the class's name?"
        sentence = (
            f"{shown(value)} is not a shape: write {one_of(STOCK_SHAPES)}, or name a Mininet topology of your own, "
            f'as in "file.py:MyTopo" or "module:MyTopo"{hint}'
        )
        raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})
    if not where.endswith(".py"):
        return value
    file = _file_beside(where, info)
    if file is not None:
        return f"{file}:{name}"
    places = " or ".join(str(folder) for folder in _folders(info))
    sentence = f"{shown(value)}: there is no file {where} in {places}."
    raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})


def _read_trace(value: Any, info: ValidationInfo) -> Any:
    """The full path of a trace: a stock one by its name, or a file; "none" as it is."""
    if not isinstance(value, str) or value == NO_TRACE:
        return value
    stock = {path.stem: path for path in sorted(STOCK_TRACES.glob("*.trace"))}
    file = stock.get(value) or _file_beside(value, info)
    if file is None:
        places = " or ".join(str(folder) for folder in _folders(info))
        choice = one_of([NO_TRACE, *stock])
        sentence = (
            f"{shown(value)} is no trace: write {choice}, or name a file; there is none of that name in {places}."
        )
        raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})
    return str(file)


def _read_tree(value: Any) -> Any:
    if value is None or isinstance(value, bool) or value == "rapid":
        return value
    sentence = f'{shown(value)} is no spanning tree: write true, false or "rapid".'
    raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})


Tree = Annotated[bool | Literal["rapid"] | None, BeforeValidator(_read_tree)]


class SwitchSettings(Section):
    """Every switch of the fabric."""

    kind: Kind = "bridge"
    stp: Tree = None  # a spanning tree; unless said, where the topology has a loop
    forward_delay_ns: DurationNs | None = Field(alias="forward_delay", default=None)  # of the tree; the least there is
    hello_ns: DurationNs = Field(alias="hello", default=1 * _S)
    max_age_ns: DurationNs = Field(alias="max_age", default=6 * _S)
    ageing_ns: DurationNs = Field(alias="ageing", default=300 * _S)  # until an address is forgotten
    learning: bool = True  # false: a hub
    learning_limit: int | None = Field(default=None, ge=1)  # at most so many addresses; all others are flooded
    drop_announcements: Literal["none", "garp", "rarp", "na", "all"] = "none"


class NeighbourSettings(Section):
    """How clients, the control server and routers learn the guest's MAC address."""

    at: Literal["everybody", "hosts", "routers"] = "everybody"
    static: bool = False  # known for good, never asked for
    arp_accept: bool = False  # a gratuitous ARP makes an entry where there was none
    drop_gratuitous_arp: bool = False  # none is listened to


def _read_moment(value: Any) -> Any:
    """The name of a moment of the migration: "migration", "round 2", "cutover", "resumed"."""
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        sentence = f'{shown(value)} is no moment of a migration: {one_of(MOMENTS)}, or a round\'s end, as in "round 2".'
        raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})
    return value


class ScheduledChange(LinkOverride):
    """A link that changes during the trial: cut, restored to what it was at first, or with other values."""

    link: str
    when: Annotated[str, BeforeValidator(_read_moment)] = "migration"
    after_ns: DurationNs = Field(alias="after", default=0, le=600 * _S)  # so much later than that moment
    state: Literal["cut", "restored"] | None = None

    @property
    def given(self) -> dict[str, int]:
        """The values that the link is to have; those not named stay as they are."""
        return {name: value for name in LinkOverride.model_fields if (value := getattr(self, name)) is not None}

    @property
    def change(self) -> LinkChange | None:
        """What the link is asked to become; None where it is cut or restored."""
        return None if self.state else LinkChange(link=self.link, **self.given)

    @property
    def words(self) -> str:
        """What happens to the link: "loss 5 %", "cut"."""
        if self.state is not None:
            return self.state
        named = [(LinkOverride.model_fields[name].alias or name, name, value) for name, value in self.given.items()]
        return ", ".join(f"{alias} {written(value, dimension_of(name) or SHARE)}" for alias, name, value in named)

    @property
    def moment(self) -> str:
        """When, in words: "round 2 + 50 ms"."""
        return self.when + (f" + {written(self.after_ns, DURATION)}" if self.after_ns else "")


class FabricSettings(Section):
    """The emulated network."""

    shape: Annotated[str, BeforeValidator(_read_shape)] = "tree"
    source: str = Field(default="a", min_length=1)  # which of the shape's hosts play the roles; the others are clients
    destination: str = Field(default="b", min_length=1)
    control: str | None = Field(default=None, min_length=1)  # unless said: "control", added where there is none
    link: LinkSettings = LinkSettings()
    links: dict[str, LinkOverride] = Field(default_factory=dict)  # by link, "s1-s2"; "s1>s2" is one direction of it
    migration_network: Literal["shared", "dedicated"] = "shared"  # dedicated: a link joins the hosts, for pages alone
    switch: SwitchSettings = SwitchSettings()
    neighbours: NeighbourSettings = NeighbourSettings()

    schedule: list[ScheduledChange] = Field(default_factory=list)  # what changes during the trial

    @property
    def later(self) -> tuple[LinkChange, ...]:
        """What links will be asked to become, in the order written."""
        return tuple(each.change for each in self.schedule if each.change is not None)

    @property
    def cut_later(self) -> tuple[str, ...]:
        """Which links will be cut."""
        return tuple(each.link for each in self.schedule if each.state == "cut")

    @property
    def direction(self) -> Direction:
        """What every direction of every link is asked to be, but for `changes`. Raises PlanError if it cannot be."""
        return Direction(**self.link.model_dump())

    @property
    def longest_queue_ns(self) -> int:
        """The longest queue of any link, at any time."""
        others = (*self.links.values(), *self.schedule)
        return max(self.link.queue_ns, *(each.queue_ns or 0 for each in others), 0)

    @property
    def scheduled_delay_ns(self) -> int:
        """What the schedule may add to the way there and back."""
        return 2 * sum((each.delay_ns or 0) + (each.jitter_ns or 0) for each in self.schedule)

    @property
    def changes(self) -> tuple[LinkChange, ...]:
        """What differs on some links, in the order written."""
        return tuple(LinkChange(link=link, **override.model_dump()) for link, override in self.links.items())


class GuestSettings(Section):
    """What is migrated."""

    backend: Literal["pages"] = "pages"
    memory_bytes: SizeBytes = Field(alias="memory", default=256 * _MIB, gt=0, multiple_of=PAGE_BYTES)
    working_set_bytes: SizeBytes = Field(alias="working_set", default=48 * _MIB, multiple_of=PAGE_BYTES)
    dirty_rate_bytes_per_s: ByteRate = Field(alias="dirty_rate", default=20 * _MIB)
    pattern: Literal["uniform", "sequential", "hot-and-cold", "zipf", "bursts"] = "uniform"
    trace: Annotated[str, BeforeValidator(_read_trace)] = NO_TRACE  # is replayed, instead of the three above
    zero_pages_ppm: SharePpm = Field(alias="zero_pages", default=0)  # of all, at first
    compressible_ppm: SharePpm = Field(alias="compressible", default=0)  # of each page that is not zero
    mac: Literal["kept", "new"] = (
        "kept"  # at the destination: "new" as with a container, so that neighbours must learn it
    )

    @property
    def trace_path(self) -> Path | None:
        """The file of the trace that is replayed; None where the dirtier follows rate and pattern."""
        return None if self.trace == NO_TRACE else Path(self.trace)

    @property
    def memory_pages(self) -> int:
        return self.memory_bytes // PAGE_BYTES

    @property
    def working_set_pages(self) -> int:
        return self.working_set_bytes // PAGE_BYTES

    @property
    def dirty_pages_per_s(self) -> float:
        return self.dirty_rate_bytes_per_s / PAGE_BYTES


class RequestLoad(Section):
    """Requests of one client, spread over its connections."""

    connections: int = Field(default=10, ge=0, le=10_000)
    rate_hz: Frequency = Field(alias="rate", default=1000, gt=0)


class BulkLoad(Section):
    """A bulk download or upload of one client: as fast as TCP goes, or at a rate (payload) of each connection."""

    connections: int = Field(default=1, ge=0, le=1000)
    rate_bit_per_s: BitRate | None = Field(alias="rate", default=None, gt=0)


class ConnectLoad(Section):
    """New connections of one client."""

    rate_hz: Frequency = Field(alias="rate", default=20, gt=0)


class ClientsSettings(Section):
    """The clients, all alike."""

    count: int = Field(default=2, ge=1, le=250)
    ip: Literal["ipv4", "ipv6"] = "ipv4"  # what they speak to the guest; with "ipv6" everybody has both
    congestion_control: str = Field(default="cubic", pattern=r"^[a-z0-9_]{1,15}$")
    request_response: RequestLoad | None = None
    download: BulkLoad | None = None
    upload: BulkLoad | None = None
    connect: ConnectLoad | None = None
    tools: Tools = "none"  # of others, at the first client, beside our own probes: joined by +

    @field_validator("request_response", "download", "upload", mode="after")
    @classmethod
    def _none_over_no_connection(cls, load: RequestLoad | BulkLoad | None) -> RequestLoad | BulkLoad | None:
        """A load over no connection is none: so a factor of a grid, or a case, can leave it out."""
        return None if load is not None and load.connections == 0 else load

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The tools to run; none by default."""
        return () if self.tools == "none" else tuple(self.tools.split("+"))

    @property
    def connections(self) -> int:
        """Lasting TCP connections to the guest, over all clients."""
        loads = (self.request_response, self.download, self.upload)
        return self.count * sum(load.connections for load in loads if load is not None)


Tracking = Literal["auto", "userfaultfd-wp", "soft-dirty", "comparison"]
ROUNDLESS = ("stop-and-copy", "post-copy")  # modes that send no pages while the guest runs at the source


def _read_policy(value: Any) -> Any:
    return POLICIES.read(value)


class MigrationSettings(Section):
    """How the guest moves. `policy` is None for the modes that have no rounds to decide about.

    The parameters of policies are fields as well, added below; None where a policy's own default holds.
    """

    mode: Literal["stop-and-copy", "pre-copy", "post-copy", "hybrid"] = "pre-copy"
    policy: Annotated[str | None, BeforeValidator(_read_policy)] = DEFAULT_POLICY
    announce: Announcement = AUTO  # joined by +; auto: what a kernel would send for each address that the guest has
    announce_at: AnnouncementTimes = "0 ms"  # after the gate at the destination opened, joined by commas; early: before
    gap: Literal["drop", "hold"] = "drop"
    hold_limit_bytes: SizeBytes = Field(alias="hold_limit", default=32 * _MIB, gt=0, le=1 << 30)
    hold_time_ns: DurationNs = Field(alias="hold_time", default=2 * _S, gt=0)
    zero_window: bool = False  # of hold: what is held is acknowledged meanwhile, with a window of zero
    rate_limit_bit_per_s: BitRate | None = Field(alias="rate_limit", default=None, ge=_SLOWEST_STREAM_BIT_PER_S)
    tracking: Tracking = "auto"  # how the pages written in a round are found; auto: the best that works here
    codec: Literal["none", "zero", "zstd", "xor", "auto"] = "none"  # how pages are coded on their way
    verify: bool = False

    @property
    def announced_after_ns(self) -> tuple[int, ...]:
        """How long after the gate has opened the guest is announced, each time."""
        return tuple(parse(each, DURATION) for each in self._announced_at if each != EARLY)

    @property
    def announced_early(self) -> bool:
        """Whether it is announced before the gate is open."""
        return EARLY in self._announced_at

    @property
    def _announced_at(self) -> list[str]:
        return [each.strip() for each in self.announce_at.split(",")]

    @property
    def has_rounds(self) -> bool:
        """Whether pages are sent while the guest runs at the source."""
        return self.mode not in ROUNDLESS

    @property
    def has_later_pages(self) -> bool:
        """Whether pages are sent while the guest runs at the destination."""
        return self.mode in {"post-copy", "hybrid"}

    @property
    def policy_parameters(self) -> dict[str, int]:
        """What the policy is made with, by the parameters' names: those that are known."""
        given = {name: getattr(self, name) for name in POLICIES.names}
        return {name: value for name, value in given.items() if value is not None}


POLICIES = Policies(taken=[info.alias or name for name, info in MigrationSettings.model_fields.items()])

if TYPE_CHECKING:
    _MigrationSettings = MigrationSettings
else:
    _MigrationSettings = create_model("MigrationSettings", __base__=MigrationSettings, **POLICIES.fields())


class PhasesSettings(Section):
    """How long load runs before the migration, and after it."""

    warm_up_ns: DurationNs = Field(alias="warm_up", default=2 * _S, gt=0)
    cool_down_ns: DurationNs = Field(alias="cool_down", default=2 * _S, gt=0)


class Settings(Section):
    """Everything a bench needs to know to perform one trial."""

    fabric: FabricSettings = FabricSettings()
    guest: GuestSettings = GuestSettings()
    clients: ClientsSettings = ClientsSettings()
    migration: _MigrationSettings = _MigrationSettings()
    phases: PhasesSettings = PhasesSettings()

    @property
    def foreseen_s(self) -> int:
        """A guess, rather too long, at how long load runs, for a tool that must be told so at its start.

        The migration sends all memory twice, at what the links or the plan allow, and takes 10 s more.
        """
        limits = (self.fabric.link.rate_bit_per_s, self.migration.rate_limit_bit_per_s)
        rate_bit_per_s = min(limit for limit in limits if limit is not None)
        sending_ns = 2 * 8 * _S * self.guest.memory_bytes // rate_bit_per_s
        return math.ceil((self.phases.warm_up_ns + sending_ns + 10 * _S + self.phases.cool_down_ns) / _S)


def fit_policy(migration: MigrationSettings) -> MigrationSettings:
    """Fill in the parameters that the policy takes, and drop those of other policies (of all, without rounds)."""
    policy = migration.policy if migration.has_rounds else None
    taken = {} if policy is None else POLICIES.defaults(policy)
    fitted: dict[str, int | None] = dict.fromkeys(POLICIES.names)
    given = {name: value for name, value in migration.policy_parameters.items() if name in taken}
    return migration.model_copy(update={"policy": policy, **fitted, **taken, **given})


def default_announcement(ip: Literal["ipv4", "ipv6"]) -> str:
    """What announces a guest: a frame for each address that it has."""
    return "garp+na" if ip == "ipv6" else "garp"


def fit_announcement(migration: MigrationSettings, clients: ClientsSettings) -> MigrationSettings:
    """Say what "auto" comes to."""
    if migration.announce != AUTO:
        return migration
    return migration.model_copy(update={"announce": default_announcement(clients.ip)})
