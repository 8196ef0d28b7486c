"""What goes over the wire of a fabric: rates, gates, and the silence of the guest's idle end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest

from unnoticed.errors import FabricError
from unnoticed.topology import addresses
from unnoticed.topology.bridge import set_gate
from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.namespaces import run_inside
from unnoticed.topology.reachability import check_reachability
from unnoticed.topology.switch import DISABLED, FORWARDING

pytestmark = pytest.mark.root

RECEIVER = """
import json, socket, time
server = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
connection, _ = server.accept()
samples, total = [], 0
while data := connection.recv(1 << 20):
    total += len(data)
    samples.append((time.monotonic(), total))
print(json.dumps(samples))
"""
SENDER = """
import socket, sys, time
connection = socket.socket()
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
connection.connect((sys.argv[1], 7000))
end = time.monotonic() + float(sys.argv[2])
data = bytes(1 << 16)
while time.monotonic() < end:
    connection.sendall(data)
"""


@pytest.mark.parametrize("rate_bit_per_s", [100_000_000, 400_000_000])
def test_a_tcp_transfer_gets_the_rate_that_was_asked_for(run, rate_bit_per_s):
    spec = FabricSpec(shape="single", clients=2, rate_bit_per_s=rate_bit_per_s, queue_ns=20_000_000)
    with Fabric(spec, run_id=run.id) as fabric:
        receiver = fabric.popen("c2", [sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
        assert receiver.stdout.readline() == "ready\n"
        sender = fabric.popen("c1", [sys.executable, "-c", SENDER, fabric.places["c2"].ipv4, "2"])
        assert sender.wait(30) == 0
        samples = json.loads(receiver.communicate(timeout=30)[0])
    # The best whole second, so that a stall of this machine does not count: a shaper that is too slow is so always, and
    # one that is too fast in any second. HTB counts frames: 1448 bytes of payload are 1514 of a frame.
    best, first = 0.0, 0
    for end, total in samples:
        while end - samples[first][0] > 1.0:
            first += 1
        if first > 0:
            began, before = samples[first - 1]
            best = max(best, (total - before) / (end - began))
    measured = best * 8 * 1514 / 1448
    assert rate_bit_per_s * 0.95 < measured < rate_bit_per_s * 1.05


def ping(fabric, *pairs, timeout_s=0.6):
    pids = {name: place.pid for name, place in fabric.places.items()}
    ipv4 = {name: place.ipv4 for name, place in fabric.places.items()}
    check_reachability(pids, ipv4, pairs, timeout_s=timeout_s)


def gate(fabric, host, state):
    run_inside([(fabric.places[host].pid, lambda: set_gate(state, where=host))])


def test_the_guest_is_where_the_gate_is_open_and_nowhere_when_both_are_closed(fabric):
    ping(fabric, ("c1", "guest-a"), ("c2", "guest-a"))
    gate(fabric, "a", DISABLED)
    with pytest.raises(FabricError, match="nothing reached guest-a from c1"):
        ping(fabric, ("c1", "guest-a"))
    gate(fabric, "b", FORWARDING)
    ping(fabric, ("guest-b", "c1"), ("guest-b", "c2"), timeout_s=5)  # which re-teaches the switches
    ping(fabric, ("c1", "guest-b"), ("c2", "guest-b"), ("control", "guest-b"), timeout_s=5)
    with pytest.raises(FabricError, match="nothing reached c1 from guest-a"):
        ping(fabric, ("guest-a", "c1"))
    assert (fabric.gate("a"), fabric.gate("b")) == (0, 3)


def test_a_closed_gate_stays_closed_and_its_carrier_up(fabric):
    time.sleep(1.5)  # the kernel tells carriers at most once a second, and each telling may enable a port
    assert (fabric.gate("a"), fabric.gate("b")) == (3, 0)
    for place in ("guest-a", "guest-b"):
        process = fabric.popen(place, ["cat", "/sys/class/net/eth0/carrier"], stdout=subprocess.PIPE, text=True)
        assert process.communicate(timeout=10)[0] == "1\n"


def test_the_idle_end_of_the_guest_is_never_heard_on_its_hosts_uplink(run):
    spec = FabricSpec(shape="single", guest_neighbours="dynamic")  # so that its kernel has something to ask
    with Fabric(spec, run_id=run.id) as fabric:
        packet_all = socket.htons(0x0003)  # ETH_P_ALL
        (uplink,) = run_inside(
            [(fabric.places["b"].pid, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, packet_all))]
        )
        with uplink:
            uplink.bind(("b-eth0", 0x0003))
            with pytest.raises(FabricError):  # ARP requests, into the closed gate
                ping(fabric, ("guest-b", "c1"), ("guest-b", "b"), timeout_s=1.2)
            ping(fabric, ("b", "c1"))  # and something that must be heard
            uplink.settimeout(0.2)
            sources = set()
            try:
                while True:
                    frame, (_, _, kind, _, _) = uplink.recvfrom(2048)
                    if kind == socket.PACKET_OUTGOING:
                        sources.add(frame[6:12].hex(":"))
            except TimeoutError:
                pass
    assert addresses.DESTINATION.mac in sources
    assert addresses.GUEST.mac not in sources


def test_the_guest_knows_its_neighbours_at_both_ends_without_asking(fabric):
    for place in ("guest-a", "guest-b"):
        process = fabric.popen(place, ["ip", "-j", "neighbour", "show"], stdout=subprocess.PIPE, text=True)
        known = {each["dst"]: each["lladdr"] for each in json.loads(process.communicate(timeout=10)[0])}
        others = [each for each in fabric.places.values() if each.name not in ("guest-a", "guest-b")]
        assert known == {each.ipv4: each.mac for each in others}
