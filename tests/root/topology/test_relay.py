"""What the relay does to frames, where the kernel has no netem. Nothing here asserts how long something took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from unnoticed.errors import FabricError, MachineError
from unnoticed.topology import emulator
from unnoticed.topology.direction import LinkChange
from unnoticed.topology.fabric import Fabric, FabricSpec

pytestmark = pytest.mark.root

MS = 1_000_000
COUNT = 3000
# Sends numbered datagrams and prints what came of them: numbers in order of arrival, with the time each took.
RECEIVER = """
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
s.bind(("", 5000)); s.settimeout(2); print("ready", flush=True)
try:
    while True:
        data = s.recv(2048); now = time.monotonic_ns()
        number, sent = struct.unpack_from("=QQ", data)
        assert data[16:] == bytes(range(256)) * ((len(data) - 16) // 256) + bytes((len(data) - 16) % 256)
        print(number, now - sent)
except TimeoutError:
    pass
"""
SENDER = """
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((sys.argv[1], 5000))
for number in range({count}):
    size = 16 + number * 7 % 1400
    s.send(struct.pack("=QQ", number, time.monotonic_ns()) + bytes(range(256)) * ((size - 16) // 256)
           + bytes((size - 16) % 256))
    time.sleep(0.0003)
"""


@pytest.fixture
def no_netem(monkeypatch):
    monkeypatch.setattr(emulator, "try_netem", lambda: False)


@pytest.fixture
def stream(run, no_netem):
    """Send datagrams from c1 to control over a link that is asked for something: [(number, took_ns)], the counts."""

    def measure(**change):
        spec = FabricSpec(
            shape="single", clients=1, rate_bit_per_s=100_000_000, links=(LinkChange(link="c1>s1", **change),)
        )
        with Fabric(spec, run_id=run.id) as fabric:
            before = fabric.link_counts()["relay"]
            receiver = fabric.popen("control", [sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
            assert receiver.stdout.readline() == "ready\n"
            address = fabric.places["control"].ipv4
            sender = fabric.popen("c1", [sys.executable, "-c", SENDER.format(count=COUNT), address])
            assert sender.wait(60) == 0
            output, _ = receiver.communicate(timeout=60)
            assert receiver.returncode == 0
            counts = fabric.link_counts()
            [outward] = [each for each in fabric.describe()["passages"] if each["sender"] == "c1"]
            assert outward["means"] == "relay"
            relay = {
                name: count - before[outward["inlet"]][name]
                for name, count in counts["relay"][outward["inlet"]].items()
            }
        return [tuple(map(int, line.split())) for line in output.splitlines()], relay

    return measure


def test_every_frame_arrives_whole_in_order_and_not_before_its_delay(stream):
    arrived, counts = stream(delay_ns=5 * MS)
    assert [number for number, _ in arrived] == list(range(COUNT))
    assert min(took for _, took in arrived) >= 5 * MS
    assert counts["taken"] == counts["sent"] >= COUNT
    assert sum(counts[name] for name in ("lost", "repeated", "overflowed", "oversized", "refused", "missed")) == 0


def test_jitter_spreads_the_delay_and_keeps_the_order(stream):
    arrived, _ = stream(delay_ns=10 * MS, jitter_ns=4 * MS)
    assert [number for number, _ in arrived] == list(range(COUNT))
    assert min(took for _, took in arrived) >= 6 * MS
    assert len({took // MS for _, took in arrived}) > 2


def test_frames_overtake_others_where_that_is_asked_for(stream):
    arrived, counts = stream(delay_ns=5 * MS, reorder_ppm=50_000)
    numbers = [number for number, _ in arrived]
    assert sorted(numbers) == list(range(COUNT))
    early = sum(took < 5 * MS for _, took in arrived)
    assert abs(early - 0.05 * COUNT) < 4 * (COUNT * 0.05 * 0.95) ** 0.5
    assert numbers != sorted(numbers)
    assert counts["taken"] == counts["sent"]


def test_frames_are_lost_and_repeated_as_asked_and_each_is_counted(stream):
    arrived, counts = stream(delay_ns=MS, loss_ppm=30_000, duplicate_ppm=40_000)
    numbers = [number for number, _ in arrived]
    assert numbers == sorted(numbers)
    assert counts["sent"] == counts["taken"] - counts["lost"] + counts["repeated"]
    assert abs(COUNT - len(set(numbers)) - counts["lost"]) <= counts["taken"] - COUNT  # ARP may have been lost too
    assert abs(len(numbers) - len(set(numbers)) - counts["repeated"]) <= counts["taken"] - COUNT
    for name, share in (("lost", 0.03), ("repeated", 0.04 * 0.97)):
        assert abs(counts[name] - share * counts["taken"]) < 4 * (counts["taken"] * share) ** 0.5


def test_duplication_alone_needs_no_delay(stream):
    arrived, counts = stream(duplicate_ppm=1_000_000)
    assert [number for number, _ in arrived] == [number for number in range(COUNT) for _ in range(2)]
    assert counts["sent"] == 2 * counts["taken"]


def test_tcp_passes_a_relay_with_its_check_sums(run, no_netem):
    spec = FabricSpec(
        shape="single", clients=1, rate_bit_per_s=100_000_000, links=(LinkChange(link="c1-s1", delay_ns=MS),)
    )
    receive = (
        "import hashlib, socket; s = socket.create_server(('', 5000)); print('ready', flush=True); c = s.accept()[0]\n"
        "h = hashlib.sha256()\nwhile d := c.recv(1 << 20): h.update(d)\nprint(h.hexdigest())"
    )
    send = (
        "import hashlib, random, socket, sys\ndata = random.Random(1).randbytes(3_000_000)\n"
        "s = socket.create_connection((sys.argv[1], 5000)); s.sendall(data); s.shutdown(1); s.recv(1)\n"
        "print(hashlib.sha256(data).hexdigest())"
    )
    with Fabric(spec, run_id=run.id) as fabric:
        server = fabric.popen("control", [sys.executable, "-c", receive], stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "ready\n"
        argv = [sys.executable, "-c", send, fabric.places["control"].ipv4]
        client = fabric.popen("c1", argv, stdout=subprocess.PIPE, text=True)
        assert client.communicate(timeout=60)[0] == server.communicate(timeout=60)[0] != ""
        assert set(fabric.link_counts()["dropped"].values()) == {0}


def relays(processes):
    return [pid for pid, process in processes.items() if process.name.startswith("python")]


def test_the_relay_is_one_process_of_the_fabric_and_goes_with_it(run, traces, processes_of, no_netem):
    before = traces()
    spec = FabricSpec(shape="tree", clients=2, rate_bit_per_s=50_000_000, queue_ns=20 * MS, delay_ns=MS)
    with Fabric(spec, run_id=run.id) as fabric:
        assert {passage["means"] for passage in fabric.describe()["passages"]} == {"relay"}
        assert len(relays(processes_of(fabric.id))) == 1
        assert fabric.check_reachability() > 0
    assert processes_of(run.id) == {}
    assert traces() == before


def test_a_relay_that_died_is_told_when_it_is_asked(run, processes_of, no_netem):
    spec = FabricSpec(shape="single", rate_bit_per_s=100_000_000, links=(LinkChange(link="c1-s1", delay_ns=MS),))
    with Fabric(spec, run_id=run.id) as fabric:
        [pid] = relays(processes_of(fabric.id))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(FabricError, match=r"The relay of the links with a delay (ended|is gone)"):
            fabric.link_counts()
    assert processes_of(run.id) == {}


def test_a_link_comes_back_after_it_was_down(run, no_netem):
    from unnoticed.topology.link import set_administrative

    spec = FabricSpec(
        shape="single", clients=1, rate_bit_per_s=100_000_000, links=(LinkChange(link="c1-s1", delay_ns=MS),)
    )
    with Fabric(spec, run_id=run.id) as fabric:
        [link] = [link.ends for link in fabric.network.links if {end.node for end in link.ends} == {"c1", "s1"}]
        for up in (False, True):
            set_administrative([end for end in link if end.node == "s1"], up=up)
        assert fabric.check_reachability() > 0


def test_a_delay_on_a_fast_link_is_refused_with_what_to_do(run, processes_of, no_netem):
    with pytest.raises(MachineError, match=r"Links faster than 1 Gbit/s .*c1>s1.*modprobe sch_netem"):
        Fabric(FabricSpec(shape="single", rate_bit_per_s=None, delay_ns=MS), run_id=run.id).start()
    assert processes_of(run.id) == {}
