#!/usr/bin/env python3
"""The waterfalls of a run: whether their parts sum to what was felt, and how much of it has no known reason.

    .venv/bin/unnoticed run claim --repeats 10 --out DIR
    .venv/bin/python benchmarks/waterfall.py DIR

The sums are held against what other tables say of the same wait: of a client's outage, its length by the time-stamp
method; of its slowest request, the wait that the client itself recorded. Migrations that the machine disturbed count as
well, and are told apart. Exit 1 where a sum is off by more than a millisecond, or the median share without a reason is
5 % or more.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from unnoticed.experiments.analysis.waterfall import NOT_MOVING, RUNNING, UNKNOWN
from unnoticed.results.store import RunFolder, Tables

MS = 1_000_000
KEY = ["trial_id", "client", "estimator"]
MOST_OFF_NS = MS
MOST_UNKNOWN = 0.05


def waits(tables: Tables) -> pd.DataFrame:
    """One row per waterfall: its sum, the wait as another table has it, and its parts without a reason, in ns."""
    trials, parts = tables["trials"], tables["waterfall"]
    moved = trials.loc[trials["outcome"] == "completed", "trial_id"]
    parts = parts[parts["trial_id"].isin(moved)].assign(length_ns=parts["end_ns"] - parts["start_ns"])
    found = parts.groupby(KEY, as_index=False)["length_ns"].sum().rename(columns={"length_ns": "sum_ns"})
    for column, names in (("unknown_ns", [UNKNOWN, NOT_MOVING]), ("running_ns", [RUNNING])):
        some = parts[parts["part"].isin(names)].groupby(KEY, as_index=False)["length_ns"].sum()
        found = found.merge(some.rename(columns={"length_ns": column}), how="left", on=KEY).fillna({column: 0})
    found = found.merge(tables["outages"][[*KEY, "outage_ns", "end_ns"]], on=KEY)
    found = found.merge(trials[["trial_id", "case", "disturbed"]], on="trial_id")
    recorded = _recorded(tables["requests"], parts)  # of those that were over when the trial was judged
    found = found.merge(recorded, how="left", on=KEY)
    found["felt_ns"] = found["recorded_ns"].where(found["end_ns"].notna(), pd.NA).fillna(found["outage_ns"])
    return found


def _recorded(requests: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    """Of each slowest request that was answered: how long the client says that it waited."""
    first = parts[(parts["estimator"] == "request-latency") & (parts["order"] == 0)]
    found = first.merge(
        requests[(requests["workload"] == "request") & requests["answered_ns"].notna()],
        left_on=["trial_id", "client", "start_ns"],
        right_on=["trial_id", "client", "intended_ns"],
    )
    found["recorded_ns"] = found["answered_ns"] - found["intended_ns"]
    return found.groupby(KEY, as_index=False)["recorded_ns"].max()


def main() -> int:
    """Print, by estimator and by case, how far sums are off and how large the unattributed share is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    found = waits(RunFolder(parser.parse_args().folder).load())
    if found.empty:
        print("No migration of this run was completed.")
        return 1
    found["off_ns"] = (found["sum_ns"] - found["felt_ns"]).abs()
    found["unknown"] = found["unknown_ns"] / found["sum_ns"]
    found["running"] = found["running_ns"] / found["sum_ns"]
    disturbed = found.groupby("trial_id")["disturbed"].first()
    print(f"{len(disturbed)} migrations ({int(disturbed.sum())} disturbed by the machine), {len(found)} waterfalls")
    print(f"{'':<46} {'':>5} {'sum off by':>12} {'not attributed':>22} {'before the cutover':>19}")
    print(f"{'':<46} {'':>5} {'at most':>12} {'median':>11} {'most':>10} {'median':>19}")
    for (estimator, case), rows in [
        *found.assign(case="all").groupby(["estimator", "case"]),
        *found.groupby(["estimator", "case"]),
    ]:
        print(
            f"{estimator + ', ' + case:<46} {len(rows):>5} {rows['off_ns'].max() / MS:>9.3f} ms "
            f"{rows['unknown'].median():>11.2%} {rows['unknown'].max():>10.2%} {rows['running'].median():>19.2%}"
        )
    return int(bool((found["off_ns"] > MOST_OFF_NS).any()) or bool(found["unknown"].median() >= MOST_UNKNOWN))


if __name__ == "__main__":
    sys.exit(main())
