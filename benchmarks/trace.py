#!/usr/bin/env python3
"""The trace that a migration leaves: segments sent again, as the kernels of clients and guest count them.

    .venv/bin/python benchmarks/trace.py [--migrations 100] [--beside 20] [--scenarios dedicated,shared,100,tree,delay]
    .venv/bin/python benchmarks/trace.py --migrations 20 --beside 0 --scenarios long,answered

One guest goes back and forth under load, with `gap = "hold"` and, spread among these, with `gap = "drop"`. A migration
is clean if, from the moment it is ordered until a while after it, TcpRetransSegs stood still in the namespaces of the
client and of the guest, of which it has one at each host. As often as frames are dropped nothing is migrated for as
long: what is sent again then is the machine's doing. Of every segment that was sent again the captures tell who sent
it, when and why; so a second count, `cutover`, has the migrations in which nothing was from the announcement or the
pause on until 0.3 s after the resume: on a machine that stands still now and then it is the one to look at.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unnoticed import own_root
from unnoticed.clock import now_ns, realtime_offset_ns
from unnoticed.events import EventLog
from unnoticed.experiments.analysis.raw import RawRecords
from unnoticed.experiments.cast import Cast
from unnoticed.experiments.live import fabric_for
from unnoticed.experiments.planning.plan import load_plan, trials
from unnoticed.probes.retransmits import Retransmission, count_retransmits
from unnoticed.probes.tcp_flows import address
from unnoticed.topology.fabric import Fabric
from unnoticed.topology.runs import Run

CUTOVER_OVER_NS = 300_000_000
AFTERMATH_S = 0.5  # a retransmission timer of 200 ms has run out by then, and what it sent is answered
# The whole working set is sent while the guest stands still, for a quarter of a second: longer than TCP's first timer.
LONG = ('guest.dirty_rate="100 MiB/s"', 'migration.threshold="64 MiB"')
SCENARIOS: dict[str, tuple[str, ...]] = {
    "dedicated": (),
    "shared": ('fabric.migration_network="shared"', 'migration.rate_limit="400 Mbit/s"'),
    "100": ("clients.request_response.connections=100",),
    "tree": ('fabric.shape="tree"',),
    "delay": ('fabric.link.delay="5 ms"', 'fabric.links={"a-b" = {delay = "0 ms"}}'),
    "long": LONG,
    "answered": (*LONG, "migration.zero_window=true"),
}
SHORT = "dedicated,shared,100,tree,delay"
# What must not grow in a migration that holds: frames that came twice, or behind later ones.
UNTOUCHED = ("TCPDSACKOldSent", "TCPDSACKOfoSent", "TCPOFOQueue")


@dataclass(frozen=True, kw_only=True)
class Window:
    """A time in which a guest was migrated, or was not (`gap` is "none"), and what kernels counted in it."""

    gap: str
    number: int
    start_ns: int
    end_ns: int
    counts: Mapping[tuple[str, str], int]  # by place and counter
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def retransmits(self) -> dict[str, int]:
        """By client and guest."""
        found = {"client": 0, "guest": 0}
        for (place, name), count in self.counts.items():
            if name == "RetransSegs":
                found["guest" if place.startswith("guest") else "client"] += count
        return found

    @property
    def is_clean(self) -> bool:
        return not any(self.retransmits.values())

    @property
    def cutover_ns(self) -> tuple[int, int]:
        """From when the switches are told, or the guest is paused, until no timer runs any more; or all the time."""
        begin = int(self.report.get("turned_ns") or self.report.get("paused_ns") or self.start_ns)
        resumed_ns = self.report.get("resumed_ns")
        return begin, self.end_ns if resumed_ns is None else min(self.end_ns, int(resumed_ns) + CUTOVER_OVER_NS)

    @property
    def blackout_ms(self) -> float:
        return float(self.report["resumed_ns"] - self.report["paused_ns"]) / 1e6


def counters(fabric: Fabric) -> dict[tuple[str, str], int]:
    """What the kernels of the clients and the guest have counted so far, by place and name (proc_net_snmp(5))."""
    found = {}
    for place in (*fabric.clients, "guest-a", "guest-b"):
        for file in ("snmp", "netstat"):
            lines = Path(f"/proc/{fabric.places[place].pid}/net/{file}").read_text().splitlines()
            for names, values in zip(lines[::2], lines[1::2], strict=True):
                counted = zip(names.split()[1:], values.split()[1:], strict=True)
                found |= {(place, name): int(value) for name, value in counted if name in ("RetransSegs", *UNTOUCHED)}
    return found


def windows(fabric: Fabric, cast: Cast, *, migrations: int, beside: int) -> Iterator[Window]:
    """So many migrations that hold, and `beside` that drop and times without one, evenly among them."""
    dropped = 0
    for held in range(migrations):
        report = yield from _window(fabric, cast, "hold", number=held + dropped)
        print(f"\r{held + 1} of {migrations} ", end="\n" * (held + 1 == migrations), file=sys.stderr, flush=True)
        if (held + 1) * beside // migrations > dropped:
            yield from _window(fabric, cast, "drop", number=held + 1 + dropped)
            dropped += 1
            cast.watch.sleep(1.0)  # whoever waits for a timer that has backed off is served by then
            yield from _window(fabric, cast, "none", time_s=(report["end_ns"] - report["start_ns"]) / 1e9)


def _window(
    fabric: Fabric, cast: Cast, gap: str, *, number: int = 0, time_s: float = 0.0
) -> Generator[Window, None, Mapping[str, Any]]:
    """Migrate, or wait for `time_s`; then wait for what comes of it. Returns the source's report."""
    before, start_ns = counters(fabric), now_ns()
    report: Mapping[str, Any] = {}
    if gap == "none":
        cast.watch.sleep(time_s)
    else:
        report = cast.migrate(number=number, gap=gap)
    cast.watch.sleep(AFTERMATH_S)
    after = counters(fabric)
    grown = {key: after[key] - count for key, count in before.items()}
    yield Window(gap=gap, number=number, start_ns=start_ns, end_ns=now_ns(), counts=grown, report=report)
    return report


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What came of one scenario."""

    windows: Sequence[Window]
    again: Sequence[tuple[str, Retransmission]]  # by flow
    kinds: Mapping[str, str]  # the workload of a flow, and who sends
    problems: Sequence[str]


def perform(plan: Path, overrides: Sequence[str], *, migrations: int, beside: int, folder: Path) -> Scenario:
    """Have a guest migrated on a fabric of its own, and read what is left of that."""
    trial = trials(load_plan(plan, overrides=overrides))[0]
    events = EventLog(folder / "events.jsonl", who="runner")
    with (
        Run(output=folder) as run,
        fabric_for(trial.settings, run_id=run.id) as fabric,
        Cast(trial, folder, fabric) as cast,
    ):
        events.write("clock", offset_ns=realtime_offset_ns(), at="start")
        cast.start_load()
        time.sleep(trial.settings.phases.warm_up_ns / 1e9)
        found = list(windows(fabric, cast, migrations=migrations, beside=beside))
        cast.stop_load()
        cast.verify()
        problems = cast.stop_observer()
        events.write("clock", offset_ns=realtime_offset_ns(), at="stop")
    events.close()
    raw = RawRecords(folder, trial.settings)
    turned = {event["migration"]: event["time_ns"] for event in raw.named("announced")}
    found = [
        replace(window, report={**window.report, "turned_ns": turned.get(window.number)})
        if window.gap == "hold"
        else window
        for window in found
    ]
    readings = [event for event in raw.named("socket") if event.get("integrity") is not None]
    problems += [
        f"{event['who']}: {event['local']} ({event['workload']}): {event.get('detail')}"
        for event in readings
        if not event["integrity"]
    ]
    problems += [f"{event['event']}: {event}" for event in raw.named("reset", "trouble", "connection-lost")]
    problems += [f"{event['wrong_pages']} pages are wrong" for event in raw.named("ram") if event["wrong_pages"]]
    problems += [
        f"held: {event['refused']} refused" for event in raw.named("held") if event["refused"] or event["overdue"]
    ]
    kinds = {}
    for event in readings:
        kinds[f"{event['local']}>{event['remote']}"] = f"client, {event['workload']}"
        kinds[f"{event['remote']}>{event['local']}"] = f"guest, {event['workload']}"
    return Scenario(windows=found, again=list(_again(raw)), kinds=kinds, problems=problems)


def _again(raw: RawRecords) -> Iterator[tuple[str, Retransmission]]:
    """Every segment that was sent again, with its flow, as the captures at its sender tell."""
    mss = {f"{event['local']}>{event['remote']}": int(event["snd_mss"]) for event in raw.named("socket")}
    guests = {address(str(event["remote"]).rsplit(":", 1)[0]) for event in raw.named("socket") if "integrity" in event}
    sides = [(raw.packets(client), [raw.client_address(client)]) for client in raw.clients]
    for packets, senders in [*sides, (raw.guest_packets, sorted(guests))]:
        for flow in count_retransmits(packets, senders=senders, snd_mss=mss):
            yield from ((flow.flow.name, row) for row in flow.rows)


def table(name: str, scenario: Scenario) -> Iterator[str]:
    """The lines of a scenario: clean migrations, what was sent again, and why."""
    for gap in ("hold", "drop", "none"):
        these = [window for window in scenario.windows if window.gap == gap]
        clean = sum(window.is_clean for window in these)
        again = [sum(window.retransmits[end] for window in these) for end in ("client", "guest")]
        moved = [sum(window.counts[key] for window in these for key in window.counts if key[1] == counter)
                 for counter in UNTOUCHED]  # fmt: skip
        spread = ""
        times = sorted(window.blackout_ms for window in these if window.report.get("outcome") == "completed")
        if times:
            p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
            spread = f"{len(times):>4} {statistics.median(times):7.2f} {p95:7.2f} {times[-1]:7.2f}"
        cutover = sum(not any(_during(scenario, *window.cutover_ns)) for window in these)
        yield (
            f"{name:<10} {gap:<5} {clean:>4} of {len(these):<4} {cutover:>7} {again[0]:>7} {again[1]:>7} "
            f"{moved[0] + moved[1]:>7} {moved[2]:>7}  {spread}"
        )
        if gap != "drop":
            yield from (f"{'':<11}{line}" for line in reasons(these, scenario))


def reasons(these: Iterable[Window], scenario: Scenario) -> Iterator[str]:
    """Of each window that is not clean: who sent again what kind of segment, how long after the pause."""
    for window in these:
        if window.is_clean:
            continue
        inside = _during(scenario, window.start_ns, window.end_ns)
        groups: Counter[tuple[str, str, str]] = Counter()
        for flow, row in inside:
            groups[scenario.kinds.get(flow, "?"), row.type, _moment(window, row.time_ns)] += row.segments
        done = window.report.get("outcome") == "completed"
        blackout = f"blackout {window.blackout_ms:.1f} ms: " if done else window.report.get("reason", "")
        words = [f"{count} {kind} by {who} {moment}" for (who, kind, moment), count in groups.items()]
        yield blackout + ("; ".join(words) or "nothing in the captures")


def _during(scenario: Scenario, from_ns: int, to_ns: int) -> list[tuple[str, Retransmission]]:
    """What was sent again between two moments."""
    return [(flow, row) for flow, row in scenario.again if from_ns <= row.time_ns <= to_ns]


def _moment(window: Window, time_ns: int) -> str:
    paused_ns, resumed_ns = window.report.get("paused_ns"), window.report.get("resumed_ns")
    if paused_ns is None or resumed_ns is None:
        return f"{(time_ns - window.start_ns) / 1e6:.0f} ms in"
    if time_ns < paused_ns:
        return f"{(paused_ns - time_ns) / 1e6:.1f} ms before the pause"
    if time_ns <= resumed_ns:
        return f"{(time_ns - paused_ns) / 1e6:.1f} ms into the blackout"
    return f"{(time_ns - resumed_ns) / 1e6:.1f} ms after the resume"


HEAD = (
    f"{'scenario':<10} {'gap':<5} {'clean':>12} {'cutover':>7} {'client':>7} {'guest':>7} {'twice':>7} {'late':>7}  "
    f"{'done':>4} {'median':>7} {'p95':>7} {'most':>7} ms of blackout"
)


def main() -> int:
    """Print the scenarios; 1 if a byte was wrong, a connection lost or a capture incomplete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--migrations", type=int, default=100, help="with gap = hold")
    parser.add_argument("--beside", type=int, default=20, help="with gap = drop, and times without a migration")
    parser.add_argument("--scenarios", default=SHORT, help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_suffix(".toml"))
    parser.add_argument("--set", action="append", default=[], help="of the plan, in every scenario")
    parser.add_argument("--keep", type=Path, help="leave the records in this folder")
    given = parser.parse_args()
    own_root.enter()
    problems: list[str] = []
    print(HEAD)
    for name in given.scenarios.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if given.keep is None else given.keep / name
            folder.mkdir(parents=True, exist_ok=True)
            scenario = perform(
                given.plan,
                [*SCENARIOS[name], *given.set],
                migrations=given.migrations,
                beside=min(given.beside, given.migrations),
                folder=folder,
            )
        print("\n".join(table(name, scenario)), flush=True)
        problems += [f"{name}: {problem}" for problem in scenario.problems]
    print("\n".join(problems) or "No byte was wrong, no connection lost, no frame refused; the captures are complete.")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
