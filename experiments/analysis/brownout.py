"""The table `brownout`, and what the trial's row has of it: the guest and its clients before and during a migration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.probes.brownout import Span, latency, pace, tally
from unnoticed.results.schema import BROWNOUT_SPANS, empty
from unnoticed.workload import Kind

WARM_UP, ROUNDS, AFTER = BROWNOUT_SPANS


class Brownout:
    """Latency and the dirtier's pace in each span of one trial that had it."""

    def __init__(self, raw: RawRecords) -> None:
        self._spans = _spans(raw)
        records = [raw.requests(client) for client in raw.clients]
        is_request = np.concatenate([each.workload for each in records]) == Kind.REQUEST
        self._due_ns = np.concatenate([each.intended_ns for each in records])[is_request]
        self._answered_ns = np.concatenate([each.answered_ns for each in records])[is_request]
        self._tally = tally([tuple(sample) for event in raw.named("dirtier") for sample in event["samples"]])

    def table(self) -> pd.DataFrame:
        """One row for each span."""
        columns = [name for name in empty("brownout").columns if name != "trial_id"]
        rows = [
            {"span": name, "start_ns": span[0], "end_ns": span[1], **self._figures([span])}
            for name, span in self._spans.items()
        ]
        return pd.DataFrame(rows, columns=columns)

    def of_trial(self) -> dict[str, Any]:
        """The columns of the trial's row: the warm-up, and rounds and what came after as one."""
        before = self._figures([self._spans[WARM_UP]])
        during = self._figures([span for name, span in self._spans.items() if name != WARM_UP])
        asked, got = before["dirty_pages_per_s"], during["dirty_pages_per_s"]
        return {
            "baseline_request_median_ns": before["request_median_ns"],
            "baseline_request_p99_ns": before["request_p99_ns"],
            "brownout_request_median_ns": during["request_median_ns"],
            "brownout_request_p99_ns": during["request_p99_ns"],
            "baseline_dirty_pages_per_s": asked,
            "brownout_dirty_pages_per_s": got,
            "brownout_skipped_pages_per_s": during["skipped_pages_per_s"],
            "brownout_dirty_share": got / asked if asked and got is not None else None,
        }

    def _figures(self, spans: list[Span]) -> dict[str, Any]:
        waits, written = latency(self._due_ns, self._answered_ns, spans), pace(self._tally, spans)
        return {
            "requests": waits.count,
            "request_median_ns": waits.median_ns,
            "request_p99_ns": waits.p99_ns,
            "dirty_pages_per_s": None if written is None else written.pages_per_s,
            "skipped_pages_per_s": None if written is None else written.skipped_per_s,
        }


def _spans(raw: RawRecords) -> dict[str, Span]:
    """The spans that the trial had, by name.

    Of the warm-up the second half: in the first, connections begin and memory is touched for the first time.
    """
    migration = raw.migration
    begin_ns = raw.phase_ns("warm-up")
    spans = {WARM_UP: ((begin_ns + migration.start_ns) // 2, migration.start_ns)}
    if raw.settings.migration.has_rounds:
        until_ns = migration.cutover_ns if migration.cutover_ns is not None else migration.end_ns
        spans[ROUNDS] = (migration.start_ns, until_ns)
    if raw.settings.migration.has_later_pages and migration.resumed_ns is not None:
        until_ns = migration.completed_ns if migration.completed_ns is not None else migration.end_ns
        spans[AFTER] = (migration.resumed_ns, until_ns)
    return spans
