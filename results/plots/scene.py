"""One trial as the timeline sees it: its moments, its clients and their colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from unnoticed.results import schema
from unnoticed.results.frames import records
from unnoticed.results.plots.style import CLIENT_COLOURS
from unnoticed.results.store import Tables

MAX_CLIENTS = len(CLIENT_COLOURS)  # drawn one by one; the worst ones, where there are more


@dataclass(frozen=True)
class Scene:
    """The tables of exactly one trial whose guest was paused and resumed."""

    tables: Tables

    @cached_property
    def trial_id(self) -> str:
        return str(self.tables.trials["trial_id"].iloc[0])

    @cached_property
    def start_ns(self) -> float:
        """When the migration began; the pause, where that is not known."""
        start = self.tables.trials["start_ns"].iloc[0]
        return self.paused_ns if pd.isna(start) else float(start)

    @cached_property
    def paused_ns(self) -> float:
        return float(self.tables.trials["paused_ns"].iloc[0])

    @cached_property
    def resumed_ns(self) -> float:
        return float(self.tables.trials["resumed_ns"].iloc[0])

    @cached_property
    def felt_until_ns(self) -> float:
        """When the last client had its first answer; the resume, where no client felt anything longer.

        What a client felt only later than that is not of the cutover.
        """
        return max([self.resumed_ns, *(end for start, end in self.felt.values() if start <= self.resumed_ns)])

    @cached_property
    def completed_ns(self) -> float:
        """When the guest had all of its pages: with its resume, unless they follow it."""
        catch_up_ns = self.tables.trials["catch_up_ns"].iloc[0]
        return self.resumed_ns + (0.0 if pd.isna(catch_up_ns) else float(catch_up_ns))

    @cached_property
    def felt(self) -> dict[str, tuple[float, float]]:
        """Start and end of what each client perceived, in ns, as far as it is known."""
        outages = self.tables.outages
        rows = outages[outages["estimator"] == schema.TIME_STAMP].dropna(subset=["start_ns", "end_ns"])
        return {row.client: (float(row.start_ns), float(row.end_ns)) for row in records(rows)}

    @cached_property
    def steps(self) -> pd.DataFrame:
        return self.tables.steps.sort_values(["start_ns", "end_ns"], kind="stable")

    @cached_property
    def relearned(self) -> pd.DataFrame:
        return self.tables.relearned.sort_values("time_ns", kind="stable")

    @cached_property
    def stalls(self) -> list[tuple[float, float]]:
        """Start and end, in ns, of each time for which the machine itself stood still."""
        return [(float(row.start_ns), float(row.end_ns)) for row in records(self.tables.stalls)]

    @cached_property
    def clients(self) -> list[str]:
        """The clients by name, or, where there are more than MAX_CLIENTS, those that felt most."""
        tables = (self.tables.requests, self.tables.outages, self.tables.timeline)
        every = sorted({str(client) for table in tables for client in table["client"]} - {"migration"}, key=_natural)
        worst = sorted(every, key=self._felt_ns, reverse=True)[:MAX_CLIENTS]
        return sorted(worst, key=_natural)

    @cached_property
    def colours(self) -> dict[str, str]:
        return dict(zip(self.clients, CLIENT_COLOURS, strict=False))

    def requests_of(self, client: str) -> pd.DataFrame:
        """The client's requests, without attempts to connect."""
        requests = self.tables.requests
        return requests[(requests["client"] == client) & (requests["workload"] == "request")]

    def seconds(self, time_ns: float) -> float:
        """Time since the pause."""
        return (time_ns - self.paused_ns) / 1e9

    def ms(self, time_ns: float) -> float:
        """Time since the pause."""
        return (time_ns - self.paused_ns) / 1e6

    def _felt_ns(self, client: str) -> float:
        start, end = self.felt.get(client, (0.0, 0.0))
        return end - start


def _natural(name: str) -> tuple[str, int]:
    digits = "".join(filter(str.isdigit, name))
    return name.rstrip("0123456789"), int(digits or 0)
