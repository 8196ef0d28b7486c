"""Alerts: everything that went wrong in a run, or that a reader must know before believing a number.

Nothing here judges the claim under test; alerts judge the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pandas as pd

from unnoticed.results.cells import Cell
from unnoticed.results.frames import records
from unnoticed.results.quantities import format_ns
from unnoticed.results.run import Run
from unnoticed.results.statistics import ENOUGH_REPEATS
from unnoticed.results.store import Tables

WATERFALL_TOLERANCE_NS = 1_000_000


class Severity(Enum):
    FAILURE = "failure"  # a trial failed, or its record cannot be trusted
    WARNING = "warning"  # the numbers stand, but less firmly


@dataclass(frozen=True, kw_only=True)
class Alert:
    """`headline` is one short sentence; `details` name the trials, one line each."""

    severity: Severity
    headline: str
    details: tuple[str, ...] = ()


def find(
    run: Run, tables: Tables, cells: Sequence[Cell], *, resolution_ns: int | None = None, at_once: int = 1
) -> list[Alert]:
    """All alerts of a run, failures first.

    `resolution_ns`: the shortest outage that can be told from none, where the machine was calibrated; `at_once`: how
    many trials were performed at the same time.
    """
    trials = tables.trials
    found = [
        *_missing_trials(run, trials),
        *_outcomes(trials),
        *_integrity(trials, tables.flows),
        *_records(trials, tables),
        *_waterfalls(tables),
        *_disturbed(trials),
        *_disturbed_by_one_another(trials, at_once),
        *_below_resolution(trials, resolution_ns),
        *_few_repeats(cells),
        *_notes(trials),
    ]
    return sorted(found, key=lambda alert: alert.severity is not Severity.FAILURE)


def _alert(severity: Severity, rows: pd.DataFrame, headline: str, details: Sequence[str] = ()) -> list[Alert]:
    """One alert about the trials in `rows`, none where there are none. `{trials}` stands for their number."""
    if not len(rows):
        return []
    count = "1 trial" if len(rows) == 1 else f"{len(rows)} trials"
    named = tuple(details) or tuple(str(trial_id) for trial_id in rows["trial_id"])
    return [Alert(severity=severity, headline=headline.format(trials=count), details=named)]


def _described(rows: pd.DataFrame, column: str) -> list[str]:
    return [
        f"{trial_id}{f' ({case})' if case else ''}: {'no reason given' if pd.isna(text) or not text else text}"
        for trial_id, case, text in zip(rows["trial_id"], rows["case"], rows[column], strict=True)
    ]


def _is(values: pd.Series[Any], truth: bool) -> pd.Series[bool]:
    """Where a nullable flag has this value; NA is neither."""
    return (values == truth).fillna(False).astype(bool)


def _missing_trials(run: Run, trials: pd.DataFrame) -> list[Alert]:
    missing = [trial_id for trial_id in run.planned if trial_id not in set(trials["trial_id"])]
    if not missing:
        return []
    headline = f"{len(missing)} of {len(run.planned)} planned trials have no record: the run is not complete."
    return [Alert(severity=Severity.FAILURE, headline=headline, details=tuple(missing))]


def _outcomes(trials: pd.DataFrame) -> list[Alert]:
    failed = trials[trials["outcome"] == "failed"]
    lost = trials[trials["outcome"] == "lost"]
    unexpected = trials[(trials["outcome"] != "failed") & (trials["outcome"] != trials["expected"])]
    ended = [f"{row.trial_id}: {row.outcome}, {row.expected} was expected" for row in records(unexpected)]
    return [
        *_alert(Severity.FAILURE, failed, "{trials} failed.", _described(failed, "reason")),
        *_alert(
            Severity.WARNING,
            lost,
            "In {trials} the guest was lost: it had gone to the destination before all of its memory had, and the rest "
            "never came. Its connections, and what was under way in them, went with it.",
            _described(lost, "reason"),
        ),
        *_alert(Severity.FAILURE, unexpected, "{trials} did not end as the plan expects.", ended),
    ]


def _integrity(trials: pd.DataFrame, flows: pd.DataFrame) -> list[Alert]:
    completed = trials[trials["outcome"] == "completed"]
    survived = trials[trials["outcome"] != "lost"]  # what a lost guest takes with it is said there
    broken = survived[_is(survived["integrity"], False)]
    bad = flows[_is(flows["integrity"], False) & flows["trial_id"].isin(broken["trial_id"])]
    lines = [f"{row.trial_id}: {row.workload} of {row.client}, {row.local} to {row.remote}" for row in records(bad)]
    alone = [trial_id for trial_id in broken["trial_id"] if trial_id not in set(bad["trial_id"])]
    lines += [f"{trial_id}: RAM, or a flow that is not in the table" for trial_id in alone]
    unchecked = completed[completed["integrity"].isna()]
    reset = survived[(survived["resets"].fillna(0) > 0)]
    return [
        *_alert(Severity.FAILURE, broken, "In {trials} data was lost, repeated or changed.", lines),
        *_alert(Severity.FAILURE, unchecked, "In {trials} integrity could not be checked."),
        *_alert(Severity.FAILURE, reset, "In {trials} connections were reset."),
    ]


def _records(trials: pd.DataFrame, tables: Tables) -> list[Alert]:
    incomplete = trials[_is(trials["captures_complete"], False)]
    points = tables.captures[_is(tables.captures["complete"], False)]
    lost = [
        f"{row.trial_id}, {row.point}: {row.frames} frames in the file of {row.packets} counted, {row.drops} dropped"
        for row in records(points)
    ]
    # The counters of a lost guest's sockets cannot be read.
    disagreeing = trials[_is(trials["kernel_agrees"], False) & (trials["outcome"] != "lost")]
    known = tables.flows[tables.flows["trial_id"].isin(disagreeing["trial_id"])]
    known = known.dropna(subset=["retransmits", "kernel_retransmits"])
    wrong = known[known["retransmits"] != known["kernel_retransmits"]]
    differing = [
        f"{row.trial_id}, {row.workload} of {row.client}, sent by the {row.sender}: {row.retransmits} in the capture, "
        f"{row.kernel_retransmits} counted by the kernel"
        for row in records(wrong)
    ]
    # Every trial that ran at all must have been checked: silence is no agreement.
    ran = trials[trials["outcome"] != "failed"]
    return [
        *_alert(Severity.FAILURE, incomplete, "In {trials} a capture is incomplete: frames are missing.", lost),
        *_alert(Severity.FAILURE, ran[ran["captures_complete"].isna()], "In {trials} captures could not be checked."),
        *_alert(
            Severity.FAILURE,
            disagreeing,
            "In {trials} the kernel counted other retransmissions than we did.",
            differing,
        ),
        *_alert(
            Severity.WARNING,
            ran[ran["kernel_agrees"].isna()],
            "In {trials} retransmissions could not be checked against the kernel's count.",
        ),
    ]


_WATERFALL = ["trial_id", "client", "estimator"]  # what one waterfall is of


def waterfall_errors(tables: Tables) -> pd.DataFrame:
    """How far each waterfall is from what it explains: trial_id, client, estimator, error_ns (NA: no outage)."""
    parts = tables.waterfall.assign(length_ns=tables.waterfall["end_ns"] - tables.waterfall["start_ns"])
    sums = parts.groupby(_WATERFALL, sort=False)["length_ns"].sum().reset_index()
    joined = sums.merge(tables.outages[[*_WATERFALL, "outage_ns"]], on=_WATERFALL, how="left")
    return joined.assign(error_ns=joined["length_ns"] - joined["outage_ns"])[[*_WATERFALL, "error_ns"]]


def _waterfalls(tables: Tables) -> list[Alert]:
    errors = waterfall_errors(tables).dropna()
    wrong = errors[errors["error_ns"].abs() > WATERFALL_TOLERANCE_NS]
    lines = [f"{row.trial_id}, {row.client}: off by {format_ns(row.error_ns)}" for row in records(wrong)]
    parts = tables.waterfall.sort_values([*_WATERFALL, "order"], kind="stable")
    before = parts.groupby(_WATERFALL, sort=False)["end_ns"].shift()
    broken = parts[(parts["end_ns"] < parts["start_ns"]) | (before.notna() & (parts["start_ns"] != before))]
    gaps = [f"{row.trial_id}, {row.client}: {row.part}" for row in records(broken)]
    return [
        *_alert(
            Severity.FAILURE,
            wrong.drop_duplicates("trial_id"),
            "In {trials} the waterfall does not sum to the perceived downtime.",
            lines,
        ),
        *_alert(
            Severity.FAILURE,
            broken.drop_duplicates("trial_id"),
            "In {trials} the parts of the waterfall do not follow one another.",
            gaps,
        ),
    ]


def _disturbed(trials: pd.DataFrame) -> list[Alert]:
    disturbed = trials[_is(trials["disturbed"], True)]
    lines = [
        f"{row.trial_id}: " + ("length unknown" if pd.isna(row.host_stall_ns) else format_ns(row.host_stall_ns))
        for row in records(disturbed)
    ]
    ran = trials[trials["outcome"] == "completed"]
    return [
        *_alert(
            Severity.WARNING,
            disturbed,
            "In {trials} this machine itself stalled in the cutover; such a trial counts in no verdict, median or sum.",
            lines,
        ),
        *_alert(
            Severity.WARNING,
            ran[ran["disturbed"].isna()],
            "In {trials} it is not known whether the machine stalled.",
        ),
    ]


def _disturbed_by_one_another(trials: pd.DataFrame, at_once: int) -> list[Alert]:
    """Where trials share the machine and it stalls, what stalled it may have been another trial."""
    if at_once == 1:
        return []
    headline = (
        f"{at_once} trials at a time shared this machine, and in {{trials}} the control probe saw it stall: they may "
        "have disturbed one another; perform fewer at once (--parallel)."
    )
    return _alert(Severity.WARNING, trials[_is(trials["disturbed"], True)], headline)


def _below_resolution(trials: pd.DataFrame, resolution_ns: int | None) -> list[Alert]:
    if resolution_ns is None:
        return []
    moved = trials[trials["outcome"] == "completed"].dropna(subset=["perceived_ns"])
    small = moved[moved["perceived_ns"] < resolution_ns]
    lines = [f"{row.trial_id}: {format_ns(row.perceived_ns)}" for row in records(small)]
    headline = (
        f"In {{trials}} the perceived downtime is below {format_ns(resolution_ns)}, which this machine could not tell "
        "from none when it was calibrated."
    )
    return _alert(Severity.WARNING, small, headline, lines)


def _few_repeats(cells: Sequence[Cell]) -> list[Alert]:
    fewest = min((len(cell.counted) for cell in cells), default=ENOUGH_REPEATS)
    if fewest >= ENOUGH_REPEATS:
        return []
    match fewest:
        case 0:
            without = [f"“{cell.label}”" for cell in cells if not len(cell.counted) and cell.label]
            which = f" of {', '.join(without)}" if without else ""
            said = f"No trial{which} counts, so there are no figures (unnoticed doctor says how noisy this is)."
        case 1:
            said = "Only 1 trial of a setting: no interval can be given for it."
        case _:
            said = f"Only {fewest} trials of a setting: intervals are narrower than they should be."
    headline = f"{said} Run at least {ENOUGH_REPEATS} repeats before quoting a figure."
    return [Alert(severity=Severity.WARNING, headline=headline)]


def _notes(trials: pd.DataFrame) -> list[Alert]:
    noted = trials[trials["notes"].fillna("") != ""]
    return _alert(Severity.WARNING, noted, "The analysis of {trials} left a note.", _described(noted, "notes"))
