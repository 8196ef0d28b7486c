"""The page of a calibration: verdicts first, then the picture, then every figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

import unnoticed
from unnoticed.results import grid
from unnoticed.results.calibration import ESTIMATOR, Bar, Calibration, read
from unnoticed.results.environment import flatten
from unnoticed.results.grid import Grid
from unnoticed.results.quantities import MINUS, NOTHING, format_ns, format_share


class Page:
    """What the template `calibration.html.jinja` shows."""

    version = unnoticed.__version__
    estimator = ESTIMATOR

    def __init__(self, calibration: Calibration, document: dict[str, Any]) -> None:
        self.calibration = calibration
        self.taken_utc = str(document.get("taken_utc") or "")
        self._environment = document.get("environment", {})

    @property
    def answer(self) -> str:
        """The result in one sentence."""
        return sentence(self.calibration)

    @property
    def bars(self) -> list[Bar]:
        return self.calibration.bars()

    @property
    def picture(self) -> Markup:
        from unnoticed.results.plots import calibration as plot

        return Markup(plot.draw(self.calibration))

    @property
    def grids(self) -> list[Grid]:
        """The tables below the picture, those with rows."""
        return [each for each in (accuracy_grid(self.calibration), quiet_grid(self.calibration)) if each.rows]

    @property
    def environment(self) -> list[tuple[str, str]]:
        return list(flatten(self._environment).items())


def sentence(calibration: Calibration) -> str:
    """What may be said of results on this machine."""
    error_ns, resolution_ns = calibration.error_ns, calibration.resolution_ns
    if error_ns is None:
        return "No cut was made, or the machine stood still in all of them: nothing can be said of its accuracy."
    text = f"On this machine 95 % of cuts are measured to within {format_ns(error_ns)}"
    if resolution_ns is None:
        return f"{text}; what it finds where nothing happens is not known."
    return f"{text}; an outage below {format_ns(resolution_ns)} cannot be told from none."


def accuracy_grid(calibration: Calibration) -> Grid:
    """Each estimator against each kind of outage."""
    heads = (
        grid.text("kind of outage"),
        grid.text("estimator"),
        grid.number("outages", "those that count"),
        grid.number("left out", "because this machine stood still meanwhile"),
        grid.number("median error", "estimate less truth"),
        grid.number("95 % within", "of the error's absolute value"),
        grid.number("worst error"),
        grid.number("truth in bounds", "the share of truths within the bounds that were given"),
    )
    rows = tuple(
        (
            each.kind,
            each.estimator,
            str(each.rows - each.excluded),
            str(each.excluded),
            _signed(each.median_error_ns),
            NOTHING if each.p95_error_ns is None else format_ns(each.p95_error_ns),
            _signed(each.worst_error_ns),
            "gives none" if each.inside is None else format_share(each.inside),
        )
        for each in calibration.accuracy()
    )
    return Grid(caption="Errors against known outages", heads=heads, rows=rows)


def quiet_grid(calibration: Calibration) -> Grid:
    """Each estimator where nothing was injected."""
    heads = (
        grid.text("with nothing injected"),
        grid.text(""),
        grid.number("seconds"),
        grid.number("left out", "because this machine stood still meanwhile"),
        grid.number("longest"),
        grid.number("99 % below"),
        grid.number("above 5 ms", "seconds in which it would have called an outage"),
    )
    rows = tuple(
        (
            each.estimator,
            "",
            str(each.seconds - each.excluded),
            str(each.excluded),
            NOTHING if each.longest_ns is None else format_ns(each.longest_ns),
            NOTHING if each.p99_ns is None else format_ns(each.p99_ns),
            str(each.alarms),
        )
        for each in calibration.quiet()
    )
    return Grid(caption="False alarms", heads=heads, rows=rows)


def _signed(error_ns: int | None) -> str:
    if error_ns is None:
        return NOTHING
    return f"{'+' if error_ns >= 0 else MINUS}{format_ns(abs(error_ns))}"


def write_page(folder: Path) -> Path:
    """Make `calibration.html` from what a calibration stored in its folder. Raises RecordError."""
    from unnoticed.results.report import environment_of_templates

    page = Page(*read(folder))
    text = environment_of_templates().get_template("calibration.html.jinja").render(page=page)
    path = folder / "calibration.html"
    path.write_text(text, encoding="utf-8")
    return path
