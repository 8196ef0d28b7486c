#!/usr/bin/env python3
"""Pages over the network while somebody waits for them: the mechanism of a post-copy, alone.

    .venv/bin/python benchmarks/postcopy.py [--rate 1] [--delay-ms 0] [--repeats 5] [--mib 256] [--think-us 1000,0]

A RAM on host a of the `single` fabric, its empty copy on host b, and there a process that touches missing pages in
random order, each `think-us` after the one before, while all others are pushed. Latencies are that process's own: from
before it touches a page until it has read it. What of it is the machine's shows in the round trip that is measured
before: a frame's bytes there, a page's and a frame's back, on the same path, which carries nothing else, between two
processes that do nothing else and come before all ordinary ones. Goodput is page contents by time, from the begin of
the push until the last page was in place, as a share of the link's rate. All of the RAM is compared afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import time
from typing import Any

import numpy as np

from unnoticed.agents import wire
from unnoticed.agents.channel import Channel
from unnoticed.agents.helper import LATER_PAGES, Nursery
from unnoticed.agents.kernel import userfaultfd
from unnoticed.agents.page_wire import FRAME_BYTES
from unnoticed.agents.postcopy_destination import PageArrival
from unnoticed.agents.postcopy_source import PageService
from unnoticed.agents.ram import PAGE_BYTES, PAGE_WORDS, Ram

PORT = 7300
PRIORITY = 30  # of SCHED_FIFO: what the helpers that serve waited-for pages have
ROUND_TRIPS = 2000
KEY = bytes(32)


def echo(address: str) -> None:
    """The process on host a that answers as if it had pages, and does nothing else."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    connection = socket.create_connection((address, PORT))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer = bytes(FRAME_BYTES + PAGE_BYTES)
    while connection.recv(FRAME_BYTES, socket.MSG_WAITALL):
        connection.sendall(answer)


def ask(address: str, think_us: int) -> None:
    """The process on host b that asks it; prints how long each answer took, in us."""
    with socket.create_server((address, PORT)) as listener:
        print("listening", flush=True)
        connection, _ = listener.accept()
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    question, took_us = bytes(FRAME_BYTES), []
    for _ in range(ROUND_TRIPS):
        time.sleep(think_us / 1e6)
        start = time.perf_counter_ns()
        connection.sendall(question)
        connection.recv(FRAME_BYTES + PAGE_BYTES, socket.MSG_WAITALL)
        took_us.append((time.perf_counter_ns() - start) / 1000)
    print(json.dumps(took_us))


def source(address: str, memory_bytes: int) -> None:
    """The process on host a: introduces itself, serves, and ends when host b says so."""
    ram = Ram.create(memory_bytes=memory_bytes)
    ram.words[:] = np.arange(ram.words.size, dtype=np.uint64).reshape(ram.words.shape)
    channel = Channel(socket.create_connection((address, PORT)), role=wire.Role.SOURCE, key=KEY)
    channel.send(wire.Hello(nonce=channel.wire.nonce, memory_bytes=memory_bytes))
    channel.expect(wire.Welcome)
    channel.send(wire.Proof())
    nursery = Nursery()
    nursery.begin(LATER_PAGES)
    service = PageService(nursery, ram)
    service.join((address, PORT), session_key=channel.wire.session_key)
    channel.expect(wire.Prepared)
    service.prepare(session_key=channel.wire.session_key)
    service.owe(np.array([[0, ram.pages]], dtype=np.uint64))
    channel.socket.recv(1)
    service.begin()
    service.wait(channel.socket)
    service.close()
    nursery.close()


def destination(address: str, memory_bytes: int, think_us: int) -> None:
    """The process on host b: receives, while a child of it touches pages."""
    nursery = Nursery()
    nursery.begin(LATER_PAGES)
    listener = socket.create_server((address, PORT))
    print("listening", flush=True)
    ram = Ram.create(memory_bytes=memory_bytes, present_pages=1)
    ram.discard(np.array([[0, 1]], dtype=np.uint64))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    me = [sys.executable, __file__, "_touch", str(theirs.fileno()), str(ram.fd), str(memory_bytes), str(think_us)]
    toucher = subprocess.Popen(me, pass_fds=(theirs.fileno(), ram.fd))
    data, (fault_fd,), _, _ = socket.recv_fds(ours, 1 << 16, 1)
    channel = Channel(listener.accept()[0], role=wire.Role.DESTINATION, key=KEY)
    channel.expect(wire.Hello)
    channel.send(wire.Welcome(nonce=channel.wire.nonce))
    channel.expect(wire.Proof)
    key = channel.wire.session_key
    arrival = PageArrival(nursery, memory_bytes=memory_bytes)
    arrival.join(listener, session_key=key)
    arrival.prepare(fault_fd=fault_fd, address=json.loads(data)["address"], session_key=key)
    channel.send(wire.Prepared())
    time.sleep(0.3)
    ours.send(b"begin")
    channel.socket.send(b"b")
    start = time.monotonic()
    pidfd = os.pidfd_open(toucher.pid)
    arrived = arrival.wait(pidfd, owed_pages=ram.pages)
    took_s = time.monotonic() - start
    arrival.finish()
    nursery.close()
    ours.send(b"enough")
    latencies = json.loads(ours.recv(1 << 22))
    channel.socket.send(b"e")
    words = np.arange(ram.words.size, dtype=np.uint64).reshape(ram.words.shape)
    result = {
        "equal": bool(np.array_equal(ram.words, words)),
        "bit_per_s": memory_bytes * 8 / took_s,
        "pushed_bit_per_s": arrived.pushed_pages * PAGE_BYTES * 8 / took_s,
        "demanded": arrived.demanded_pages,
        "twice": arrived.twice_pages,
        "handler_us": (arrived.faults[:, 1] / 1000).tolist(),
        "latencies_us": latencies,
    }
    print(json.dumps(result))


def touch(control_fd: int, ram_fd: int, memory_bytes: int, think_us: int) -> None:
    """The process that waits for pages."""
    control = socket.socket(fileno=control_fd)
    ram = Ram(ram_fd, memory_bytes=memory_bytes, populate=False)
    fault_fd = userfaultfd.open_missing()
    socket.send_fds(control, [json.dumps({"address": ram.address}).encode()], [fault_fd])
    order = list(range(ram.pages))
    random.Random(1).shuffle(order)
    quads = ram.quads
    control.recv(16)
    control.setblocking(False)
    latencies: list[float] = []
    for page in order:
        start = time.perf_counter_ns()
        value = quads[page * PAGE_WORDS]
        latency = time.perf_counter_ns() - start
        assert value == page * PAGE_WORDS, f"page {page} is wrong"
        if latency > 20_000:  # else it was there
            latencies.append(latency / 1000)
        if think_us:
            time.sleep(think_us / 1e6)
        try:
            control.recv(16)
            break
        except BlockingIOError:
            continue
    control.setblocking(True)
    control.send(json.dumps([round(latency, 1) for latency in latencies]).encode())
    control.recv(1)


def transfer(fabric: Any, memory_bytes: int, think_us: int) -> dict[str, Any]:
    """One transfer."""
    address = fabric.places["b"].ipv4
    me = [sys.executable, __file__]
    receiver = fabric.popen(
        "b", [*me, "_destination", address, str(memory_bytes), str(think_us)], stdout=subprocess.PIPE, text=True
    )
    assert receiver.stdout.readline() == "listening\n"
    sender = fabric.popen("a", [*me, "_source", address, str(memory_bytes)])
    result: dict[str, Any] = json.loads(receiver.communicate()[0])
    sender.wait()
    return result


def round_trips(fabric: Any, think_us: int) -> list[float]:
    """How long the same bytes take where nobody pages, in us."""
    address = fabric.places["b"].ipv4
    me = [sys.executable, __file__]
    asker = fabric.popen("b", [*me, "_ask", address, str(think_us)], stdout=subprocess.PIPE, text=True)
    assert asker.stdout.readline() == "listening\n"
    answerer = fabric.popen("a", [*me, "_echo", address])
    took_us: list[float] = json.loads(asker.communicate()[0])
    answerer.wait()
    return took_us


def main() -> None:
    """Print a row for each transfer."""
    if len(sys.argv) > 1 and sys.argv[1] == "_source":
        return source(sys.argv[2], int(sys.argv[3]))
    if len(sys.argv) > 1 and sys.argv[1] == "_destination":
        return destination(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    if len(sys.argv) > 1 and sys.argv[1] == "_echo":
        return echo(sys.argv[2])
    if len(sys.argv) > 1 and sys.argv[1] == "_ask":
        return ask(sys.argv[2], int(sys.argv[3]))
    if len(sys.argv) > 1 and sys.argv[1] == "_touch":
        return touch(*map(int, sys.argv[2:6]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=1, help="Gbit/s")
    parser.add_argument("--delay-ms", type=float, default=0, help="of each link, each way")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--think-us", default="1000,0", help="us, separated by commas")
    arguments = parser.parse_args()
    from unnoticed.agents.kernel import page_loops
    from unnoticed.topology.fabric import Fabric, FabricSpec
    from unnoticed.topology.runs import new_id

    page_loops.make_ready()

    rate_bit_per_s = int(arguments.rate * 10**9)
    header = (
        f"{'think':>8} {'faults':>7} {'p50':>9} {'p99':>9} {'max':>9} {'handler p50':>12} {'handler p99':>12} "
        f"{'all pages':>10} {'pushed':>7} {'twice':>6} {'equal':>6}"
    )
    delay_ns = round(arguments.delay_ms * 1e6)
    with Fabric(
        FabricSpec(shape="single", rate_bit_per_s=rate_bit_per_s, delay_ns=delay_ns), run_id=new_id()
    ) as fabric:
        thinks_us = [int(think_us) for think_us in arguments.think_us.split(",")]
        for think_us in thinks_us:
            took_us = round_trips(fabric, think_us)
            print(f"round trip, {think_us} us apart: p50 {at(took_us, 0.5)}, p99 {at(took_us, 0.99)}", flush=True)
        print(header)
        for think_us in thinks_us:
            for _ in range(arguments.repeats):
                print(row(think_us, transfer(fabric, arguments.mib << 20, think_us), rate_bit_per_s), flush=True)
    return None


def at(values: list[float], share: float) -> str:
    """A quantile, with its unit."""
    return f"{np.quantile(values, share):.0f} us" if values else "-"


def row(think_us: int, result: dict[str, Any], rate_bit_per_s: int) -> str:
    """One line of the table."""
    felt, handled = result["latencies_us"], result["handler_us"]
    return (
        f"{think_us:>5} us {len(felt):>7} {at(felt, 0.5):>9} {at(felt, 0.99):>9} {at(felt, 1):>9} "
        f"{at(handled, 0.5):>12} {at(handled, 0.99):>12} "
        f"{result['bit_per_s'] / rate_bit_per_s:>10.3f} {result['pushed_bit_per_s'] / rate_bit_per_s:>7.3f} "
        f"{result['twice']:>6} {'yes' if result['equal'] else 'NO':>6}"
    )


if __name__ == "__main__":
    main()
