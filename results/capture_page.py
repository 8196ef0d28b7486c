"""What `unnoticed analyse --output DIR` leaves: tables in Parquet, and a page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

import unnoticed
from unnoticed.errors import PlanError
from unnoticed.results.capture import Capture
from unnoticed.results.grid import Grid
from unnoticed.results.quantities import format_number, unbroken

SHOWN = 50  # connections, and steady flows, in the tables of the page
PICTURES = 12  # connections in its pictures


def flow_table(capture: Capture) -> pd.DataFrame:
    """A row for each direction of each connection."""
    rows = []
    for connection in capture.connections:
        for end in connection.ends:
            known = {name: value for name, value in asdict(end).items() if name not in ("stall", "repeats")}
            stall = end.stall
            rows.append(
                {
                    "client": connection.client,
                    "server": connection.server,
                    "first_ns": connection.first_ns,
                    "last_ns": connection.last_ns,
                    "opened": connection.opened,
                    "ended": connection.ended,
                    "round_trip_ns": connection.round_trip_ns,
                    **known,
                    "stall_ns": stall.duration_ns if stall else None,
                    "stall_start_ns": stall.start_ns if stall else None,
                    "stall_end_ns": stall.end_ns if stall else None,
                    "outage_low_ns": stall.low_ns if stall and end.had_outage else None,
                    "outage_high_ns": stall.high_ns if stall and end.had_outage else None,
                }
            )
    return _frame(rows, _FLOWS)


def retransmit_table(capture: Capture) -> pd.DataFrame:
    """A row for each frame that was sent again, or came late."""
    rows = [
        {"sender": end.sender, "receiver": end.receiver, **asdict(repeat)}
        for connection in capture.connections
        for end in connection.ends
        for repeat in end.repeats
    ]
    return _frame(rows, _REPEATS)


def steady_table(capture: Capture) -> pd.DataFrame:
    """A row for each steady flow."""
    return _frame([asdict(flow) for flow in capture.steady], _STEADY)


_STRING, _INTEGER, _YES = "string", "Int64", "boolean"
_FLOWS = {
    **dict.fromkeys(("client", "server", "sender", "receiver", "point", "place", "place_by", "ended"), _STRING),
    **dict.fromkeys(("opened", "exact", "mss_known"), _YES),
    **dict.fromkeys(("first_ns", "last_ns", "round_trip_ns", "packets", "new_bytes", "retransmits"), _INTEGER),
    **dict.fromkeys(("rto", "fast", "tlp", "spurious", "unclear", "overtaken", "keep_alives"), _INTEGER),
    **dict.fromkeys(("window_probes", "zero_windows", "closed_ns", "syn_retries", "resets"), _INTEGER),
    **dict.fromkeys(("missing_bytes", "stall_ns", "stall_start_ns", "stall_end_ns"), _INTEGER),
    **dict.fromkeys(("outage_low_ns", "outage_high_ns"), _INTEGER),
}
_REPEATS = {
    **dict.fromkeys(("sender", "receiver"), _STRING),
    **dict.fromkeys(("time_ns", "sequence", "length", "segments"), _INTEGER),
    **{"type": _STRING, "spurious": _YES, "kind": _STRING},
}
_STEADY = {
    **dict.fromkeys(("kind", "source", "destination", "point"), _STRING),
    **dict.fromkeys(("frames", "unanswered", "period_ns", "first_ns", "last_ns"), _INTEGER),
    **dict.fromkeys(("outage_ns", "low_ns", "high_ns", "start_ns"), _INTEGER),
}


def _frame(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=list(columns), dtype=object)
    return frame.astype(dict(columns))


class Page:
    """What the template `capture.html.jinja` shows."""

    version = unnoticed.__version__

    def __init__(self, capture: Capture) -> None:
        self.capture = capture

    @property
    def name(self) -> str:
        return " and ".join(point.name for point in self.capture.points)

    @property
    def title(self) -> str:
        """One line."""
        capture = self.capture
        count = len(capture.connections)
        if not count:
            return f"{format_number(len(capture.steady))} steady flows" if capture.steady else "Nothing to measure"
        again = sum(connection.retransmits for connection in capture.connections)
        stall = capture.connections[0].worst.stall
        longest = f", stalls of up to {stall.text}" if stall else ""
        connections = f"{format_number(count)} connection{'' if count == 1 else 's'}"
        return unbroken(f"{connections}, {format_number(again)} segments sent again{longest}")

    @property
    def grids(self) -> list[Grid]:
        found = []
        if self.capture.connections:
            found.append(self.capture.grid(limit=SHOWN))
        if self.capture.steady:
            found.append(self.capture.steady_grid(limit=SHOWN))
        return found

    @property
    def strips(self) -> Markup | None:
        from unnoticed.results.plots import capture as plot

        return Markup(plot.draw_strips(self.capture)) if self.capture.traces else None

    @property
    def sequence(self) -> Markup | None:
        from unnoticed.results.plots import capture as plot

        with_stall = [trace for trace in self.capture.traces if trace.stall is not None]
        return Markup(plot.draw_sequence(with_stall[0])) if with_stall else None


def write_output(folder: Path, capture: Capture) -> Path:
    """Write the tables and the page into a folder, which is made; the path of the page. Raises PlanError."""
    from unnoticed.results.report import environment_of_templates

    text = environment_of_templates().get_template("capture.html.jinja").render(page=Page(capture))
    tables = {"flows": flow_table, "retransmits": retransmit_table, "steady": steady_table}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, make in tables.items():
            partial = folder / f"{name}.parquet.partial"
            make(capture).to_parquet(partial, compression="zstd", index=False)
            partial.rename(folder / f"{name}.parquet")
        path = folder / "capture.html"
        partial = folder / "capture.html.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        raise PlanError(f"--output {folder}: this cannot be written to: {error.strerror or error}.") from error
    return path
