"""The gate: what passes it, what it drops, and that it counts both."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from unnoticed.agents.kernel.packet_socket import VIRTIO_HEADER_BYTES
from unnoticed.agents.kernel.tap import Tap
from unnoticed.tcpinfo import read_tcp_info
from unnoticed.topology.gate import WAYS, Gate

pytestmark = pytest.mark.root


def in_namespace(function):
    """Call it in a thread with a network namespace of its own, whose lo is up."""
    outcome: list[BaseException | None] = []

    def run():
        try:
            assert ctypes.CDLL(None).unshare(0x40000000) == 0
            subprocess.run(["ip", "link", "set", "dev", "lo", "up"], check=True)
            function()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if outcome[0] is not None:
        raise outcome[0]


def arrived(count, port=9):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", port))
        receiver.setblocking(False)
        for _ in range(count):
            sender.sendto(b"probe", ("127.0.0.1", port))
        found = 0
        while True:
            try:
                receiver.recv(16)
            except BlockingIOError:
                return found
            found += 1


def test_it_passes_drops_and_passes_again_and_counts():
    def check():
        gate = Gate("lo")
        assert arrived(100) == 100
        assert gate.dropped == 0
        gate.drop(1)
        assert arrived(100) == 0
        assert gate.dropped == gate.dropped_udp == 100
        gate.drop(0)
        assert arrived(100) == 100
        assert gate.dropped == 100
        assert gate.valves["to-guest"].seen == 300
        assert gate.valves["from-guest"].seen == 200  # the other hundred was dropped on its way out
        gate.close()

    in_namespace(check)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_shut_for_itself(way):
    def check():
        gate = Gate("lo")
        gate.drop(1, ways=[way])
        assert arrived(50) == 0
        assert {name: valve.dropped for name, valve in gate.valves.items()} == {
            name: 50 if name == way else 0 for name in WAYS
        }
        gate.close()

    in_namespace(check)


def test_random_loss_drops_about_its_share_and_knows_exactly_how_many():
    def check():
        gate = Gate("lo")
        gate.drop(0.1, ways=["to-guest"])
        lost = 20_000 - sum(arrived(100) for _ in range(200))
        assert gate.dropped == gate.dropped_udp == lost
        assert 1_700 < lost < 2_300  # 2000, give or take seven standard deviations
        gate.close()

    in_namespace(check)


def test_what_is_not_udp_is_not_counted_as_udp():
    def check():
        gate = Gate("lo")
        gate.drop(1)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            assert connection.connect_ex(("127.0.0.1", 9)) != 0
        assert gate.dropped == 1
        assert gate.dropped_udp == 0
        gate.close()

    in_namespace(check)


def test_a_share_put_aside_leaves_at_another_device_whole_and_counted():
    def check():
        gate, tap = Gate("lo"), Tap("late%d", most_frames=64)
        gate.valves["to-guest"].put_aside(1.0, index=tap.index)
        assert arrived(20) == 0
        frames = [frame for frame in tap.read() if frame[VIRTIO_HEADER_BYTES + 14 + 20 + 8 :] == b"probe"]
        assert len(frames) == 20
        assert gate.valves["to-guest"].aside_udp == 20
        assert gate.dropped == 0
        gate.valves["to-guest"].put_aside(0.0, index=tap.index)
        assert arrived(20) == 20
        tap.close()
        gate.close()

    in_namespace(check)


def test_a_closed_window_stops_who_sends_until_it_is_opened_and_no_checksum_is_wrong():
    def check():
        gate = Gate("lo")
        with socket.create_server(("127.0.0.1", 9)) as server, socket.create_connection(("127.0.0.1", 9)) as sender:
            receiver, _ = server.accept()
            gate.valves["to-guest"].close_window(True)
            sender.send(b"x")
            assert receiver.recv(1) == b"x"
            while read_tcp_info(sender).unacked:  # the acknowledgement is what says it
                time.sleep(0.01)
            receiver.settimeout(0.05)
            sender.send(b"y")
            with pytest.raises(TimeoutError):
                receiver.recv(1)
            gate.valves["to-guest"].close_window(False)
            receiver.settimeout(30)
            assert receiver.recv(1) == b"y"
            receiver.close()
        names, values = (
            line.split()[1:] for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if "Tcp:" in line
        )
        counters = dict(zip(names, values, strict=True))
        assert counters["InCsumErrors"] == counters["RetransSegs"] == "0"
        gate.close()

    in_namespace(check)


def test_a_device_that_is_not_there_is_an_error_and_leaks_nothing():
    def check():
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(OSError, match="interface"):
            Gate("nosuch")
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    in_namespace(check)
