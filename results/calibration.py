"""A calibration: how far each estimator is from outages of known length on this machine, and what that permits to say.

`calibration.parquet` has one row per injected outage (and per second in which nothing was injected) and estimator:

kind            cut, cut-to-guest, cut-from-guest, freeze, loss, reordering, zero-window, quiet
share           of frames dropped, for loss, or late, for reordering
asked_ns        the length that was asked for (of loss: how long it went on); 0 for quiet
truth_ns        the length it had, by the clock of who caused it; of loss: probes dropped, times the period; for what
                looks at probes, of reordering and a zero window: 0, for overtaken-frames: probes late, times the period
uncertainty_ns  how far truth_ns may be off, either way
begin_ns        when it began, or the second did
estimator       as in the table `outages`
outage_ns       what the estimator made of it
low_ns, high_ns its bounds; no high_ns: it gives none
stalled_ns      how long this machine itself stood still meanwhile, as its own means found: such a row is excluded
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unnoticed.errors import RecordError

CALIBRATION_VERSION = 1
FOLDER = Path("results/calibrations")
COLUMNS = {
    "kind": "string",
    "share": "Float64",
    "asked_ns": "Int64",
    "truth_ns": "Int64",
    "uncertainty_ns": "Int64",
    "begin_ns": "Int64",
    "estimator": "string",
    "outage_ns": "Int64",
    "low_ns": "Int64",
    "high_ns": "Int64",
    "stalled_ns": "Int64",
}

ESTIMATOR = "time-stamp"  # what reports call perceived downtime
PERIOD_NS = 1_000_000
CUT_BAR_NS = PERIOD_NS + 500_000  # a period, within which nobody looks, and what stamps may be off
FREEZE_BAR_NS = 2_000_000
ALARM_NS = 5_000_000
CUTS_NS = (5_000_000, 500_000_000)  # the cuts that the bar is for
_STALLED_NS = 500_000  # so much of a stall and a row says nothing of the estimator
_CUT_KINDS = ("cut", "cut-to-guest", "cut-from-guest")


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One estimator on outages of one kind. Errors in ns, estimate less truth; shares 0 to 1; None: nothing counted."""

    estimator: str
    kind: str
    rows: int
    excluded: int
    median_error_ns: int | None
    p95_error_ns: int | None  # of its absolute value
    worst_error_ns: int | None  # the one furthest off, with its sign
    inside: float | None  # the share of truths within [low, high]; None where it gives no bounds


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """What an estimator finds where there is nothing to be found."""

    estimator: str
    seconds: int
    excluded: int
    longest_ns: int | None
    p99_ns: int | None
    alarms: int  # seconds with more than ALARM_NS


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One thing that this machine must be able to do. `met` is None where nothing was measured that could say."""

    text: str
    figure: str
    met: bool | None


@dataclass(frozen=True)
class Calibration:
    """A table of a calibration; everything else follows from it."""

    table: pd.DataFrame

    @property
    def calm(self) -> pd.DataFrame:
        """The rows that count: the machine did not stand still."""
        return self.table[~_stalled(self.table)]

    def accuracy(self) -> list[Accuracy]:
        """Estimator by estimator, for each kind of outage but quiet."""
        rows = self.table[self.table["kind"] != "quiet"]
        return [_accuracy(str(name), str(kind), group) for (kind, name), group in rows.groupby(["kind", "estimator"])]

    def quiet(self) -> list[Quiet]:
        """Estimator by estimator, what was found in the seconds of quiet."""
        rows = self.table[self.table["kind"] == "quiet"]
        return [_quiet(str(name), group) for name, group in rows.groupby("estimator")]

    @property
    def resolution_ns(self) -> int | None:
        """An outage shorter than this cannot be told from none: the longest reading of the estimator in quiet.

        And not less than the error that 95 % of cuts stay within. None where one of the two was not measured.
        """
        longest = next((each.longest_ns for each in self.quiet() if each.estimator == ESTIMATOR), None)
        return None if longest is None or self.error_ns is None else max(longest, self.error_ns)

    @property
    def error_ns(self) -> int | None:
        """What 95 % of the cuts' errors stay within."""
        return _p95(_errors(self._counted(_CUT_KINDS)))

    def bars(self) -> list[Bar]:
        """The bars that a machine must clear for results in milliseconds to be worth something."""
        cuts = self._counted(("cut",))
        cuts = cuts[cuts["asked_ns"].between(*CUTS_NS)]
        near = _errors(cuts)
        frozen = _errors(self._counted(("freeze",)))
        bounded = self.calm[(self.calm["estimator"] == ESTIMATOR) & ~self.calm["kind"].isin(["quiet", "loss"])]
        inside = _inside(bounded)
        alarm = next((each for each in self.quiet() if each.estimator == ESTIMATOR), None)
        share = float(np.mean(np.abs(near) <= CUT_BAR_NS)) if len(near) else None
        median = None if not len(frozen) else float(np.median(np.abs(frozen)))
        return [
            Bar(
                text="Of cuts of 5 to 500 ms, at least 95 % are measured within 1.5 ms.",
                figure=f"{share:.1%} of {len(near)}" if share is not None else self._none_of("cut"),
                met=None if share is None else share >= 0.95,
            ),
            Bar(
                text="Freezes are measured within 2 ms at the median.",
                figure=f"{median / 1e6:.2f} ms, {len(frozen)} freezes"
                if median is not None
                else self._none_of("freeze"),
                met=None if median is None else median <= FREEZE_BAR_NS,
            ),
            Bar(
                text="Every truth lies within the bounds that were given.",
                figure=f"{inside.sum()} of {len(inside)}" if len(inside) else self._none_of(*_CUT_KINDS, "freeze"),
                met=None if not len(inside) else bool(inside.all()),
            ),
            Bar(
                text="With nothing injected, nothing above 5 ms is found.",
                figure=_found_in_quiet(alarm),
                met=None if alarm is None or alarm.longest_ns is None else alarm.alarms == 0,
            ),
        ]

    def summary(self) -> dict[str, Any]:
        """For reports and programs."""
        return {
            "version": CALIBRATION_VERSION,
            "estimator": ESTIMATOR,
            "error_ns": self.error_ns,
            "resolution_ns": self.resolution_ns,
            "bars": [asdict(bar) for bar in self.bars()],
            "accuracy": [asdict(each) for each in self.accuracy()],
            "quiet": [asdict(each) for each in self.quiet()],
        }

    def _counted(self, kinds: Sequence[str]) -> pd.DataFrame:
        calm = self.calm
        return calm[(calm["estimator"] == ESTIMATOR) & calm["kind"].isin(list(kinds))]

    def _none_of(self, *kinds: str) -> str:
        """Why there is nothing to be said of outages of these kinds."""
        made = int(((self.table["estimator"] == ESTIMATOR) & self.table["kind"].isin(kinds)).sum())
        return f"all {made} left out, because the machine stalled" if made else "none was made"


def _found_in_quiet(quiet: Quiet | None) -> str:
    if quiet is None:
        return "no second was watched"
    if quiet.longest_ns is None:
        return f"all {quiet.seconds} s left out, because the machine stalled"
    left_out = f", {quiet.excluded} left out because the machine stalled" if quiet.excluded else ""
    return f"at most {quiet.longest_ns / 1e6:.2f} ms in {quiet.seconds - quiet.excluded} s{left_out}"


def _stalled(table: pd.DataFrame) -> pd.Series[bool]:
    """Which rows say nothing of the estimator. Counting lost frames does not depend on when they were sent."""
    return (table["stalled_ns"] >= _STALLED_NS) & (table["kind"] != "loss")


def _errors(rows: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    return (rows["outage_ns"] - rows["truth_ns"]).to_numpy(dtype=np.int64)


def _p95(errors: np.ndarray[Any, np.dtype[np.int64]]) -> int | None:
    return round(float(np.quantile(np.abs(errors), 0.95))) if len(errors) else None


def _inside(rows: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each truth can lie within the bounds, where both are given; the truth is a short interval itself."""
    bounded = rows.dropna(subset=["low_ns", "high_ns"])
    low = bounded["low_ns"] <= bounded["truth_ns"] + bounded["uncertainty_ns"]
    high = bounded["high_ns"] >= bounded["truth_ns"] - bounded["uncertainty_ns"]
    return (low & high).to_numpy(dtype=np.bool_)


def _accuracy(estimator: str, kind: str, group: pd.DataFrame) -> Accuracy:
    calm = group[~_stalled(group)]
    errors, inside = _errors(calm), _inside(calm)
    return Accuracy(
        estimator=estimator,
        kind=kind,
        rows=len(group),
        excluded=len(group) - len(calm),
        median_error_ns=round(float(np.median(errors))) if len(errors) else None,
        p95_error_ns=_p95(errors),
        worst_error_ns=int(errors[np.abs(errors).argmax()]) if len(errors) else None,
        inside=float(inside.mean()) if len(inside) else None,
    )


def _quiet(estimator: str, group: pd.DataFrame) -> Quiet:
    calm = group[~_stalled(group)]["outage_ns"].to_numpy(dtype=np.int64)
    return Quiet(
        estimator=estimator,
        seconds=len(group),
        excluded=len(group) - len(calm),
        longest_ns=int(calm.max()) if len(calm) else None,
        p99_ns=round(float(np.quantile(calm, 0.99))) if len(calm) else None,
        alarms=int((calm > ALARM_NS).sum()),
    )


# -- the folder ------------------------------------------------------------------------------------------------------


def fingerprint(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for a calibration to speak for a run: the machine, its kernel, and the interpreter."""
    return {name: environment.get(name) for name in ("kernel", "cpu", "memory_bytes", "clocksource", "python")}


def write(folder: Path, calibration: Calibration, environment: Mapping[str, Any]) -> None:
    """Store a calibration. calibration.json comes last: with it the folder is complete."""
    calibration.table.to_parquet(folder / "calibration.parquet", index=False)
    document = {**calibration.summary(), "taken_utc": environment.get("taken_utc"), "environment": dict(environment)}
    (folder / "calibration.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[Calibration, dict[str, Any]]:
    """A stored calibration: its table, and its calibration.json. Raises RecordError."""
    try:
        document = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(folder / "calibration.parquet")
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder} holds no calibration that can be read ({error}).") from error
    if document.get("version") != CALIBRATION_VERSION:
        raise RecordError(f"{folder}: version {document.get('version')!r}; this release reads {CALIBRATION_VERSION}.")
    return Calibration(table.astype(COLUMNS)), document


def newest(environment: Mapping[str, Any], *, folder: Path = FOLDER) -> dict[str, Any] | None:
    """What the newest calibration of a machine like this one has to say to a report; None where there is none."""
    wanted = fingerprint(environment)
    for path in sorted(folder.glob("*/calibration.json"), reverse=True):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if document.get("version") == CALIBRATION_VERSION and fingerprint(document["environment"]) == wanted:
            return {name: document[name] for name in ("taken_utc", "estimator", "error_ns", "resolution_ns")}
    return None
