"""Two namespaces joined by a veth pair: a client's, and a guest's with a small server of the tests' own."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

import unnoticed

CLIENT_IP, GUEST_IP, PORT, PROBE_PORT = "10.99.0.1", "10.99.0.2", 7000, 7001
GUEST_MAC, NOBODYS_MAC = "02:99:00:00:00:02", "02:99:00:00:00:99"

SERVER = """
import asyncio, sys
from unnoticed.workload import ANSWER, HELLO, REQUEST, Kind, mix

async def serve(reader, writer):
    _, kind, connection, _ = HELLO.unpack(await reader.readexactly(HELLO.size))
    answered = previous = 0
    if kind == Kind.CONNECT:
        writer.write(ANSWER.pack(0, 0, 0, mix(connection, 0)))
    try:
        while True:
            sequence, value = REQUEST.unpack(await reader.readexactly(REQUEST.size))
            answered += 1
            writer.write(ANSWER.pack(sequence, answered, previous, value))
            previous = value
    except asyncio.IncompleteReadError:
        writer.close()

class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, sender):
        self.transport.sendto(data, sender)

async def main():
    await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]), backlog=512)
    await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=(sys.argv[1], int(sys.argv[3])))
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def run(*command):
    subprocess.run(command, check=True, capture_output=True, timeout=20)


class Pair:
    """The two namespaces. `cut` makes the client's frames for the guest go to a MAC that nobody has."""

    def __init__(self):
        self.client, self.guest = f"load-c-{os.getpid()}", f"load-g-{os.getpid()}"
        self.processes = []
        self.environment = {**os.environ, "PYTHONPATH": str(Path(unnoticed.__file__).parent.parent)}

    def build(self):
        for name in (self.client, self.guest):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "dev", "lo", "up")
        run(
            *("ip", "-n", self.client, "link", "add", "dev", "eth0", "type", "veth"),
            *("peer", "name", "eth0", "address", GUEST_MAC, "netns", self.guest),
        )
        for name, address in ((self.client, CLIENT_IP), (self.guest, GUEST_IP)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "dev", "eth0", "up")
        self.point_at(GUEST_MAC)
        server = self.spawn(self.guest, "-c", SERVER, GUEST_IP, str(PORT), str(PROBE_PORT))
        assert server.stdout.readline() == b"ready\n"

    def point_at(self, mac):
        run(
            *("ip", "-n", self.client, "neighbour", "replace", GUEST_IP),
            *("lladdr", mac, "dev", "eth0", "nud", "permanent"),
        )

    def cut(self, duration_s):
        """Cut the way to the guest; returns times between which it was surely cut, and that surely enclose the cut."""
        before_ns = time.monotonic_ns()
        self.point_at(NOBODYS_MAC)
        from_ns = time.monotonic_ns()
        time.sleep(duration_s)
        until_ns = time.monotonic_ns()
        self.point_at(GUEST_MAC)
        return (from_ns, until_ns), (before_ns, time.monotonic_ns())

    def spawn(self, namespace, *arguments):
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
        )
        self.processes.append(process)
        return process

    def child(self, module, settings):
        """Start a child of unnoticed.probes in the client's namespace and wait until it is ready."""
        process = self.spawn(self.client, "-m", f"unnoticed.probes.{module}", json.dumps(settings))
        assert self.reply(process)["reply"] == "ready"
        return process

    def command(self, process, command):
        process.stdin.write((json.dumps({"command": command}) + "\n").encode())
        process.stdin.flush()

    def reply(self, process):
        readable, _, _ = select.select([process.stdout], [], [], 20)
        assert readable, "the child does not answer"
        line = process.stdout.readline()
        assert line, "the child has ended"
        return json.loads(line)

    def remove(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        for name in (self.client, self.guest):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=20)


@pytest.fixture
def pair():
    made = Pair()
    try:
        made.build()
        yield made
    finally:
        made.remove()
