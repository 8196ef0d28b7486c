#!/usr/bin/env python3
"""How long a fabric takes to be up and to be gone: 2 hosts, 4 clients, 3 switches; and one of 200 namespaces.

    .venv/bin/python benchmarks/fabric.py [--repeats 20]

Up: from the first namespace until all was read back and everybody has reached everybody. Gone: all of its processes
have ended. The exit code is 1 where the median of either is above 0.6 s for the small one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from unnoticed import own_root
from unnoticed.topology.fabric import Fabric
from unnoticed.topology.runs import Run
from unnoticed.topology.spec import FabricSpec

LIMIT_S = 0.6  # of either, for the small one
SMALL, LARGE = 4, 192  # clients; 8 namespaces come with every tree
_LARGE_REPEATS = 3


def measure(run: Run, clients: int) -> tuple[float, float]:
    """How long a tree with so many clients took to come up, and to be gone, in seconds."""
    fabric = Fabric(FabricSpec(shape="tree", clients=clients), run_id=run.id)
    fabric.start()
    began_s = time.monotonic()
    fabric.stop()
    return fabric.start_s, time.monotonic() - began_s


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    own_root.enter()
    missed = False
    print(f"{'namespaces':>10} {'':<5} {'median':>8} {'longest':>8}")
    with Run() as run:
        measure(run, SMALL)  # imports, and what the kernel loads at first
        for clients, count in ((SMALL, repeats), (LARGE, min(repeats, _LARGE_REPEATS))):
            found = [measure(run, clients) for _ in range(count)]
            for name, times_s in zip(("up", "gone"), zip(*found, strict=True), strict=True):
                median_s = statistics.median(times_s)
                missed |= clients == SMALL and median_s > LIMIT_S
                print(f"{clients + 8:>10} {name:<5} {median_s:>6.2f} s {max(times_s):>6.2f} s", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
