"""Real measuring tools that can run beside our probes: how each is called, and which figure it prints.

Pure: command lines and parsers. A tool runs from the start of the load until it is interrupted (SIGINT), as a user
would end it; its figure is what it then prints, not what could be read out of it. One that is of no use when it is
interrupted is told at its start for how long it is to run.

- fping: prints its own account of the outage, lost pings x period (`-o`). A late answer (10 ms here) counts as lost.
- redis-benchmark, wrk: one connection each, the next request as soon as the answer is there, no rate: a closed loop, so
  whoever waits does not send (coordinated omission). redis-benchmark prints nothing when it is interrupted, so it runs
  in loops of some requests each, and its figure is the longest of those it finished.
- sockperf: ping-pong over UDP at 1 kHz. It waits without end for the answer to a datagram that was lost, and leaves
  that wait out of its maximum and of its count of dropped messages.
- iperf3: 1000 datagrams of 100 bytes a second. What its server counted it is told at the end of the time that it was
  given, and not when it is interrupted. Its server counts the numbers that were skipped: a loss that nothing comes
  after is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from unnoticed.workload import SOCKPERF_PORT, TCP_PORT

_MS, _US = 1_000_000, 1_000
_UNITS_NS = {"us": _US, "ms": _MS, "s": 1000 * _MS, "m": 60_000 * _MS}
# What the runner writes under the output of a tool that it should have had to wait for.
ENDED_EARLY = "unnoticed: it ended before the trial did"
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool. `arguments` makes the command line from the guest's address and the seconds for which it is to run.

    `figure` reads what it printed, in ns. `package`: Debian's. `rule`, `why`: a few words for a table.
    """

    name: str
    package: str
    rule: str
    why: str
    start_ns: int = 0  # how long it takes before it measures
    is_interrupted: bool = True  # when the trial is over; otherwise it is waited for
    arguments: Callable[[str, int], list[str]]
    figure: Callable[[str], int | None]


def fping_outage_ns(text: str) -> int | None:
    """The last `outage(ms) = 120` of its summary; None where there is none."""
    found = re.findall(r"outage\(ms\) = (\d+)", text)
    return int(found[-1]) * _MS if found else None


def redis_longest_ns(text: str) -> int | None:
    """The longest `max_latency_ms`, the last column, of its CSV lines; None where no loop was finished."""
    longest = [float(value) for value in re.findall(r'^"PING[^\n]*,"([0-9.]+)"$', text, flags=re.MULTILINE)]
    return round(max(longest) * _MS) if longest else None


def wrk_longest_ns(text: str) -> int | None:
    """The third number of `Latency  60.59us  63.72us  2.47ms  99.50%`: average, deviation, maximum."""
    found = re.search(r"^ +Latency +\S+ +\S+ +([0-9.]+)(us|ms|s|m) ", text, flags=re.MULTILINE)
    return None if found is None else round(float(found[1]) * _UNITS_NS[found[2]])


def sockperf_longest_ns(text: str) -> int | None:
    """`<MAX> observation = 2176.799`, in microseconds."""
    found = re.search(r"<MAX> observation = *([0-9.]+)", _ESCAPE.sub("", text))
    return None if found is None else round(float(found[1]) * _US)


def iperf3_lost_ns(text: str) -> int | None:
    """`end.sum.lost_packets` of its JSON, x 1 ms. None where there is no such end, or it came before the trial's."""
    start = text.find("{")
    try:
        report, end = json.JSONDecoder().raw_decode(text, max(start, 0))
        lost = report["end"]["sum"]["lost_packets"]
    except (ValueError, KeyError, TypeError):
        return None
    return lost * _MS if isinstance(lost, int) and ENDED_EARLY not in text[end:] else None


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            name="fping",
            package="fping",
            rule="-l -p 10 -o: lost pings x 10 ms",
            why="the kernel at the guest's port answers it, not the guest: a pause with the port open is not seen",
            arguments=lambda guest, _: ["fping", "-l", "-p", "10", "-o", "-q", guest],
            figure=fping_outage_ns,
        ),
        Tool(
            name="redis-benchmark",
            package="redis-tools",
            rule="PING, 1 connection, loops of 1000: longest",
            why="a closed loop over TCP; what a loop waits for a new connection is not in its latencies",
            arguments=lambda guest, _: [
                *("stdbuf", "-oL", "redis-benchmark", "-h", guest, "-p", str(TCP_PORT)),
                *("-t", "ping_mbulk", "-c", "1", "-n", "1000", "-l", "--csv"),
            ],
            figure=redis_longest_ns,
        ),
        Tool(
            name="wrk",
            package="wrk",
            rule="GET, 1 connection: longest",
            why="a closed loop over TCP: one long wait among thousands, and only the maximum shows it",
            arguments=lambda guest, _: ["wrk", "-t1", "-c1", "-d3600s", "--latency", f"http://{guest}:{TCP_PORT}/"],
            figure=wrk_longest_ns,
        ),
        Tool(
            name="sockperf",
            package="sockperf",
            start_ns=2500 * _MS,  # it sleeps for two seconds, and throws the first 0.4 s of its messages away
            rule="UDP ping-pong at 1 kHz: longest",
            why="stops for good at the first lost datagram, and leaves it out of its maximum",
            arguments=lambda guest, _: [
                *("sockperf", "ping-pong", "-i", guest, "-p", str(SOCKPERF_PORT)),
                *("-t", "3600", "--mps", "1000", "--full-rtt"),
            ],
            figure=sockperf_longest_ns,
        ),
        Tool(
            name="iperf3",
            package="iperf3",
            is_interrupted=False,
            rule="-u -l 100 -b 800k: lost datagrams x 1 ms",
            why="sums every loss of the test; none at its end, where nothing arrives any more, and no held frame",
            arguments=lambda guest, seconds: [
                *("iperf3", "-c", guest, "-p", str(TCP_PORT), "-u", "-l", "100", "-b", "800k"),
                *("-t", str(seconds), "--json"),
            ],
            figure=iperf3_lost_ns,
        ),
    )
}


def output_name(client: str, tool: str) -> str:
    """The file in a trial's folder that holds what a tool printed."""
    return f"{client}-{tool}.out"
