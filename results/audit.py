"""The audit of a trial: what other ways to measure its downtime say, each beside the outage itself.

Data and words only: `unnoticed.experiments.analysis.audit` makes it of a trial's raw records, `plots.audit` draws it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

import unnoticed
from unnoticed.errors import RecordError
from unnoticed.results import grid
from unnoticed.results.cells import NOTABLE_STALL
from unnoticed.results.grid import Grid
from unnoticed.results.quantities import MINUS, NOTHING, format_ns, format_share, unbroken

GROUPS = {
    "hypervisor": "What the hypervisor says",
    "published": "What published tests would have reported",
    "users": "What users of TCP waited",
    "tool": "What real tools reported, run beside our probes",
}
_LEAST_GUESSED = 0.001  # of the time: less makes no difference to any method
_FEW = 2  # as many different figures are named one by one


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One client's outage by the time-stamp method at 1 kHz, with its bounds; `high_ns` None: it was not over."""

    outage_ns: int
    low_ns: int
    high_ns: int | None
    start_ns: int | None
    end_ns: int | None

    @property
    def is_open(self) -> bool:
        return self.high_ns is None

    @property
    def text(self) -> str:
        """`83.5 ms (83.0 ms to 84.0 ms)`."""
        if self.high_ns is None:
            return f"at least {format_ns(self.low_ns)}, since it was not over"
        return f"{format_ns(self.outage_ns)} ({format_ns(self.low_ns)} to {format_ns(self.high_ns)})"

    def holds(self, figure_ns: int) -> bool:
        """Whether a figure lies within the bounds."""
        return self.low_ns <= figure_ns and (self.high_ns is None or figure_ns <= self.high_ns)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method. `figures_ns`: what it reports, for each phase of its probes that was tried, None where nothing.

    A method without a phase has one figure. `rule` says what it does, `why` what its error comes from.
    """

    group: str
    name: str
    rule: str
    why: str
    figures_ns: tuple[int | None, ...]

    @property
    def known_ns(self) -> list[int]:
        return sorted(figure for figure in self.figures_ns if figure is not None)

    @property
    def silent(self) -> float:
        """The share of phases in which it reports nothing, 0 to 1."""
        return 1 - len(self.known_ns) / len(self.figures_ns) if self.figures_ns else 1.0

    @property
    def typical_ns(self) -> int | None:
        """The median figure; None where it mostly reports nothing."""
        known = self.known_ns
        return known[(len(known) - 1) // 2] if known and self.silent <= 0.5 else None

    @property
    def shares(self) -> list[tuple[int, float]]:
        """Each figure and the share of phases that give it, in order of size."""
        return [(figure, count / len(self.figures_ns)) for figure, count in sorted(Counter(self.known_ns).items())]

    def error_ns(self, truth: Truth) -> int | None:
        """The typical figure less the outage."""
        return None if self.typical_ns is None else self.typical_ns - truth.outage_ns

    def worst_error_ns(self, truth: Truth) -> int | None:
        """The error of the phase that is furthest off."""
        errors = [figure - truth.outage_ns for figure in self.known_ns]
        return max(errors, key=abs) if errors else None

    @property
    def spread(self) -> str:
        """What it may report: `0 ms in 92 %, 1.00 s in 8 %`; of many figures the least and the most."""
        told: dict[str, float] = {}  # figures that read the same are told as one
        for figure, share in self.shares:
            told[format_ns(figure)] = told.get(format_ns(figure), 0.0) + share
        if not told:
            return "no figure"
        texts = list(told)
        if len(self.figures_ns) == 1:
            return texts[0]
        if len(told) == 1 and not self.silent:
            return f"always {texts[0]}"
        if len(told) <= _FEW:
            parts = [f"{text} in {format_share(share)}" for text, share in told.items()]
        elif self.known_ns[0] == 0:
            parts = [f"{texts[0]} in {format_share(told[texts[0]])}, else {texts[1]} to {texts[-1]}"]
        else:
            parts = [f"{texts[0]} to {texts[-1]}"]
        return ", ".join([*parts, *([f"nothing in {format_share(self.silent)}"] if self.silent else [])])

    def document(self, truth: Truth) -> dict[str, Any]:
        """For programs."""
        known = self.known_ns
        return {
            "group": self.group,
            "method": self.name,
            "rule": self.rule,
            "reported_ns": self.typical_ns,
            "least_ns": known[0] if known else None,
            "most_ns": known[-1] if known else None,
            "silent_share": round(self.silent, 4),
            "error_ns": self.error_ns(truth),
            "worst_error_ns": self.worst_error_ns(truth),
            "within_bounds": self.typical_ns is not None and truth.holds(self.typical_ns),
            "why": self.why,
        }


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One client of one trial. `sent_ns` and `answered_ns` (0: never): its probes at 1 kHz."""

    trial_id: str
    case: str
    client: str
    truth: Truth
    entries: tuple[Entry, ...]
    absent: tuple[str, ...] = ()  # methods without a figure, a sentence each
    paused_ns: int | None = None
    sent_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    answered_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    guessed: float = 0.0
    stalled_ns: int = 0  # for so long of the outage the machine itself stood still

    @property
    def stall(self) -> str:
        """That the machine had a notable part in the outage; empty where it had none."""
        if self.stalled_ns <= NOTABLE_STALL * self.truth.outage_ns:
            return ""
        return (
            f"For {format_ns(self.stalled_ns)} of the outage this machine itself stood still, so that it is not the "
            "migration's: audit a trial that counts, or run it again where less goes on."
        )

    @property
    def guess(self) -> str:
        """How much of the record says nothing of other methods' probes; empty where that is next to nothing."""
        if self.guessed < _LEAST_GUESSED:
            return ""
        return (
            f"For {format_share(self.guessed)} of the time no probe of ours was sent within a millisecond: "
            "there the fate of the others' is a guess."
        )

    @property
    def summary(self) -> str:
        """The sentence above the picture."""
        known = [figure for entry in self.entries for figure in entry.known_ns]
        if not known:
            return "No method reports anything."
        right = sum(1 for entry in self.entries if entry.typical_ns is not None and self.truth.holds(entry.typical_ns))
        what = f"{self.client} was without answers for {self.truth.text}."
        return (
            f"{what} Asked about this one outage, {len(self.entries)} ways to measure it report anything from "
            f"{format_ns(min(known))} to {format_ns(max(known))}; {right or 'none'} of them "
            f"{'is' if right == 1 else 'are'} typically within its bounds."
            f"{' ' if self.stall else ''}{self.stall}"
        )

    @property
    def grid(self) -> Grid:
        """The table of the page."""
        rows = tuple(
            (entry.name, entry.rule, *figures(entry, self.truth), entry.spread, entry.why) for entry in self.entries
        )
        heads = (
            grid.text("method"),
            grid.text("what it does"),
            grid.number("reports", "the median over the phases of its probes"),
            grid.number("error", "that less the outage"),
            grid.number("worst error", "of the phase that is furthest off"),
            grid.text("by its phase"),
            grid.text("why"),
        )
        return Grid(caption=f"Every method on trial {self.trial_id}, client {self.client}", heads=heads, rows=rows)

    def document(self) -> dict[str, Any]:
        """For programs."""
        truth = self.truth
        return {
            "trial": self.trial_id,
            "case": self.case,
            "client": self.client,
            "outage_ns": truth.outage_ns,
            "low_ns": truth.low_ns,
            "high_ns": truth.high_ns,
            "guessed_share": round(self.guessed, 4),
            "stalled_ns": self.stalled_ns,
            "methods": [entry.document(truth) for entry in self.entries],
            "absent": list(self.absent),
        }


def figures(entry: Entry, truth: Truth) -> tuple[str, str, str]:
    """Typical figure, its error, and the worst error, as texts."""
    typical = entry.typical_ns
    return (
        "nothing" if typical is None else format_ns(typical),
        error_text(entry.error_ns(truth), truth, figure_ns=typical),
        error_text(entry.worst_error_ns(truth), truth),
    )


def error_text(error_ns: int | None, truth: Truth, *, figure_ns: int | None = None) -> str:
    """`+64.5 ms (x 1.8)`; with `figure_ns`, a mark where it lies within the bounds."""
    if error_ns is None:
        return NOTHING
    sign = "+" if error_ns > 0 else MINUS if error_ns < 0 else "±"
    text = f"{sign}{format_ns(abs(error_ns))}"
    if figure_ns is not None and truth.holds(figure_ns):
        return f"{text} ✓"
    if truth.outage_ns > 0:
        text += f" (× {_factor((truth.outage_ns + error_ns) / truth.outage_ns)})"
    return text


def _factor(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


class Page:
    """What the template `audit.html.jinja` shows."""

    version = unnoticed.__version__

    def __init__(self, *, name: str, question: str, audits: Sequence[Audit]) -> None:
        self.name, self.question, self.audits = name, question, list(audits)

    @property
    def title(self) -> str:
        first = self.audits[0]
        if len(self.audits) > 1:
            return f"{len(self.audits)} trials, and what other ways to measure them report"
        if first.truth.is_open:
            return unbroken("One outage without an end, and what others would have reported")
        return unbroken(f"One outage of {format_ns(first.truth.outage_ns)}, and what others would have reported")

    @property
    def pictures(self) -> list[Markup]:
        from unnoticed.results.plots import audit as plot

        return [Markup(plot.draw(audit, name=f"audit{number}")) for number, audit in enumerate(self.audits)]


def write_page(folder: Path, *, name: str, question: str, audits: Sequence[Audit]) -> Path:
    """Make `audit.html` in a run's folder and return its path. Raises RecordError where it cannot be written."""
    from unnoticed.results.report import environment_of_templates, put_page

    page = Page(name=name, question=question, audits=audits)
    text = environment_of_templates().get_template("audit.html.jinja").render(page=page)
    try:
        return put_page(folder / "audit.html", text)
    except OSError as error:
        raise RecordError(f"{folder / 'audit.html'} cannot be written: {error.strerror}.") from error
