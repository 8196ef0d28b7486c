#!/usr/bin/env python3
"""Whether a capture holds every frame: small frames at a set rate past several points, against the sender's own count.

.venv/bin/python benchmarks/capture.py [--rate 50000] [--seconds 30] [--points 4]

Numbered UDP datagrams go down a chain of bridges; each bridge port on the way is a capture point of one observer, as
in a trial. Printed for each point: frames in the file, packets and drops by the kernel's counters of the ring, and how
many of the numbers are missing; then the observer's share of a processor. Exit 1 if anything is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unnoticed.probes.namespace import inside_network_of
from unnoticed.probes.pcap import read_pcap

_PAYLOAD = 18  # an Ethernet frame of 60 bytes, the smallest there is
_TICK_S = 0.0005
_UDP, _PROTOCOL_AT, _NUMBER_AT = 17, 23, 42
_HOLD = ["unshare", "-n", "sh", "-c", "echo up; exec sleep 3600"]


@contextlib.contextmanager
def chain(links: int) -> Iterator[list[int]]:
    """`links` + 1 namespaces in a row, joined by veth pairs, those between with a bridge; their holders' pids."""
    holders = [subprocess.Popen(_HOLD, stdout=subprocess.PIPE) for _ in range(links + 1)]
    try:
        for holder in holders:
            assert holder.stdout is not None
            holder.stdout.readline()
        pids = [holder.pid for holder in holders]
        for pid in pids:
            with inside_network_of(pid):
                for setting in ("all", "default"):
                    Path(f"/proc/sys/net/ipv6/conf/{setting}/disable_ipv6").write_text("1")
        for left, right in itertools.pairwise(pids):
            _ip(left, f"link add right type veth peer name left netns {right}")
        for pid in pids[1:-1]:
            _ip(pid, "link add switch up type bridge")
            for port in ("left", "right"):
                _ip(pid, f"link set dev {port} up master switch")
        for pid, port, address in ((pids[0], "right", "10.9.0.1"), (pids[-1], "left", "10.9.0.2")):
            _ip(pid, f"address add {address}/24 dev {port}")
            _ip(pid, f"link set dev {port} up")
        yield pids
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            assert holder.stdout is not None
            holder.stdout.close()


def _ip(pid: int, words: str) -> None:
    with inside_network_of(pid):
        subprocess.run(["ip", *words.split()], check=True)


def send(pid: int, *, rate: float, seconds: float) -> int:
    """Send numbered datagrams at `rate` per second, every half millisecond those that are due; how many."""
    with inside_network_of(pid):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.connect(("10.9.0.2", 9))
        sent, begin, padding = 0, time.monotonic(), bytes(_PAYLOAD - 8)
        while sent < rate * seconds:
            due = min(int((time.monotonic() - begin) * rate), int(rate * seconds))
            while sent < due:
                with contextlib.suppress(ConnectionRefusedError):  # said of the one before
                    sender.send(sent.to_bytes(8, "big") + padding)
                    sent += 1
            time.sleep(_TICK_S)
    return sent


def taker(pid: int) -> socket.socket:
    """A socket at the end of the chain: without one, each datagram would be answered with an error."""
    with inside_network_of(pid):
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("10.9.0.2", 9))
    return sink


def main() -> int:
    """Print what each point holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=50_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--points", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chain((arguments.points + 1) // 2) as pids:
        # Both ends of each link, from the left.
        places = [place for pair in itertools.pairwise(pids) for place in ((pair[0], "right"), (pair[1], "left"))]
        points = [
            {"name": f"p{number}", "pid": pid, "interface": port, "file": f"{folder}/p{number}.pcap"}
            for number, (pid, port) in enumerate(places[: arguments.points])
        ]
        settings = {"points": points, "switches": [], "guest_macs": ["02:00:00:00:00:01"], "events": f"{folder}/events"}
        observer = subprocess.Popen(
            [sys.executable, "-m", "unnoticed.probes.observer", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert observer.stdin is not None
        assert observer.stdout is not None
        observer.stdout.readline()  # it is ready
        begin = time.monotonic()
        with taker(pids[-1]):
            sent = send(pids[0], rate=arguments.rate, seconds=arguments.seconds)
        took = time.monotonic() - begin
        observer.stdin.write('{"command": "stop"}\n')
        observer.stdin.flush()
        done = json.loads(observer.stdout.readline())
        observer.wait()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{sent} datagrams in {took:.1f} s: {sent / took:.0f} per second past {len(points)} points")
        print(f"{'point':<6} {'frames':>9} {'packets':>9} {'drops':>6} {'missing':>8}")
        bad = False
        for point in points:
            count, name = done["captures"].get(point["name"], {}), point["name"]
            frames = read_pcap(Path(str(point["file"]))).data
            numbers = frames[frames[:, _PROTOCOL_AT] == _UDP, _NUMBER_AT : _NUMBER_AT + 8].copy().view(">u8")[:, 0]
            missing = sent - len(np.unique(numbers))
            bad = bad or missing != 0 or bool(count.get("drops", 1)) or count.get("frames") != count.get("packets")
            counts = [count.get(key, 0) for key in ("frames", "packets", "drops")]
            print(f"{name:<6} {counts[0]:>9} {counts[1]:>9} {counts[2]:>6} {missing:>8}")
        for problem in done["problems"]:
            print(problem)
        print(f"observer: {(usage.ru_utime + usage.ru_stime) / took:.0%} of a processor")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
