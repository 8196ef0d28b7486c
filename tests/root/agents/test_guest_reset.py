"""A guest process whose client resets its connection: what the event log says of it.

On loopback. A socket filter on the client's side (which some kernels refuse without root) loses the guest's segments,
so that there are retransmissions to be counted. A move is the RAM's copy and the open connections, handed to another
process: no TCP state has to be rebuilt.
"""

import contextlib
import ctypes
import os
import socket
import struct
import time

import pytest

from unnoticed.agents.guest_process import GuestProcess, GuestSettings
from unnoticed.agents.ram import SMALLEST_BYTES, Ram
from unnoticed.events import read_events
from unnoticed.tcpinfo import read_tcp_info
from unnoticed.workload import TCP_PORT, Hello, Kind

pytestmark = pytest.mark.root

ADDRESS = f"127.77.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"  # of this test alone: the port is fixed
CONNECTION = (3 << 32) + 1
SO_ATTACH_FILTER = 26
PATIENCE_S = 20


class HereAlready:
    """In the place of a network namespace: the test's own, which needs no entering."""

    def entered(self):
        return contextlib.nullcontext()


class Guests:
    """Guest processes by name, all on one event log."""

    def __init__(self, folder):
        self.folder = folder
        self.running = {}

    def start(self, who):
        settings = GuestSettings(
            addresses=(ADDRESS,), interface="lo", congestion="reno", events=str(self.folder / "events.jsonl"), who=who
        )
        guest = GuestProcess(settings, ram=Ram.create(memory_bytes=SMALLEST_BYTES), namespace=HereAlready())
        self.running[who] = guest
        guest.wait_ready()
        return guest

    def end(self, who):
        guest = self.running.pop(who)
        guest.kill()
        guest.ram.close()


@pytest.fixture
def guests(tmp_path):
    made = Guests(tmp_path)
    yield made
    for who in list(made.running):
        made.end(who)


@pytest.fixture
def downloading():
    """A client that has begun a download."""
    with socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        client.settimeout(PATIENCE_S)

        def begin():
            client.connect((ADDRESS, TCP_PORT))
            client.sendall(Hello(Kind.DOWNLOAD, CONNECTION, 1_000_000).pack())
            assert client.recv(1000)
            return client

        yield begin


def until(happened, what):
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := happened()):
        assert time.monotonic() < deadline_s, f"{what} does not happen"
        time.sleep(0.01)
    return value


def lose_what_comes(client):
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0), 8)  # return 0: keep nothing of it
    description = struct.pack("HL", 1, ctypes.addressof(program))
    client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, description)


def retransmitted(guest):
    total = 0
    for slot in guest.ram.used_slots():
        with guest.duplicate(slot) as connection:
            total += read_tcp_info(connection).total_retrans
    return total


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def the_socket_event(tmp_path):
    def logged():
        return [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "socket"]

    (event,) = until(logged, "the event")
    return event


def test_a_connection_that_was_reset_is_logged_with_both_names_and_its_counters(guests, downloading, tmp_path):
    guest = guests.start("guest-a")
    guest.boot(working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
    guest.resume(moved=False)
    client = downloading()
    host, port = client.getsockname()
    lose_what_comes(client)
    counted = until(lambda: retransmitted(guest), "a retransmission")
    reset(client)
    event = the_socket_event(tmp_path)
    assert (event["reason"], event["workload"], event["connection"]) == ("reset", "download", CONNECTION)
    assert (event["local"], event["remote"]) == (f"{ADDRESS}:{TCP_PORT}", f"{host}:{port}")
    assert event["total_retrans"] >= counted
    assert event["segs_out"] > event["total_retrans"]
    assert until(lambda: not guest.ram.used_slots(), "the freeing of its slot")


def test_the_clients_name_moves_with_the_ram(guests, downloading, tmp_path):
    source = guests.start("guest-a")
    source.boot(working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
    source.resume(moved=False)
    client = downloading()
    host, port = client.getsockname()
    source.pause()
    (slot,) = source.ram.used_slots()
    moving = source.duplicate(slot)
    image = bytes(source.ram.view)
    guests.end("guest-a")  # its port is free then, and the connection is held here

    destination = guests.start("guest-b")
    destination.ram.view[:] = image
    with moving:
        destination.hand_over({slot: moving})
    destination.resume(moved=True)
    assert client.recv(1000)
    reset(client)
    event = the_socket_event(tmp_path)
    assert (event["who"], event["reason"], event["remote"]) == ("guest-b", "reset", f"{host}:{port}")
