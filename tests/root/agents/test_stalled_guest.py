"""A guest whose process stands still for a while: what was sent to it meanwhile is answered afterwards."""

import os
import signal
from pathlib import Path

import pytest

from unnoticed.workload import PROBE_PORT

pytestmark = pytest.mark.root

PROBERS, PROBES = 4, 500  # half a second of four clients at 1 kHz

PROBER = """
# Sends probes from so many sockets, and counts the answers once it is told to.
import socket, sys

address, port, probers, probes = sys.argv[1], *map(int, sys.argv[2:])
made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(probers)]
for each in made:
    each.setsockopt(socket.SOL_SOCKET, 33, 1 << 20)  # SO_RCVBUFFORCE
    each.settimeout(2)
    each.connect((address, port))
for number in range(probes):
    for each in made:
        each.send(number.to_bytes(24, "big"))
print("sent", flush=True)
sys.stdin.readline()
answered = []
for each in made:
    numbers = set()
    try:
        while len(numbers) < probes:
            numbers.add(int.from_bytes(each.recv(64), "big"))
    except TimeoutError:
        pass
    answered.append(len(numbers))
print(*answered, flush=True)
"""


def test_the_probes_of_four_clients_outlast_half_a_second_in_which_the_guest_stands_still(stage):
    stage.boot()
    (guest,) = stage.children_of(stage.agents["a"])
    address = stage.fabric.places["guest-a"].ipv4
    os.kill(guest, signal.SIGSTOP)
    try:
        prober = stage.python("c1", PROBER, address, PROBE_PORT, PROBERS, PROBES)
        assert prober.stdout.readline() == "sent\n"
    finally:
        os.kill(guest, signal.SIGCONT)
    prober.stdin.write("\n")
    prober.stdin.flush()
    assert prober.stdout.readline().split() == [str(PROBES)] * PROBERS


def test_guest_and_agent_have_a_table_of_descriptors_that_no_connection_makes_grow(stage):
    """To grow it takes the kernel some 20 ms in a process with threads, and would do so in the blackout."""
    stage.boot()
    agent = stage.agents["a"].pid
    for pid in (agent, *stage.children_of(stage.agents["a"])):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (size,) = (int(line.split()[1]) for line in lines if line.startswith("FDSize"))
        assert size >= 1024 + 64
