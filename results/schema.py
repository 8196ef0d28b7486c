"""The tables that a run leaves, as data: each column's name, type, unit and meaning.

Every table has `trial_id`. All times are CLOCK_MONOTONIC in integer nanoseconds. A missing number is pandas NA, never
0: dtypes are the nullable ones. The trials table also holds one column for each factor of the plan, named as in the
plan (`guest.dirty_rate`): a column with a dot in its name is a factor.

Versions:
1  first version.
2  waterfall: a column `estimator`, since the slowest request has a waterfall too.
3  trials: columns `slowest_request_ns` and `slowest_connect_ns`.
4  trials: a column `tracker`.
5  trials: a column `unfinished`.
6  a table `stalls`.
7  trials: columns `rounds_retransmits`, `after_retransmits`, `held_frames` and `held_refused`.
8  timeline: a series for each direction, and the migration's as the destination received it.
9  a table `links`.
10 rounds: columns `rate_limit_bit_per_s`, `throttle` and `throttled_ns`.
11 flows: columns `harmless_blackout_ns` and `predicted_retransmit`.
12 flows: columns `timeouts_held`, `lost` and `overtaken`; captures: `retransmits` and `kernel_retransmits`.
13 rounds: a column `wire_bytes`; trials: a column `codec`; a table `encodings`.
14 a table `brownout`, and of it in trials: `baseline_...` and `brownout_...`.
15 a table `faults`; trials: `catch_up_ns`, `faults`, `fault_p50_ns`, `fault_p99_ns`, `fault_max_ns`, `pushed_bytes`,
   `demanded_bytes`, and the outcome `lost`.
16 trials: a column `held_answers`.
17 retransmits: a phase `push`; trials: a column `push_retransmits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import pandas as pd

from unnoticed.errors import RecordError

SCHEMA_VERSION = 17

Dtype = Literal["string", "Int64", "Float64", "boolean"]

OUTCOMES = ("completed", "gave-up", "lost", "failed")
CODECS = ("none", "zero", "zstd", "xor", "auto")
ENCODINGS = ("none", "zero", "zstd", "xor")
TRACKERS = ("userfaultfd-wp", "soft-dirty", "comparison", "none")
PHASES = ("rounds", "cutover", "push", "after", "other")
SENDERS = ("client", "guest")
BROWNOUT_SPANS = ("warm-up", "rounds", "after")
SERIES = ("received_bit_per_s", "sent_bit_per_s")
NEW_CONNECTION = "new-connection"  # the longest time until a connection that was being opened was answered
TIME_STAMP = "time-stamp"  # the estimator (RFC 6201) that perceived_ns and the first waterfall follow
REQUEST_LATENCY = "request-latency"  # the longest wait for an answer; its waterfall is the second


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. `required` columns hold no NA; `values`, where given, are all that may occur."""

    name: str
    dtype: Dtype
    unit: str = ""
    label: str = ""
    meaning: str = ""
    required: bool = False
    values: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What people call it: the label, or the name without its unit."""
        return self.label or self.name.removesuffix("_ns").replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table: what a row is, and the columns in their order."""

    name: str
    row: str
    columns: tuple[Column, ...]
    open_ended: bool = False  # columns with a dot in their name (factors) may be added

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


def _text(
    name: str, meaning: str = "", *, label: str = "", values: tuple[str, ...] = (), required: bool = False
) -> Column:
    return Column(name=name, dtype="string", label=label, meaning=meaning, values=values, required=required)


def _key(name: str, meaning: str = "", *, values: tuple[str, ...] = ()) -> Column:
    return _text(name, meaning, values=values, required=True)


def _time(name: str, meaning: str = "", *, label: str = "", required: bool = False) -> Column:
    return Column(name=name, dtype="Int64", unit="ns", label=label, meaning=meaning, required=required)


def _count(name: str, meaning: str = "", *, label: str = "", required: bool = False) -> Column:
    return Column(name=name, dtype="Int64", unit="count", label=label, meaning=meaning, required=required)


def _size(name: str, meaning: str = "", *, label: str = "") -> Column:
    return Column(name=name, dtype="Int64", unit="bytes", label=label, meaning=meaning)


def _number(name: str, unit: str, meaning: str = "", *, label: str = "") -> Column:
    return Column(name=name, dtype="Float64", unit=unit, label=label, meaning=meaning)


def _flag(name: str, meaning: str = "", *, label: str = "") -> Column:
    return Column(name=name, dtype="boolean", unit="yes/no", label=label, meaning=meaning)


TRIAL_ID = _key("trial_id", "the trial, as its folder is named")

TRIALS = Table(
    name="trials",
    row="one trial: one migration under one setting",
    open_ended=True,
    columns=(
        TRIAL_ID,
        _count("repeat", "which repeat of its setting, from 0", required=True),
        _text("case", "the case of the plan; empty where the plan has none", required=True),
        _text("expected", "the outcome that the plan expects", values=OUTCOMES[:3], required=True),
        _text("outcome", "how the migration ended", values=OUTCOMES, required=True),
        _text("reason", "why it gave up or failed, or the guest was lost"),
        _time("blackout_ns", "the guest ran nowhere: pause to resume, by the agents' clock", label="blackout"),
        _time(
            "total_ns",
            "from the order to migrate until the guest, and all of its memory, was at the destination",
            label="total migration time",
        ),
        _count("rounds", "pre-copy rounds sent, the last one included", label="number of rounds"),
        _size(
            "bytes_sent",
            "bytes of pages and state, and to find a post-copy's pace, sent from host to host",
            label="bytes sent",
        ),
        _text("tracker", "what found the pages written in each round", label="dirty tracking", values=TRACKERS),
        _text("codec", "how pages were coded on their way", values=CODECS),
        _time("rto_min_ns", "smallest retransmission timeout of the live connections", label="smallest TCP timeout"),
        _flag(
            "rounds_shrink",
            "every round after round 0 sent fewer pages than the one before",
            label="rounds that shrink",
        ),
        _time("perceived_ns", "worst client's outage, time-stamp estimator", label="perceived downtime"),
        _time("perceived_low_ns", "lower bound of perceived_ns", label="perceived downtime (lower bound)"),
        _time("perceived_high_ns", "upper bound of perceived_ns", label="perceived downtime (upper bound)"),
        _time(
            "slowest_request_ns",
            "longest wait for an answer over all clients, from when the request was due, around the cutover",
            label="slowest request",
        ),
        _time(
            "slowest_connect_ns",
            "longest time over all clients to open a connection and be answered, around the cutover",
            label="slowest new connection",
        ),
        _flag(
            "unfinished",
            "a client still waited when the trial was judged: perceived_ns, slowest_request_ns and slowest_connect_ns "
            "are lower bounds",
            label="trials with a wait that was not over",
        ),
        _count("retransmits", "segments sent again, all flows, both directions", label="retransmitted segments"),
        _count("client_retransmits", "segments that clients sent again", label="segments retransmitted by clients"),
        _count("guest_retransmits", "segments that the guest sent again", label="segments retransmitted by the guest"),
        _count(
            "worst_flow_retransmits",
            "most segments sent again by one flow",
            label="retransmitted segments of the worst flow",
        ),
        _count(
            "cutover_retransmits",
            "segments sent again from the pause (or since frames were held) until 1.5 s after the resume",
            label="segments retransmitted because of the cutover",
        ),
        _count(
            "worst_flow_cutover_retransmits",
            "the most of them by one flow",
            label="segments the worst flow retransmitted because of the cutover",
        ),
        _count(
            "rounds_retransmits",
            "segments sent again before the pause: the congestion of the page stream, not the cutover",
            label="segments retransmitted during the rounds",
        ),
        _count(
            "push_retransmits",
            "segments first sent to or by a guest that ran again, while its pages followed it: the same",
            label="segments retransmitted while pages followed",
        ),
        _count(
            "after_retransmits",
            "segments sent again later than that after the resume",
            label="segments retransmitted after the cutover",
        ),
        _count(
            "held_frames",
            "frames that waited at the destination until the guest ran there; empty where frames are dropped",
            label="frames held",
        ),
        _count("held_refused", "frames that found no room there", label="frames that could not be held"),
        _count("held_answers", "acknowledgements with a window of zero meanwhile", label="answers to held frames"),
        _time(
            "catch_up_ns",
            "the guest ran, but not all of its memory was there yet: from its resume until the last page was in place",
            label="time until the last page was there",
        ),
        _count("faults", "pages that the guest had to wait for", label="pages waited for"),
        _time("fault_p50_ns", "how long it waited for a page: median", label="wait for a page (median)"),
        _time("fault_p99_ns", "the same: 99th percentile", label="wait for a page (99th percentile)"),
        _time("fault_max_ns", "the same: the longest", label="longest wait for a page"),
        _size("pushed_bytes", "memory that came after the guest unasked", label="memory pushed"),
        _size("demanded_bytes", "memory that came after the guest on demand", label="memory sent on demand"),
        _count("resets", "connections that were reset", label="connections reset"),
        _time(
            "baseline_request_median_ns",
            "median wait for an answer before the migration, from when the request was due",
            label="usual request",
        ),
        _time(
            "baseline_request_p99_ns",
            "99th percentile of the wait for an answer before the migration",
            label="slow request before the migration (99th percentile)",
        ),
        _time(
            "brownout_request_median_ns",
            "median wait for an answer while pages were tracked and sent and the guest ran",
            label="usual request during the migration",
        ),
        _time(
            "brownout_request_p99_ns",
            "99th percentile of the wait for an answer while pages were tracked and sent and the guest ran",
            label="slow request during the migration (99th percentile)",
        ),
        _number(
            "baseline_dirty_pages_per_s",
            "1/s",
            "pages that the guest's dirtier wrote per second before the migration",
            label="dirtier's pace before the migration",
        ),
        _number(
            "brownout_dirty_pages_per_s",
            "1/s",
            "pages that it wrote per second while pages were tracked and sent and the guest ran",
            label="dirtier's pace during the migration",
        ),
        _number(
            "brownout_skipped_pages_per_s",
            "1/s",
            "pages per second that it left out meanwhile, since it could not keep up",
            label="pages that the dirtier left out during the migration",
        ),
        _number(
            "brownout_dirty_share",
            "share",
            "brownout_dirty_pages_per_s over baseline_dirty_pages_per_s",
            label="dirtier's pace during the migration, of that before",
        ),
        _time(
            "host_stall_ns",
            "longest stall of this machine seen by the control probe",
            label="stall of the machine itself",
        ),
        _flag("integrity", "no byte of any flow, and no page of RAM, was lost, repeated or changed", label="integrity"),
        _flag("captures_complete", "every capture holds every frame", label="complete captures"),
        _flag(
            "kernel_agrees",
            "retransmissions equal the kernel's own count for every flow",
            label="agreement with the kernel",
        ),
        _time("start_ns", "the migration was ordered"),
        _time("paused_ns", "the guest was paused at the source"),
        _time("resumed_ns", "the guest ran at the destination"),
        _time("end_ns", "the migration was over"),
        _flag("disturbed", "the machine itself stalled during the cutover", label="disturbed trials"),
        _text("notes", "whatever else the analysis has to say"),
    ),
)

TABLES: tuple[Table, ...] = (
    TRIALS,
    Table(
        name="rounds",
        row="one round of pre-copy",
        columns=(
            TRIAL_ID,
            _text("migration", "the migration within the trial"),
            _count("round", "from 0, which sends all of RAM", required=True),
            _time("start_ns"),
            _time("duration_ns"),
            _count("pages", "pages sent"),
            _size("bytes", "bytes of these pages"),
            _size("wire_bytes", "bytes that were sent for them, frames of the protocol included"),
            _count("dirty_pages", "found dirty at its end"),
            _number("dirty_pages_per_s", "1/s", "pages the guest dirtied per second meanwhile"),
            _number("bit_per_s", "bit/s", "rate of the pages' bytes, however few were sent for them"),
            _number("rate_limit_bit_per_s", "bit/s", "pace that the policy set; NA: as fast as could be"),
            _number("throttle", "1", "share of the time for which the policy had the guest kept from running"),
            _time("throttled_ns", "for how long it really was, in this round"),
        ),
    ),
    Table(
        name="encodings",
        row="the pages of one round, or those sent at last, that went in one encoding",
        columns=(
            TRIAL_ID,
            _text("migration", "the migration within the trial"),
            _count("round", "NA: those sent at last, while the guest stood still"),
            _key("encoding", "none: as they are", values=ENCODINGS),
            _count("pages"),
            _size("bytes", "bytes of these pages"),
            _size("wire_bytes", "bytes that were sent for them"),
        ),
    ),
    Table(
        name="steps",
        row="one step of a cutover",
        columns=(
            TRIAL_ID,
            _text("migration", "the migration within the trial"),
            _key("step", "its name"),
            _text("place", "a or b: the host that took it", required=True),
            _time("start_ns", required=True),
            _time("end_ns", required=True),
        ),
    ),
    Table(
        name="faults",
        row="one page that the guest waited for, since it ran before all of its memory had come",
        columns=(
            TRIAL_ID,
            _text("migration", "the migration within the trial"),
            _time("start_ns", "the destination was told of it", required=True),
            _time("latency_ns", "until the page was in place", required=True),
        ),
    ),
    Table(
        name="flows",
        row="one direction of one TCP connection",
        columns=(
            TRIAL_ID,
            _key("client"),
            _key("workload", "request, download, upload or connect"),
            _count("connection", "its number at that client"),
            _key("sender", "who sends in this direction", values=SENDERS),
            _key("local", "address:port of the sender"),
            _key("remote", "address:port of the receiver"),
            _count("segments", "data segments sent, retransmissions included"),
            _count("retransmits", "segments sent again, counted in the capture at the sender"),
            _count("rto", "of them: by the retransmission timer"),
            _count("fast", "of them: fast retransmissions"),
            _count("tlp", "of them: tail-loss probes"),
            _count("spurious", "of them: needless, as the receiver's DSACK says"),
            _count("kernel_retransmits", "the kernel's own count for the same flow (TCP_INFO)"),
            _time("harmless_blackout_ns", "up to such a blackout no timer of the client runs out, if no frame is lost"),
            _flag("predicted_retransmit", "the blackout was longer: a segment may be repeated though none is lost"),
            _count("timeouts_held", "retransmission timeouts for which nothing was sent: it was still in a queue here"),
            _count("lost", "frames that left its sender and never arrived, by the IP-ID"),
            _count("overtaken", "frames that arrived after one that had left later"),
            _time("stall_ns", "longest time without a delivered byte while bytes were due"),
            _size("bytes", "payload delivered"),
            _count("wrong_bytes", "bytes that were not what stands at their position"),
            _flag("integrity", "none lost, repeated or changed"),
            _text("detail"),
        ),
    ),
    Table(
        name="retransmits",
        row="one retransmitted segment",
        columns=(
            TRIAL_ID,
            _key("flow", "local>remote of its flow"),
            _key("sender", values=SENDERS),
            _time("time_ns", required=True),
            _count("sequence", "TCP sequence number"),
            _size("length", "payload"),
            _count("segments", "how many segments of one MSS it holds"),
            _text("type", "rto, fast, tlp or spurious"),
            _key("phase", values=PHASES),
        ),
    ),
    Table(
        name="outages",
        row="one client and one estimator",
        columns=(
            TRIAL_ID,
            _key("client"),
            _key("estimator"),
            _time("outage_ns"),
            _time("low_ns", "lower bound"),
            _time("high_ns", "upper bound"),
            _time("start_ns"),
            _time("end_ns"),
        ),
    ),
    Table(
        name="requests",
        row="one request",
        columns=(
            TRIAL_ID,
            _key("client"),
            _key("workload", "request or connect"),
            _count("connection"),
            _count("sequence"),
            _time("intended_ns", "when it was due", required=True),
            _time("sent_ns"),
            _time("answered_ns", "NA: never"),
            _flag("right", "the answer was the right one"),
        ),
    ),
    Table(
        name="brownout",
        row="one span of time in which the guest ran: before the migration, and while pages were tracked and sent",
        columns=(
            TRIAL_ID,
            _key(
                "span",
                "the second half of the warm-up; the rounds; of post-copy, after the resume until all pages had come",
                values=BROWNOUT_SPANS,
            ),
            _time("start_ns", required=True),
            _time("end_ns", required=True),
            _count("requests", "due and answered within it, of all clients"),
            _time("request_median_ns", "their median wait for an answer, from when they were due"),
            _time("request_p99_ns", "the 99th percentile of it"),
            _number("dirty_pages_per_s", "1/s", "pages that the guest's dirtier wrote"),
            _number("skipped_pages_per_s", "1/s", "pages that it left out, since it could not keep up"),
        ),
    ),
    Table(
        name="relearned",
        row="one switch that learned the guest's new port, or one neighbour that learned its new MAC",
        columns=(TRIAL_ID, _key("switch"), _text("port"), _time("time_ns", required=True), _text("cause")),
    ),
    Table(
        name="links",
        row="one change of a link that the plan's schedule asked for",
        columns=(
            TRIAL_ID,
            _key("link", "as the plan names it"),
            _key("change", "what it became: other values, cut, restored"),
            _text("moment", "when it was asked for"),
            _time("due_ns", "when that was", required=True),
            _time("start_ns", "the change began", required=True),
            _time("end_ns", "it was made, and read back", required=True),
        ),
    ),
    Table(
        name="waterfall",
        row="one part of what one client felt by one estimator; the parts are contiguous",
        columns=(
            TRIAL_ID,
            _key("client"),
            _key("estimator"),
            _count("order", "from 0", required=True),
            _key("part"),
            _time("start_ns", required=True),
            _time("end_ns", required=True),
        ),
    ),
    Table(
        name="timeline",
        row="one bin of one series",
        columns=(
            TRIAL_ID,
            _key("client", "the client, or `migration`"),
            _key(
                "series",
                "a direction: on the wire at the client; of the migration, at the destination's host",
                values=SERIES,
            ),
            _time("time_ns", "start of the bin", required=True),
            _number("value", ""),
        ),
    ),
    Table(
        name="stalls",
        row="one time for which this machine stood still, from the warm-up to the end of the cool-down",
        columns=(TRIAL_ID, _time("start_ns", required=True), _time("end_ns", required=True)),
    ),
    Table(
        name="captures",
        row="one capture",
        columns=(
            TRIAL_ID,
            _key("point", "where it was taken"),
            _count("frames", "in the file"),
            _count("packets", "that the kernel counted"),
            _count("drops", "that the kernel could not deliver"),
            _flag("complete", "frames = packets - drops, and no drops"),
            _count("retransmits", "segments sent again from that place, as captured"),
            _count("kernel_retransmits", "the same by the kernel's counter of the place's namespace (RetransSegs)"),
        ),
    ),
)

BY_NAME = {table.name: table for table in TABLES}


def empty(name: str) -> pd.DataFrame:
    """An empty frame of the named table, with the right columns and dtypes."""
    return pd.DataFrame({column.name: pd.Series([], dtype=column.dtype) for column in BY_NAME[name].columns})


def factors(trials: pd.DataFrame) -> list[str]:
    """The columns of a trials table that are factors of the plan, in their order."""
    return [str(name) for name in trials.columns if "." in str(name)]


def validate(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the table's dtypes and its order of columns.

    Raises RecordError with one sentence for each thing that is wrong: a missing or unknown column, a value of another
    kind, NA where a value must be, a word that the column does not know.
    """
    table = BY_NAME[name]
    known = {column.name for column in table.columns}
    problems = [f"column {column.name} is missing" for column in table.columns if column.name not in frame.columns]
    extra = [str(column) for column in frame.columns if column not in known]
    added = [column for column in extra if table.open_ended and "." in column]
    problems += [f"column {column} is not known" for column in extra if column not in added]
    columns: dict[str, pd.Series[Any]] = {}
    for column in table.columns:
        if column.name in frame.columns:
            try:
                columns[column.name] = _conform(frame[column.name], column)
            except (TypeError, ValueError) as error:
                problems.append(f"column {column.name}: {error}")
    for factor in added:
        columns[factor] = _factor(frame[factor])
    if problems:
        raise RecordError(f"Table {name}: {'; '.join(problems)}.")
    return pd.DataFrame(columns).reset_index(drop=True)


def _conform(values: pd.Series[Any], column: Column) -> pd.Series[Any]:
    if column.dtype == "string" and values.dtype != "string":
        strange = [value for value in values.dropna() if not isinstance(value, str)]
        if strange:
            raise TypeError(f"{strange[0]!r} is not a text")
    try:
        series = cast("pd.Series[Any]", values.astype(column.dtype))
    except (TypeError, ValueError) as error:
        raise TypeError(f"its values are not {column.dtype} ({error})") from error
    if column.required and bool(series.isna().any()):
        raise ValueError(f"{int(series.isna().sum())} of {len(series)} values are missing")
    if column.values:
        unknown = sorted(set(series.dropna().unique()) - set(column.values))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(column.values)}")
    return series


def _factor(values: pd.Series[Any]) -> pd.Series[Any]:
    """A factor keeps numbers as numbers; texts and mixtures become texts, as they are written in a plan."""
    present = list(values.dropna())
    if present and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present):
        return cast("pd.Series[Any]", values.astype("Float64"))
    texts = [None if pd.isna(value) else _written(value) for value in values]
    return pd.Series(texts, dtype="string")


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
