#!/usr/bin/env python3
"""Page streaming against iperf3, on the same path in the same run, in turn.

    .venv/bin/python benchmarks/streaming.py [--rates 1,5,10,0] [--repeats 5] [--mib 1024]

Both send the same number of bytes from host a to host b of the `single` fabric. `bulk` is round 0 (all pages, in long
runs), `scattered` every second page. Goodput is bytes by the wall clock of the sender, up to the destination's
acknowledgement of the round; CPU seconds are user and system time of both ends, without start-up. A rate of 0 is a link
that nothing shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from unnoticed.agents import wire
from unnoticed.agents.channel import Channel
from unnoticed.agents.kernel.pagemap import Runs
from unnoticed.agents.ram import Ram

PORT = 7300
KEY = bytes(32)


def runs_of(kind: str, pages: int) -> Runs:
    """The pages of a round: all of them, or every second one."""
    if kind == "bulk":
        return np.array([[0, pages]], dtype=np.uint64)
    return np.column_stack((np.arange(0, pages, 2), np.ones(pages // 2))).astype(np.uint64)


def send(address: str, kind: str, memory_bytes: int) -> None:
    """The sender's process: one round, timed."""
    ram = Ram.create(memory_bytes=memory_bytes)
    ram.words[:] = np.arange(ram.words.size, dtype=np.uint64).reshape(ram.words.shape)
    channel = Channel(socket.create_connection((address, PORT)), role=wire.Role.SOURCE, key=KEY)
    channel.send(wire.Hello(nonce=channel.wire.nonce, memory_bytes=memory_bytes))
    channel.expect(wire.Welcome)
    channel.send(wire.Proof())
    channel.expect(wire.Prepared)
    runs = runs_of(kind, ram.pages)
    wall, cpu = time.monotonic(), time.process_time()
    channel.send(wire.RoundStart(0), more=True)
    sent = sum(channel.send_pages(message, ram) for message in wire.split(runs))
    channel.send(wire.RoundEnd(int(runs[:, 1].sum())))
    channel.expect(wire.RoundAck)
    print(json.dumps({"bytes": sent, "wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}))


def receive(address: str, memory_bytes: int) -> None:
    """The receiver's process: one round, checked."""
    ram = Ram.create(memory_bytes=memory_bytes)
    ram.words[:] = 0
    listener = socket.create_server((address, PORT))
    print("listening", flush=True)
    channel = Channel(listener.accept()[0], role=wire.Role.DESTINATION, key=KEY)
    channel.expect(wire.Hello)
    channel.send(wire.Welcome(nonce=channel.wire.nonce))
    channel.expect(wire.Proof)
    channel.send(wire.Prepared())
    channel.expect(wire.RoundStart)
    cpu = time.process_time()
    received: list[Runs] = []
    while isinstance(message := channel.receive(), wire.Pages):
        channel.receive_pages(message, ram)
        received.append(message.runs)
    assert isinstance(message, wire.RoundEnd)
    channel.send(wire.RoundAck(message.pages))
    cpu = time.process_time() - cpu
    words = np.arange(ram.words.size, dtype=np.uint64).reshape(ram.words.shape)
    for first, count in np.concatenate(received).tolist():
        assert np.array_equal(ram.words[first : first + count], words[first : first + count]), "pages differ"
    print(json.dumps({"cpu_s": cpu}))


def ours(fabric: Any, kind: str, memory_bytes: int) -> dict[str, float]:
    """One transfer by our streaming."""
    address = fabric.places["b"].ipv4
    me = [sys.executable, __file__]
    receiver = fabric.popen("b", [*me, "_receive", address, str(memory_bytes)], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout.readline() == "listening\n"
    sender = fabric.popen("a", [*me, "_send", address, kind, str(memory_bytes)], stdout=subprocess.PIPE, text=True)
    sent, received = sender.communicate()[0], receiver.communicate()[0]
    result = json.loads(sent)
    return {
        "bit_per_s": result["bytes"] * 8 / result["wall_s"],
        "cpu_s_per_gib": (result["cpu_s"] + json.loads(received)["cpu_s"]) / (result["bytes"] / (1 << 30)),
    }


def iperf3(fabric: Any, total_bytes: int) -> dict[str, float]:
    """One transfer by iperf3; CPU time by wait4, which for these two processes is all but the transfer's."""
    address = fabric.places["b"].ipv4
    server = fabric.popen("b", ["iperf3", "-s", "-1", "-B", address, "--forceflush"], stdout=subprocess.PIPE, text=True)
    while "listening" not in server.stdout.readline():
        pass
    client = fabric.popen(
        "a", ["iperf3", "-c", address, "-n", str(total_bytes), "-J", "-i", "0"], stdout=subprocess.PIPE, text=True
    )
    report = json.loads(client.stdout.read())
    usages = [os.wait4(process.pid, 0)[2] for process in (client, server)]
    received = report["end"]["sum_received"]
    return {
        "bit_per_s": received["bits_per_second"],
        "cpu_s_per_gib": sum(usage.ru_utime + usage.ru_stime for usage in usages) / (received["bytes"] / (1 << 30)),
    }


def main() -> None:
    """Print a row per rate and kind: the ratios, pair by pair."""
    if len(sys.argv) > 1 and sys.argv[1] == "_send":
        return send(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    if len(sys.argv) > 1 and sys.argv[1] == "_receive":
        return receive(sys.argv[2], int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", default="1,5,10,0", help="Gbit/s, separated by commas; 0 for no shaping")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    arguments = parser.parse_args()
    from unnoticed.topology.fabric import Fabric, FabricSpec
    from unnoticed.topology.runs import new_id

    memory_bytes = arguments.mib << 20
    print(f"{'rate':>10} {'kind':>10} {'ours':>12} {'iperf3':>12} {'goodput ratio':>24} {'CPU s/GiB ratio':>24}")
    for rate in arguments.rates.split(","):
        rate_bit_per_s = int(float(rate) * 10**9) or None
        with Fabric(FabricSpec(shape="single", rate_bit_per_s=rate_bit_per_s), run_id=new_id()) as fabric:
            for kind in ("bulk", "scattered"):
                pairs = []
                for _ in range(arguments.repeats):
                    size = memory_bytes if kind == "bulk" else memory_bytes // 2
                    pairs.append((ours(fabric, kind, memory_bytes), iperf3(fabric, size)))
                print(row(rate, kind, pairs), flush=True)
    return None


def row(rate: str, kind: str, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> str:
    """Medians, and the ratios with their range."""

    def ratios(key: str) -> str:
        values = [mine[key] / theirs[key] for mine, theirs in pairs]
        return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    rates = [statistics.median(pair[which]["bit_per_s"] for pair in pairs) / 1e9 for which in (0, 1)]
    return (
        f"{rate + ' Gbit/s' if float(rate) else 'unshaped':>10} {kind:>10} {rates[0]:>7.3f} Gb/s {rates[1]:>7.3f} Gb/s "
        f"{ratios('bit_per_s'):>24} {ratios('cpu_s_per_gib'):>24}"
    )


if __name__ == "__main__":
    main()
