#!/usr/bin/env python3
"""Links as asked against links as measured: the matrix of rate, delay and loss, and by what means each was made.

    .venv/bin/python benchmarks/links.py [--rates 10,100,1000] [--delays 0,5,20,50] [--losses 0,0.1,1] [--json FILE]

One link of the `single` fabric, between the client and the switch, is asked to be each of them in turn; the others are
unshaped. Rate: TCP goodput to the control server, corrected for headers and for the frames that the link loses as
asked. Delay and loss: numbered frames through either direction. Bounds: 3 %, 0.3 ms, and what chance allows in 99 of
100 measurements. What is not as asked is made and measured once more, and both are said.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unnoticed.errors import FabricError, MachineError
from unnoticed.experiments.links import table
from unnoticed.experiments.links.judging import Measured, differences
from unnoticed.experiments.links.measuring import Verified, measure
from unnoticed.topology.direction import Direction, LinkChange
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.runs import Run
from unnoticed.topology.shaping import LARGEST_FRAME_BYTES

PAYLOAD_BYTES, FRAME_BYTES = 1448, 1514  # of a full segment with TCP's time stamps
# Together under ten seconds: then each flow of bbr drains its way for a fifth of a second, to see how long it is.
FLOWS, OMITTED_S, MEASURED_S = 8, 3, 6
QUEUE_NS = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One link that is asked for, both ways."""

    rate_bit_per_s: int
    delay_ns: int
    loss_ppm: int

    @property
    def change(self) -> LinkChange:
        """What the client's link is asked to be."""
        least_ns = -(-LARGEST_FRAME_BYTES * 8_000_000_000 // self.rate_bit_per_s)
        return LinkChange(link="c1-s1", queue_ns=max(QUEUE_NS, least_ns), **asdict(self))


def congestion_control() -> str:
    """Bbr where the kernel has it: the others take every loss for a queue that is full, and leave the link unused."""
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    return "bbr" if "bbr" in available else "cubic"


def goodput_bit_per_s(fabric: Fabric, *, seconds: int, congestion: str) -> float:
    """What arrives at the control server from the client, in bits of payload per second."""
    address = fabric.places["control"].ipv4
    server = fabric.popen("control", ["iperf3", "-s", "-1", "-B", address], stdout=subprocess.DEVNULL)
    try:
        argv = ["iperf3", "-c", address, "-J", "-P", str(FLOWS), "-O", str(OMITTED_S), "-t", str(seconds)]
        for _ in range(50):
            client = fabric.popen("c1", [*argv, "-C", congestion], stdout=subprocess.PIPE, text=True)
            answer = json.loads(client.communicate(timeout=seconds + 60)[0])
            if "refused" not in answer.get("error", ""):
                break
            time.sleep(0.1)
        if "error" in answer:
            raise FabricError(f"iperf3: {answer['error']}")
        return float(answer["end"]["sum_received"]["bits_per_second"])
    finally:
        server.kill()
        server.wait()


def measure_cell(cell: Cell, *, probes: int, seconds: int, congestion: str) -> list[Verified]:
    """Both directions of the link; the rate is that of the first. Raises MachineError if it cannot be had here."""
    spec = FabricSpec(shape="single", clients=1, rate_bit_per_s=None, links=(cell.change,))
    with (
        tempfile.TemporaryDirectory() as folder,
        Run(output=Path(folder)) as run,
        Fabric(spec, run_id=run.id) as fabric,
    ):
        ways = [way for way in fabric.ways() if "c1" in {way.sender.node, way.receiver.node}]
        there, back = measure(sorted(ways, key=lambda way: way.sender.node), probes=probes, rates=False)
        goodput = goodput_bit_per_s(fabric, seconds=seconds, congestion=congestion)
    sent = goodput * FRAME_BYTES / PAYLOAD_BYTES / (1 - cell.loss_ppm / 1e6)
    return [replace(there, measured=replace(there.measured, rate_bit_per_s=sent)), back]


def both_ways(found: list[Verified]) -> tuple[Direction, Measured]:
    """The link in one line: the mean of the two delays, and the losses together. Each direction is judged by itself."""
    there, back = (each.measured for each in found)
    return found[0].way.asked, replace(
        there,
        sent=there.sent + back.sent,
        lost=there.lost + back.lost,
        delay_ns=None if there.delay_ns is None or back.delay_ns is None else (there.delay_ns + back.delay_ns) // 2,
    )


def problems_of(found: list[Verified]) -> list[str]:
    """What is not as asked, of either direction."""
    return [f"{each.way.name}: {what}" for each in found for what in differences(each.way.asked, each.measured)]


def numbers(text: str, unit: int) -> list[int]:
    return [round(float(word) * unit) for word in text.split(",")]


def main() -> int:
    """Print the matrix; the number of cells that are not as asked decides the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rates", default="10,100,1000", help="in Mbit/s")
    parser.add_argument("--delays", default="0,5,20,50", help="of one direction, in ms")
    parser.add_argument("--losses", default="0,0.1,1", help="of one direction, in percent")
    parser.add_argument("--probes", type=int, default=4000, help="frames through each direction")
    parser.add_argument("--seconds", type=int, default=MEASURED_S, help="of TCP for each cell")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("This makes network namespaces: run it as root.", file=sys.stderr)
        return 77
    congestion = congestion_control()
    print(f"TCP: {FLOWS} flows of {congestion}, {given.seconds} s; {given.probes} frames through each direction.")
    rows, documents, wrong, refused = [], [], 0, {}
    matrix = itertools.product(numbers(given.rates, 10**6), numbers(given.delays, 10**6), numbers(given.losses, 10**4))
    for rate, delay, loss in matrix:
        cell = Cell(rate_bit_per_s=rate, delay_ns=delay, loss_ppm=loss)
        name = f"{rate / 1e6:g} Mbit/s, {delay / 1e6:g} ms, {loss / 1e4:g} %"
        print(name, file=sys.stderr)
        before: list[str] = []
        for _ in range(2):  # one in a hundred losses that are right lies outside of its bounds: what shows again counts
            try:
                found = measure_cell(cell, probes=given.probes, seconds=given.seconds, congestion=congestion)
            except MachineError as error:
                refused[name] = str(error)
                break
            problems = problems_of(found)
            if not problems:
                break
            before = before or problems
        if name in refused:
            continue
        wrong += bool(problems)
        asked, measured = both_ways(found)
        rows.append((*table.row("c1-s1", asked, measured, found[0].way.means)[1:5], table.verdict(problems, before)))
        documents.append({
            "asked": asdict(cell),
            "before": before,
            "ways": [table.document(each.way.name, each.way.asked, each.measured, each.way.means) for each in found],
        })  # fmt: skip
    print("\n".join(table.lines(rows, head=table.HEAD[1:])))
    for sentence in dict.fromkeys(refused.values()):
        cells = [name for name, why in refused.items() if why == sentence]
        print(f"Refused here: {'; '.join(cells)}.\n  {sentence}")
    print(f"{len(rows) - wrong} of {len(rows)} links are what was asked for.")
    if given.json is not None:
        given.json.write_text(
            json.dumps({"congestion_control": congestion, "cells": documents, "refused": refused}, indent=1)
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
