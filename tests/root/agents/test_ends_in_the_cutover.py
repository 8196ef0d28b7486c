"""Clients that reset or end their connection just then: when the guest stands still and the gate is not closed yet.

The source runs in this process, so that the moment can be chosen; the destination is an agent of its own.
"""

import contextlib
import gc
import select
import socket
import struct
import time
from pathlib import Path

import pytest

from unnoticed.agents.announce import Announcer
from unnoticed.agents.connections import DepartingConnections
from unnoticed.agents.guest_process import GuestSettings
from unnoticed.agents.helper import Nursery
from unnoticed.agents.host import Host, discard
from unnoticed.agents.kernel.bridge_port import BridgePort, PortState
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.socket_diag import HandshakeMonitor
from unnoticed.agents.migration import MigrationSettings, Outcome
from unnoticed.agents.ram import Slot, slot_base
from unnoticed.agents.source import Source
from unnoticed.events import EventLog
from unnoticed.tcpinfo import read_tcp_info
from unnoticed.workload import ANSWER, RECEIPT, REQUEST, Hello, Kind, mix, pattern

pytestmark = pytest.mark.root

ESTABLISHED, CLOSE, CLOSE_WAIT = 1, 7, 8  # include/net/tcp_states.h


class SourceHere:
    """Host A's side in this process, with a guest that runs."""

    def __init__(self, stage):
        self.stage, self.places = stage, stage.fabric.places
        stage.agents["a"].kill()
        self.home = NetworkNamespace(self.places["a"].pid)
        self.client_home = NetworkNamespace(self.places["c1"].pid)
        self.clients = []
        guest = self.places["guest-a"]
        settings = GuestSettings(
            addresses=(guest.ipv4,),
            interface=guest.interface,
            congestion="cubic",
            events=str(stage.events_path),
            who="guest-a",
        )
        with self.home.entered():
            namespace = NetworkNamespace(guest.pid)
            with namespace.entered():
                announcer, handshakes = Announcer(guest.interface), HandshakeMonitor()
            self.host = Host(
                place="a",
                address=self.places["a"].ipv4,
                key=bytes(32),
                events=EventLog(stage.events_path, who="agent-a"),
                settings=settings,
                namespace=namespace,
                gate=BridgePort("guest"),
                announcer=announcer,
                handshakes=handshakes,
                announcements={},
                nursery=Nursery(),
            )
            self.host.guest = self.host.new_guest(memory_bytes=16 << 20)
        self.guest = self.host.guest
        self.guest.boot(working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
        self.host.gate.set(PortState.FORWARDING)  # the agent that was killed had closed it
        self.guest.resume(moved=False)

    def connect(self, kind, number):
        with self.client_home.entered():
            client = socket.socket()
        self.clients.append(client)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(15)
        client.connect(self.stage.guest_address)
        client.send(Hello(kind, number).pack())
        until(lambda: len(self.guest.ram.used_slots()) == len(self.clients))
        until(lambda: self.guest.ram.quads[slot_base(len(self.clients) - 1) + Slot.KIND] == kind)
        return client

    def migrate(self, **options):
        settings = MigrationSettings(
            number=1, destination=self.places["b"].ipv4, mode="stop-and-copy", policy="none", **options
        )
        with self.home.entered():
            return Source(self.host, settings).run()

    def close(self):
        for client in self.clients:
            client.close()
        if self.host.guest is not None:
            discard(self.host.guest)
        self.host.events.close()
        for each in (self.host.gate, self.host.announcer, self.host.handshakes, self.host.namespace):
            each.close()
        self.home.close()
        self.client_home.close()


@pytest.fixture
def source(stage):
    made = SourceHere(stage)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["hold", "settle"], ids=["before-they-are-held", "while-they-are-held"])
def when_paused(request, monkeypatch):
    """Have something happen while the guest stands still and its gate is open, and wait for what comes of it."""

    def arrange(action, *, slot=0, state=ESTABLISHED):
        step = getattr(DepartingConnections, request.param)

        def step_after(self):
            action()
            connection = self._known[slot].socket
            until(lambda: read_tcp_info(connection).state == state)
            step(self)

        monkeypatch.setattr(DepartingConnections, request.param, step_after)

    return arrange


def until(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def is_served(client, number, sequence):
    client.send(REQUEST.pack(sequence, mix(number, sequence)))
    previous = mix(number, sequence - 1) if sequence > 1 else 0
    return receive(client, ANSWER.size) == ANSWER.pack(sequence, sequence, previous, mix(number, sequence))


def receive(client, length):
    data = b""
    while len(data) < length and (piece := client.recv(length - len(data))):
        data += piece
    return data


def test_a_connection_that_is_reset_just_then_is_let_go_and_the_others_move(stage, source, when_paused):
    clients = [source.connect(Kind.REQUEST, number) for number in (1, 2, 3)]
    assert all(is_served(client, number, 1) for number, client in enumerate(clients, start=1))
    when_paused(lambda: reset(clients[1]), slot=1, state=CLOSE)
    report = source.migrate(verify=True)
    assert (report.outcome, report.reason, report.connections) == (Outcome.COMPLETED, "", 2)
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "resumed"
    assert is_served(clients[0], 1, 2)
    assert is_served(clients[2], 3, 2)
    (lost,) = stage.events("connection-lost")
    assert lost["slot"] == 1
    with source.client_home.entered():
        newcomer = socket.create_connection(stage.guest_address)
    source.clients.append(newcomer)
    newcomer.send(Hello(Kind.REQUEST, 4).pack())
    assert is_served(newcomer, 4, 1)


def test_when_all_are_reset_the_guest_moves_alone(stage, source, when_paused):
    client = source.connect(Kind.REQUEST, 1)
    when_paused(lambda: reset(client), slot=0, state=CLOSE)
    report = source.migrate()
    assert (report.outcome, report.connections) == (Outcome.COMPLETED, 0)
    assert stage.agents["b"].wait_reply("arrival", 10)["arrival"] == "resumed"


def test_a_reset_before_a_cutover_that_fails_is_the_guests_to_notice(stage, source, when_paused):
    client, other = source.connect(Kind.REQUEST, 1), source.connect(Kind.REQUEST, 2)
    when_paused(lambda: reset(client), slot=0, state=CLOSE)
    report = source.migrate(fail_at="dump")
    assert (report.outcome, report.reason) == (Outcome.FAILED, "Step dump at a was asked to fail.")
    until(lambda: source.guest.ram.used_slots() == [1])
    assert is_served(other, 2, 1)


@pytest.mark.parametrize("unread", [0, 5000, 50_000])
def test_an_upload_that_ends_just_then_gets_its_receipt(stage, source, when_paused, unread):
    client = source.connect(Kind.UPLOAD, 1)
    client.sendall(pattern(1, 0, 1000))

    def end():
        client.setblocking(False)
        sent = 1000
        with contextlib.suppress(BlockingIOError):
            while sent < 1000 + unread:
                sent += client.send(pattern(1, sent, min(1 << 15, 1000 + unread - sent)))
        assert sent == 1000 + unread, "the test's own buffers are too small"
        client.shutdown(socket.SHUT_WR)

    until(lambda: source.guest.ram.quads[slot_base(0) + Slot.POSITION] == 1000)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    when_paused(end, slot=0, state=CLOSE_WAIT)
    assert source.migrate().outcome == Outcome.COMPLETED
    client.settimeout(15)
    assert receive(client, 100) == RECEIPT.pack(1000 + unread, 0)
    assert select.select([client], [], [], 15)[0]


def test_a_client_that_ends_just_then_and_the_cutover_fails_is_ended_at_the_source(stage, source, when_paused):
    client = source.connect(Kind.UPLOAD, 1)
    when_paused(lambda: client.shutdown(socket.SHUT_WR), slot=0, state=CLOSE_WAIT)
    assert source.migrate(fail_at="await-ready").outcome == Outcome.FAILED
    assert receive(client, 100) == RECEIPT.pack(0, 0)
    until(lambda: source.guest.ram.used_slots() == [])


def test_requests_that_come_just_then_are_answered_at_the_destination(stage, source, when_paused):
    client = source.connect(Kind.REQUEST, 1)

    def ask():
        client.send(b"".join(REQUEST.pack(sequence, mix(1, sequence)) for sequence in range(1, 301)))
        time.sleep(0.02)

    when_paused(ask)
    assert source.migrate().outcome == Outcome.COMPLETED
    expected = b"".join(
        ANSWER.pack(sequence, sequence, mix(1, sequence - 1) if sequence > 1 else 0, mix(1, sequence))
        for sequence in range(1, 301)
    )
    assert receive(client, len(expected)) == expected


def test_no_descriptor_is_left_open_by_failed_migrations(stage, source):
    client = source.connect(Kind.REQUEST, 1)
    for step in ("pause", "hold", "dump", "send", "await-ready"):
        source.migrate(fail_at=step)

    def count():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for step in ("hush", "pause", "hold", "settle", "close-gate", "dump", "scan", "send", "await-ready", "relinquish"):
        assert source.migrate(fail_at=step).outcome == Outcome.FAILED
    assert count() == before
    assert is_served(client, 1, 1)
