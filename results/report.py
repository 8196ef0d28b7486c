"""The report of a run: one HTML file with everything in it, made from the run's folder alone.

`Report` holds what the template shows as lazy properties, each computed once and only if the template asks for it;
the template alone decides on order and look. An undefined name in it is an error, not an empty place.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

import unnoticed
from unnoticed.results import alerts, glossary, grid, metrics, summaries, verdicts
from unnoticed.results.alerts import Alert, Severity
from unnoticed.results.cells import Cell, cells, counted, disturbed
from unnoticed.results.environment import flatten
from unnoticed.results.frames import floats
from unnoticed.results.grid import Grid
from unnoticed.results.plots import brownout, distribution, retransmits, rounds, timeline, waterfall
from unnoticed.results.plots import network as plan_of
from unnoticed.results.quantities import format_ns, format_quantity, marked, unbroken
from unnoticed.results.run import Run
from unnoticed.results.statistics import CONFIDENCE, ENOUGH_REPEATS
from unnoticed.results.store import RunFolder, Tables
from unnoticed.results.verdicts import Finding, Verdict

MAX_EXAMPLES = 12  # settings whose typical trial is drawn
MAX_NETWORKS = 6  # that are unlike one another
_SYMBOLS = {Finding.HOLDS: "✓", Finding.FAILS: "✗", Finding.UNKNOWN: "?"}


@dataclass(frozen=True)
class Example:
    """A typical trial of one setting: the one with the median blackout."""

    cell: Cell
    tables: Tables
    number: int  # keeps the ids of its pictures apart from those of other examples

    @property
    def trial_id(self) -> str:
        return str(self.tables.trials["trial_id"].iloc[0])

    @property
    def is_disturbed(self) -> bool:
        """Whether the machine stalled in its cutover: then it did in that of every trial of its setting."""
        return bool(disturbed(self.tables.trials).any())

    @property
    def words(self) -> str:
        """What this trial is among those of its setting."""
        count = len(self.cell.trials) if self.is_disturbed else len(self.cell.counted)
        if count > 1:
            return "a typical one"
        return "the only one" if len(self.cell.trials) == 1 else "the only one that counts"

    @cached_property
    def timeline(self) -> Markup:
        return Markup(timeline.draw(self.tables, name=f"timeline{self.number}"))

    @cached_property
    def waterfall(self) -> Markup | None:
        if not len(self.tables.waterfall):
            return None
        return Markup(waterfall.draw(self.tables, name=f"waterfall{self.number}"))

    @cached_property
    def hidden_clients(self) -> int:
        """How many clients the waterfall has no room for."""
        return max(0, int(self.tables.waterfall["client"].nunique()) - waterfall.MAX_CLIENTS)


@dataclass(frozen=True, kw_only=True)
class DrawnNetwork:
    """A network, and the settings that had it, where there are several."""

    settings: str
    picture: Markup
    about: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A verdict as it is shown: symbol, word, the figure and the bound it was held against."""

    verdict: Verdict
    symbol: str
    title: str
    figure: str
    bound: str

    @property
    def kind(self) -> str:
        """holds, fails or unknown: the class of its colour."""
        return self.verdict.finding.name.lower()


class Report:
    """Everything the template asks for."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    # The run

    @cached_property
    def run(self) -> Run:
        return self._folder.run()

    @cached_property
    def tables(self) -> Tables:
        return self._folder.load()

    @cached_property
    def title(self) -> str:
        return self.run.question or self.run.name

    @cached_property
    def cells(self) -> list[Cell]:
        return cells(self.tables.trials, self.run.cases)

    @cached_property
    def size(self) -> str:
        """How much was run, e.g. `20 trials of 4 settings`."""
        trials, settings = len(self.tables.trials), len(self.cells)
        said = f"{trials} {'trial' if trials == 1 else 'trials'}"
        return said + (f" of {settings} settings" if settings > 1 else "")

    @cached_property
    def tried(self) -> str:
        """How often, e.g. `each was tried 5 times`."""
        often = sorted({len(cell.trials) for cell in self.cells})
        if often == [1]:
            return "each was tried once"
        return f"each was tried {' to '.join(str(count) for count in dict.fromkeys((often[0], often[-1])))} times"

    version = unnoticed.__version__
    confidence = f"{CONFIDENCE:.0%}".replace("%", " %")
    enough_repeats = ENOUGH_REPEATS

    # Verdicts

    @cached_property
    def clauses(self) -> list[Shown]:
        return [self._shown(verdict) for verdict in self._judged if not verdict.clause.counter]

    @cached_property
    def counter_clauses(self) -> list[Shown]:
        return [self._shown(verdict) for verdict in self._judged if verdict.clause.counter]

    @cached_property
    def budgets(self) -> list[Shown]:
        return [self._shown(verdict) for verdict in verdicts.judge_all(self.run.budgets, self.tables.trials)]

    @cached_property
    def _judged(self) -> list[Verdict]:
        return verdicts.judge_all(self.run.clauses, self.tables.trials)

    @cached_property
    def answer(self) -> str:
        """The verdicts in one sentence."""
        groups = ((self.clauses, "clause"), (self.counter_clauses, "counter-case"), (self.budgets, "budget"))
        parts = [_count(shown, noun) for shown, noun in groups if shown]
        return "; ".join(parts) + "." if parts else "The plan puts nothing to the test: it has no clause and no budget."

    @staticmethod
    def _shown(verdict: Verdict) -> Shown:
        clause = verdict.clause
        metric, bound, figure = metrics.find(clause.metric), verdicts.bound_words(clause, unit=""), "?"
        title = clause.text or f"{clause.statistic} of {clause.metric}"
        if metric is not None:
            unit = verdicts.unit_of(clause, metric)
            bound = verdicts.bound_words(clause, unit=unit)
            title = clause.text or f"{verdicts.phrase(clause.statistic, metric)}: {bound}"
            if verdict.estimate is not None:
                figure = marked(format_quantity(verdict.estimate.value, unit), is_bound=verdict.is_bound)
        title = title[0].upper() + title[1:]
        return Shown(verdict=verdict, symbol=_SYMBOLS[verdict.finding], title=title, figure=figure, bound=bound)

    # What went wrong

    @cached_property
    def _alerts(self) -> list[Alert]:
        resolution_ns = self._calibration.get("resolution_ns")
        at_once = self._folder.environment().get("trials_at_once") or 1
        return alerts.find(self.run, self.tables, self.cells, resolution_ns=resolution_ns, at_once=at_once)

    @cached_property
    def _calibration(self) -> dict[str, Any]:
        """What the newest calibration of the machine said when the run began; empty where there was none."""
        found: dict[str, Any] = self._folder.environment().get("calibration") or {}
        return found

    @cached_property
    def accuracy(self) -> str:
        """How far a perceived downtime may be from the truth."""
        error_ns, resolution_ns = self._calibration.get("error_ns"), self._calibration.get("resolution_ns")
        if error_ns is None or resolution_ns is None:
            return (
                "How far these figures may be from the truth on this machine is not known: it was not calibrated "
                "(unnoticed calibrate)."
            )
        taken = str(self._calibration.get("taken_utc") or "")[:10]
        return (
            f"On this machine, when calibrated on {taken}, 95 % of known outages were measured to within "
            f"{format_ns(error_ns)}, and one below {format_ns(resolution_ns)} could not be told from none."
        )

    @cached_property
    def failures(self) -> list[Alert]:
        return [alert for alert in self._alerts if alert.severity is Severity.FAILURE]

    @cached_property
    def warnings(self) -> list[Alert]:
        return [alert for alert in self._alerts if alert.severity is Severity.WARNING]

    # Pictures and the tables beside them

    @cached_property
    def overview(self) -> Grid:
        return summaries.overview(self.cells)

    @cached_property
    def examples(self) -> list[Example]:
        """A typical trial of each setting in which the guest was moved, the main setting first."""
        found: list[Example] = []
        for cell in self.cells:
            trial_id = typical_trial(cell.trials)
            if trial_id is not None and len(found) < MAX_EXAMPLES:
                found.append(Example(cell, self.tables.of_trial(trial_id), len(found)))
        return found

    @cached_property
    def example(self) -> Example | None:
        return self.examples[0] if self.examples else None

    @cached_property
    def networks(self) -> list[DrawnNetwork]:
        """Each network of the examples that is unlike the others."""
        found: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for example in self.examples:
            network = self._folder.network(example.trial_id)
            if network is not None:
                key = json.dumps(network, sort_keys=True)
                found.setdefault(key, (network, []))[1].append(example.cell.label)
        return [
            DrawnNetwork(
                settings=", ".join(labels) if len(found) > 1 else "",
                picture=Markup(plan_of.draw(network, name=f"network{number}")),
                about=plan_of.about(network),
            )
            for number, (network, labels) in enumerate(list(found.values())[:MAX_NETWORKS])
        ]

    @cached_property
    def steps(self) -> Grid:
        assert self.example is not None
        return summaries.steps(self.example.tables.steps, self.example.cell, self.tables.steps)

    @cached_property
    def step_words(self) -> list[tuple[str, str]]:
        """The steps that occur in this run, each with what it does."""
        present = set(self.tables.steps["step"])
        return [(name, text) for name, text in glossary.STEPS.items() if name in present]

    estimator_words = tuple(glossary.ESTIMATORS.items())
    retransmission_words = tuple(glossary.RETRANSMISSIONS.items())

    @cached_property
    def example_clients(self) -> Grid:
        assert self.example is not None
        return summaries.clients(self.example.tables.outages)

    @cached_property
    def distribution(self) -> Markup:
        return Markup(distribution.draw(self.cells))

    @cached_property
    def downtime(self) -> Grid:
        return summaries.downtime(self.cells)

    @cached_property
    def rounds_plot(self) -> Markup:
        return Markup(rounds.draw(self.cells, self.tables.rounds))

    @cached_property
    def rounds(self) -> Grid:
        return summaries.rounds(self.cells, self.tables.rounds)

    @cached_property
    def encodings(self) -> Grid:
        return summaries.encodings(self.cells, self.tables.encodings)

    @cached_property
    def brownout_plot(self) -> Markup:
        return Markup(brownout.draw(self.cells, self.tables.brownout))

    @cached_property
    def brownout(self) -> Grid:
        return summaries.brownout(self.cells, self.tables.brownout)

    @cached_property
    def later_pages(self) -> Grid | None:
        return summaries.later_pages(self.cells, self.tables.faults)

    @cached_property
    def retransmits_plot(self) -> Markup:
        return Markup(retransmits.draw(self.cells, self.tables.flows, self.tables.retransmits))

    @cached_property
    def retransmits(self) -> Grid:
        return summaries.retransmits(self.cells, self.tables.flows)

    # Every number

    @cached_property
    def every_trial(self) -> Grid:
        return grid.of_table("trials", self.tables.trials)

    @cached_property
    def trials(self) -> list[tuple[str, str, list[Grid]]]:
        """For each trial: its id, a line about it, and its tables, with moments counted from its pause."""
        return [self._trial(row) for _, row in self.tables.trials.iterrows()]

    def _trial(self, row: pd.Series[Any]) -> tuple[str, str, list[Grid]]:
        trial_id = str(row["trial_id"])
        tables = self._by_trial[trial_id]
        origin = row["paused_ns"] if not pd.isna(row["paused_ns"]) else row["start_ns"]
        shown = [
            grid.of_table(name, frame, origin_ns=origin, drop=("trial_id", "migration"))
            for name, frame in (
                ("rounds", tables.rounds),
                ("encodings", tables.encodings),
                ("steps", tables.steps),
                ("brownout", tables.brownout),
                ("outages", tables.outages),
                ("waterfall", tables.waterfall),
                ("flows", _without_quiet_connects(tables.flows)),
                ("retransmits", tables.retransmits.head(200)),
                ("relearned", tables.relearned),
                ("stalls", tables.stalls),
                ("links", tables.links),
                ("faults", tables.faults.head(200)),
                ("captures", tables.captures),
            )
            if len(frame)
        ]
        label = next(cell.label for cell in self.cells if trial_id in set(cell.trials["trial_id"]))
        about = f"{label}, repeat {row['repeat']}: {row['outcome']}"
        return trial_id, about, shown

    @cached_property
    def _by_trial(self) -> dict[str, Tables]:
        names = (
            "rounds", "encodings", "steps", "brownout", "outages", "waterfall", "flows", "retransmits", "relearned",
            "links", "stalls", "faults", "captures",
        )  # fmt: skip
        groups = {name: dict(iter(self.tables[name].groupby("trial_id", sort=False))) for name in names}
        return {
            trial_id: Tables(**{name: group[trial_id] for name, group in groups.items() if trial_id in group})
            for trial_id in self.tables.trials["trial_id"]
        }

    @cached_property
    def environment(self) -> list[tuple[str, str]]:
        return list(flatten(self._folder.environment()).items())

    @cached_property
    def plan(self) -> str:
        return self._folder.plan()


def _count(shown: list[Shown], noun: str) -> str:
    """E.g. `4 of 5 clauses hold (1 cannot be evaluated)`."""
    findings = Counter(entry.verdict.finding for entry in shown)
    kept, total = findings[Finding.HOLDS], len(shown)
    verb = ("is kept" if total == 1 else "are kept") if noun == "budget" else ("holds" if total == 1 else "hold")
    plural = noun if total == 1 else f"{noun}s"
    text = f"{kept} of {total} {plural} {verb}"
    if findings[Finding.UNKNOWN]:
        text += f" ({findings[Finding.UNKNOWN]} cannot be evaluated)"
    return text


def typical_trial(trials: pd.DataFrame) -> str | None:
    """The trial with the median blackout (the lower one of two), of those that completed undisturbed if there are any.

    None where no guest was moved.
    """
    moved = trials[trials["outcome"] == "completed"].dropna(subset=["blackout_ns", "paused_ns", "resumed_ns"])
    chosen = counted(moved)
    chosen = moved if not len(chosen) else chosen
    if not len(chosen):
        return None
    ordered = chosen.iloc[floats(chosen["blackout_ns"]).argsort(kind="stable")]
    return str(ordered["trial_id"].iloc[(len(ordered) - 1) // 2])


def _without_quiet_connects(flows: pd.DataFrame) -> pd.DataFrame:
    """Flows without the many short connections of the connect workload in which nothing happened."""
    again = flows["retransmits"].fillna(1).astype(int) + flows["kernel_retransmits"].fillna(1).astype(int)
    good = flows["integrity"].fillna(False).astype(bool)
    return flows[(flows["workload"] != "connect") | (again > 0) | ~good]


def environment_of_templates() -> jinja2.Environment:
    """Jinja for the templates beside this module: HTML is escaped, and an undefined name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment


def write_report(folder: Path) -> Path:
    """Make `report.html` in a run's folder from what is stored there, and return its path.

    Raises RecordError where the folder is not a run's, or its record is damaged.
    """
    page = environment_of_templates().get_template("report.html.jinja").render(report=Report(RunFolder(folder)))
    return put_page(folder / "report.html", page)


def put_page(path: Path, text: str) -> Path:
    """Put a page in its place, whole or not at all; returns the place. Raises OSError."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return path
