"""A plausible run, made up: four cases of five trials, whose figures are known (see `SyntheticRun`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unnoticed.results.run import Clause, Run
from unnoticed.results.store import RunFolder

MS = 1_000_000
SECOND = 1_000_000_000
SEGMENT = 1448
CLAIM, SILENT, COLD, HOPELESS = "the claim", "no announcement", "stop-and-copy", "dirty rate above the link"
CASES = (CLAIM, SILENT, COLD, HOPELESS)
PLAN = """\
question = "Does anybody notice a migration at 1 Gbit/s?"
repeats = 5
seed = 1

[guest]
memory = "256 MiB"
working_set = "48 MiB"

[[case]]
name = "the claim"
"""

STEPS = (  # name, place, share of the blackout
    ("pause", "a", 0.02),
    ("last pages", "a", 0.38),
    ("dump connections", "a", 0.12),
    ("close gate", "a", 0.02),
    ("ready", "b", 0.08),
    ("relinquish", "a", 0.06),
    ("restore connections", "b", 0.20),
    ("open gate", "b", 0.02),
    ("announce", "b", 0.04),
    ("resume", "b", 0.06),
)


def _environment() -> dict[str, Any]:
    return {
        "version": 1,
        "taken_utc": "2026-01-02T03:04:05+00:00",
        "unnoticed": {"version": "0.1.0", "git": None},
        "kernel": {"release": "6.12.0", "build": "#1 SMP", "machine": "x86_64"},
        "cpu": {"model": "A processor", "count": 2, "usable": 2},
        "memory_bytes": 8 << 30,
        "packages": {"numpy": "2.4.0", "pandas": "3.0.0"},
        "tools": {"ip": "ip utility, iproute2-6.1.0", "iperf3": None},
        "machine_noise": {"worst_stall_ns": 3_200_000},
    }


@dataclass(frozen=True)
class SyntheticRun:
    """Repeat r of the claim: blackout 12 + r/2 ms, perceived 14 + r/2 ms by c1 and 1 ms less by c2, r % 2 retransmits.

    Without an announcement c1 perceives 214 + 40 r ms and 3 segments are sent again; stop-and-copy has a blackout of
    2.2 s and 9 retransmits; above the link's rate it gives up after 5 rounds that do not shrink. RTO 204 ms everywhere.
    In rounds a request takes 0.42 ms instead of 0.3, its 99th percentile 4 + r ms instead of 0.7, and the dirtier
    writes nine tenths of its 5120 pages per second.
    """

    rate_hz: int = 250
    clients: tuple[str, ...] = ("c1", "c2")
    repeats: int = 5

    def run(self) -> Run:
        main = {"case": CLAIM}
        return Run(
            name="synthetic",
            question="Does anybody notice a migration at 1 Gbit/s?",
            started_utc="2026-01-02T03:04:05+00:00",
            seed=1,
            repeats=self.repeats,
            cases=CASES,
            factors=("migration.announce", "migration.mode"),
            planned=tuple(self.trial_id(case, repeat) for case in CASES for repeat in range(self.repeats)),
            clauses=(
                Clause(
                    text="Each round sends fewer dirty pages than the one before.",
                    metric="rounds_shrink",
                    statistic="share",
                    bound="at_least",
                    value=1,
                    where=main,
                ),
                Clause(
                    text="The cutover is over before any TCP timeout (200 ms).",
                    metric="blackout_ns",
                    statistic="max",
                    bound="at_most",
                    value=200 * MS,
                    where=main,
                ),
                Clause(
                    text="At most a single packet is sent again.",
                    metric="cutover_retransmits",
                    statistic="median",
                    bound="at_most",
                    value=1,
                    where=main,
                ),
                Clause(
                    text="Nobody notices: no client is out for more than 10 ms.",
                    metric="perceived_ns",
                    statistic="median",
                    bound="at_most",
                    value=10 * MS,
                    where=main,
                ),
                Clause(
                    text="The guest's disk moves with it.",
                    metric="disk_moved",
                    statistic="share",
                    bound="at_least",
                    value=1,
                    where=main,
                ),
                Clause(
                    text="Without the ARP announcement, clients are out for longer than a TCP timeout.",
                    metric="perceived_ns",
                    statistic="median",
                    bound="at_least",
                    value=200 * MS,
                    where={"case": SILENT},
                    counter=True,
                ),
                Clause(
                    text="Stop-and-copy pauses the guest for longer than a second.",
                    metric="blackout_ns",
                    statistic="min",
                    bound="at_least",
                    value=SECOND,
                    where={"case": COLD},
                    counter=True,
                ),
                Clause(
                    text="A guest that dirties pages faster than the link carries them is not migrated.",
                    metric="gave_up",
                    statistic="share",
                    bound="equals",
                    value=1,
                    where={"case": HOPELESS},
                    counter=True,
                ),
            ),
            budgets=(Clause(metric="perceived_ns", statistic="p95", bound="at_most", value=60 * MS, where=main),),
        )

    @staticmethod
    def trial_id(case: str, repeat: int) -> str:
        return f"{CASES.index(case):02}-{repeat:03}"

    def write(self, path: Path, *, changed: Mapping[str, Mapping[str, Any]] | None = None) -> RunFolder:
        """A run folder; `changed` overrides cells of the trials table: {trial_id: {column: value}}."""
        folder = RunFolder(path)
        folder.write_run(self.run())
        folder.write_plan(PLAN)
        folder.write_environment(_environment())
        for case in CASES:
            for repeat in range(self.repeats):
                tables = self.trial(case, repeat)
                for column, value in (changed or {}).get(self.trial_id(case, repeat), {}).items():
                    tables["trials"] = tables["trials"].assign(**{column: pd.Series([value], dtype="object")})
                folder.write_trial(self.trial_id(case, repeat), tables)
        folder.gather()
        return folder

    def trials(self) -> pd.DataFrame:
        """The trials table alone."""
        rows = [self.trial(case, repeat)["trials"] for case in CASES for repeat in range(self.repeats)]
        return pd.concat(rows, ignore_index=True)

    def trial(self, case: str, repeat: int) -> dict[str, pd.DataFrame]:
        trial_id = self.trial_id(case, repeat)
        rng = np.random.default_rng(CASES.index(case) * 1000 + repeat)
        completed = case != HOPELESS
        start = 100 * SECOND + repeat * 20 * SECOND
        pages = {
            CLAIM: [65536, 5200 + 40 * repeat, 610, 75],
            SILENT: [65536, 5200 + 40 * repeat, 610, 75],
            COLD: [65536],
            HOPELESS: [65536, 12288, 12100, 12288, 12200 + repeat],
        }[case]
        durations = [int(count * 4096 * 8 / 0.93e9 * SECOND) for count in pages]
        ends = (start + np.cumsum(durations)).tolist()
        blackout = {CLAIM: 12 * MS, SILENT: 12 * MS, COLD: 2200 * MS, HOPELESS: 0}[case] + repeat * MS // 2
        paused = start if case == COLD else ends[-1] - durations[-1]
        resumed = paused + blackout
        felt = {CLAIM: blackout + 2 * MS, SILENT: (214 + 40 * repeat) * MS, COLD: blackout + 150 * MS, HOPELESS: 0}[
            case
        ]
        again = {CLAIM: repeat % 2, SILENT: 3, COLD: 9, HOPELESS: 0}[case]
        columns = ("trial_id", "migration")
        rounds = pd.DataFrame(
            {
                "trial_id": trial_id,
                "migration": "m1",
                "round": range(len(pages)),
                "start_ns": [start, *ends[:-1]],
                "duration_ns": durations,
                "pages": pages,
                "bytes": [count * 4096 for count in pages],
                "wire_bytes": [count * 4100 for count in pages],
                "dirty_pages": [*pages[1:], 0],
                "dirty_pages_per_s": [5120.0] * len(pages),
                "bit_per_s": [0.93e9] * len(pages),
                "rate_limit_bit_per_s": [0.95e9] * len(pages),
                "throttle": [0.0] * len(pages),
                "throttled_ns": [0] * len(pages),
            }
        )
        steps, at = [], paused
        for name, place, part in STEPS if completed else ():
            steps.append((trial_id, "m1", name, place, at, at := at + int(part * blackout)))
        parts: list[tuple[Any, ...]] = []
        outages: list[tuple[Any, ...]] = []
        outage: dict[str, tuple[int, int]] = {}
        for index, client in enumerate(self.clients if completed else ()):
            first, last = paused - 300_000, paused - 300_000 + felt - index * MS
            outage[client] = (first, last)
            order, at = 0, first
            pieces = [("last answer before the pause", paused), *((step[2], step[5]) for step in steps)]
            pieces += [("switches relearn", resumed + 200_000), ("first frame to the client", resumed + 400_000)]
            if case != CLAIM:
                pieces.append(("wait for the client's timer (RTO)", last - 300_000))
            for name, end in [*pieces, ("first answer", last)]:
                parts.append((trial_id, client, "time-stamp", order, name, at, end))
                order, at = order + 1, end
            spread = MS if index else MS // 2
            for estimator, extra in (("time-stamp", 0), ("lost-frames", -400_000), ("request", 700_000)):
                length = last - first + extra
                outages.append((trial_id, client, estimator, length, length - spread, length + spread, first, last))
        return {
            "trials": pd.DataFrame(
                [
                    {
                        "trial_id": trial_id,
                        "repeat": repeat,
                        "case": case,
                        "expected": "completed" if completed else "gave-up",
                        "guest.dirty_rate": "150 MiB/s" if case == HOPELESS else "20 MiB/s",
                        "migration.announce": "none" if case == SILENT else "garp",
                        "outcome": "completed" if completed else "gave-up",
                        "reason": "" if completed else "the rounds do not shrink",
                        "blackout_ns": blackout if completed else None,
                        "total_ns": ends[-1] - start,
                        "rounds": len(pages),
                        "bytes_sent": sum(pages) * 4100,
                        "tracker": "userfaultfd-wp",
                        "codec": "zero",
                        "rto_min_ns": 204 * MS,
                        "rounds_shrink": case != HOPELESS,
                        "perceived_ns": felt if completed else None,
                        "perceived_low_ns": felt - MS // 2 if completed else None,
                        "perceived_high_ns": felt + MS // 2 if completed else None,
                        "slowest_request_ns": felt + 110 * MS,
                        "slowest_connect_ns": felt + 900 * MS,
                        "unfinished": False,
                        "retransmits": again + 2,
                        "client_retransmits": again,
                        "guest_retransmits": 2,
                        "worst_flow_retransmits": max(again, 2),
                        "cutover_retransmits": again,
                        "worst_flow_cutover_retransmits": again,
                        "rounds_retransmits": 1,
                        "push_retransmits": 0,
                        "after_retransmits": 1,
                        "held_frames": None,
                        "held_refused": None,
                        "held_answers": None,
                        "catch_up_ns": None,
                        "faults": None,
                        "fault_p50_ns": None,
                        "fault_p99_ns": None,
                        "fault_max_ns": None,
                        "pushed_bytes": None,
                        "demanded_bytes": None,
                        "resets": 0,
                        "baseline_request_median_ns": 300_000,
                        "baseline_request_p99_ns": 700_000,
                        "brownout_request_median_ns": None if case == COLD else 420_000,
                        "brownout_request_p99_ns": None if case == COLD else (4 + repeat) * MS,
                        "baseline_dirty_pages_per_s": 5120.0,
                        "brownout_dirty_pages_per_s": None if case == COLD else 4608.0,
                        "brownout_skipped_pages_per_s": None if case == COLD else 512.0,
                        "brownout_dirty_share": None if case == COLD else 0.9,
                        "host_stall_ns": 1_200_000,
                        "integrity": True,
                        "captures_complete": True,
                        "kernel_agrees": True,
                        "start_ns": start,
                        "paused_ns": paused if completed else None,
                        "resumed_ns": resumed if completed else None,
                        "end_ns": max(resumed, ends[-1]),
                        "disturbed": False,
                        "notes": "",
                    }
                ]
            ),
            "rounds": rounds,
            "encodings": pd.DataFrame(
                [
                    (trial_id, "m1", number, encoding, count // 2, count // 2 * 4096, sent)
                    for number, count in enumerate(pages)
                    for encoding, sent in (("none", count // 2 * 4096), ("zero", 0))
                ],
                columns=[*columns, "round", "encoding", "pages", "bytes", "wire_bytes"],
            ),
            "brownout": pd.DataFrame(
                [
                    (trial_id, "warm-up", start - SECOND, start, 500, 300_000, 700_000, 5120.0, 0.0),
                    (trial_id, "rounds", start, paused, 900, 420_000, (4 + repeat) * MS, 4608.0, 512.0),
                ][: 1 if case == COLD else 2],
                columns=[
                    *("trial_id", "span", "start_ns", "end_ns", "requests", "request_median_ns", "request_p99_ns"),
                    *("dirty_pages_per_s", "skipped_pages_per_s"),
                ],
            ),
            "steps": pd.DataFrame(steps, columns=[*columns, "step", "place", "start_ns", "end_ns"]),
            "outages": pd.DataFrame(
                outages,
                columns=["trial_id", "client", "estimator", "outage_ns", "low_ns", "high_ns", "start_ns", "end_ns"],
            ),
            "waterfall": pd.DataFrame(
                parts, columns=["trial_id", "client", "estimator", "order", "part", "start_ns", "end_ns"]
            ),
            "relearned": pd.DataFrame(
                [(trial_id, f"s{n}", f"s{n}-eth{n}", resumed + n * 60_000, "garp") for n in (1, 2, 3)][: 3 * completed],
                columns=["trial_id", "switch", "port", "time_ns", "cause"],
            ),
            "captures": pd.DataFrame(
                [(trial_id, point, 9000, 9000, 0, True, 3, 3) for point in (*self.clients, "guest-a", "guest-b")],
                columns=[
                    *("trial_id", "point", "frames", "packets", "drops", "complete"),
                    *("retransmits", "kernel_retransmits"),
                ],
            ),
            "requests": self._requests(trial_id, start, max(resumed, ends[-1]), outage, rng),
            "timeline": self._timeline(
                trial_id, ends=(start, ends[-1], max(resumed, ends[-1])), outage=outage, rng=rng
            ),
            **self._flows(trial_id, again, paused if completed else ends[-1]),
        }

    def _requests(
        self, trial_id: str, start: int, end: int, outage: Mapping[str, tuple[int, int]], rng: np.random.Generator
    ) -> pd.DataFrame:
        frames = []
        for client in self.clients:
            intended = np.arange(start - SECOND, end + SECOND, SECOND // self.rate_hz)
            latency = (300_000 * rng.lognormal(0, 0.35, len(intended))).astype("int64")
            first, last = outage.get(client, (0, 0))
            answered = np.where((intended >= first) & (intended < last), last + latency // 3, intended + latency)
            frames.append(
                pd.DataFrame(
                    {
                        "trial_id": trial_id,
                        "client": client,
                        "workload": "request",
                        "connection": np.arange(len(intended)) % 10 + 1,
                        "sequence": np.arange(len(intended)) // 10 + 1,
                        "intended_ns": intended,
                        "sent_ns": intended + 20_000,
                        "answered_ns": answered,
                        "right": True,
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def _timeline(
        self,
        trial_id: str,
        *,
        ends: tuple[int, int, int],
        outage: Mapping[str, tuple[int, int]],
        rng: np.random.Generator,
    ) -> pd.DataFrame:
        start, sent_until, end = ends
        bins = np.arange(start - SECOND, end + SECOND, 20 * MS)
        sent = np.where((bins >= start) & (bins < sent_until), 0.74e9, 0.0) * rng.normal(1, 0.02, len(bins))
        came = {"series": "received_bit_per_s", "time_ns": bins}
        frames = [pd.DataFrame({"client": "migration", **came, "value": sent})]
        for index, client in enumerate(self.clients):
            first, last = outage.get(client, (0, 0))
            rate = np.where(sent > 0, 0.09e9, 0.35e9) * rng.normal(1 - index / 5, 0.03, len(bins))
            rate[(bins + 20 * MS > first) & (bins < last)] *= 0.1
            frames.append(pd.DataFrame({"client": client, **came, "value": rate}))
            frames.append(pd.DataFrame({"client": client, **came, "series": "sent_bit_per_s", "value": rate / 4}))
        whole = pd.concat(frames, ignore_index=True)
        return whole.assign(trial_id=trial_id)[["trial_id", "client", "series", "time_ns", "value"]]

    def _flows(self, trial_id: str, again: int, paused: int) -> dict[str, pd.DataFrame]:
        flows, segments = [], []
        for index, client in enumerate(self.clients):
            for number, workload in enumerate(("request", "download", "upload", "connect"), start=1):
                ends = (f"10.77.1.{index + 1}:{40000 + number}", "10.77.0.100:7000")
                for sender, (local, remote) in (("client", ends), ("guest", ends[::-1])):
                    count = again if (client, workload, sender) == ("c1", "request", "client") else 0
                    early = 1 if (workload, sender) == ("download", "guest") else 0
                    flows.append(
                        {
                            "trial_id": trial_id,
                            "client": client,
                            "workload": workload,
                            "connection": number,
                            "sender": sender,
                            "local": local,
                            "remote": remote,
                            "segments": 4000 + count + early,
                            "retransmits": count + early,
                            "rto": max(count - 1, 0),
                            "fast": early,
                            "tlp": min(count, 1),
                            "spurious": 0,
                            "kernel_retransmits": count + early,
                            "harmless_blackout_ns": 12 * MS if sender == "client" else None,
                            "predicted_retransmit": True if sender == "client" else None,
                            "timeouts_held": 0,
                            "lost": count,
                            "overtaken": 0,
                            "stall_ns": 14 * MS,
                            "bytes": 4000 * SEGMENT,
                            "wrong_bytes": 0,
                            "integrity": True,
                            "detail": "",
                        }
                    )
                    times = [(paused + (20 + 30 * n) * MS, "tlp" if n == 0 else "rto", "cutover") for n in range(count)]
                    times += [(paused - 900 * MS, "fast", "rounds")] * early
                    for at, kind, phase in times:
                        segments.append((trial_id, f"{local}>{remote}", sender, at, 1000, SEGMENT, 1, kind, phase))
        names = ["trial_id", "flow", "sender", "time_ns", "sequence", "length", "segments", "type", "phase"]
        return {"flows": pd.DataFrame(flows), "retransmits": pd.DataFrame(segments, columns=names)}


@pytest.fixture(scope="session")
def synthetic() -> SyntheticRun:
    return SyntheticRun()


@pytest.fixture(scope="session")
def synthetic_folder(synthetic: SyntheticRun, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The synthetic run on disk, for tests that only read it."""
    return synthetic.write(tmp_path_factory.mktemp("runs") / "synthetic")


@pytest.fixture
def small(synthetic: SyntheticRun) -> SyntheticRun:
    """The same with one client and few requests: quick to write where a test needs a folder of its own."""
    return replace(synthetic, rate_hz=20, clients=("c1",), repeats=2)
