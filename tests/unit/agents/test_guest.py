"""The guest's connections, on loopback: one iteration of its loop at a time, and a move to another guest in between.

The control socket always has something to read here, so `run` makes one iteration and returns at its safe point.
"""

import contextlib
import fcntl
import json
import os
import socket
import struct
import termios
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unnoticed import workload
from unnoticed.agents import dirtier
from unnoticed.agents import guest as guest_module
from unnoticed.agents.guest import Guest
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_BYTES, SLOTS, Ram, Slot, SlotState, Super, slot_base
from unnoticed.events import EventLog, read_events
from unnoticed.workload import ANSWER, HELLO, RECEIPT, REQUEST, Hello, Kind, mix, pattern

BYTES = (FIRST_DIRTIER_PAGE + 64) * PAGE_BYTES


class Bench:
    """A guest and its clients in one thread."""

    def __init__(self, folder):
        self.events_path = folder / "events.jsonl"
        self.log = EventLog(self.events_path, who="guest-a")
        self.ram = Ram.create(memory_bytes=BYTES)
        self.clients = []
        self.guest = self.make(self.ram)
        self.guest.boot(working_set_pages=32, dirty_pages_per_s=0, pattern=dirtier.Pattern.UNIFORM)
        self.guest.resume(moved=False)

    def make(self, ram):
        self.ours, theirs = socket.socketpair()
        self.ours.send(b"pause")
        return Guest(ram=ram, addresses=["127.0.0.1"], control=theirs, events=self.log, congestion="cubic")

    def turn(self, times=2):
        for _ in range(times):
            self.guest.run()

    def connect(self, *, receive_buffer=None):
        client = socket.socket()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(self.named(self.guest._listeners))
        client.setblocking(False)
        self.clients.append(client)
        self.turn(1)
        return client

    def greeted(self, kind, connection=7, rate=0, **options):
        client = self.connect(**options)
        client.send(Hello(kind, connection, rate).pack())
        self.turn()
        return client

    def move(self, *, peer_closed=()):
        """Let another guest go on from a copy of the memory and the connections."""
        old, old_ram = self.guest, self.ram
        self.ram = Ram.create(memory_bytes=BYTES)
        self.ram.view[:] = old_ram.view
        sockets = {slot: connection.dup() for connection, slot in old._connections.values()}
        self.close_guest(old)
        old_ram.close()
        for slot in peer_closed:
            self.ram.quads[slot_base(slot) + Slot.PEER_CLOSED] = 1
        self.guest = self.make(self.ram)
        for slot, connection in sockets.items():
            self.guest.adopt(slot, connection)
        self.guest.resume(moved=True)

    def close_guest(self, guest):
        for connection, _ in guest._connections.values():
            connection.close()
        bound = (guest._listeners, guest._probes, guest._foreign_probes, guest._counted)
        for each in (guest._epoll, guest._control, self.ours, *(each for some in bound for each in some.values())):
            each.close()
        del guest._quads, guest._ram

    def close(self):
        self.close_guest(self.guest)
        self.ram.close()
        self.log.close()
        for client in self.clients:
            client.close()

    def named(self, sockets):
        """Where one of the guest's kinds of sockets is bound."""
        (only,) = sockets.values()
        return only.getsockname()

    def slot(self, word, slot=0):
        return self.ram.quads[slot_base(slot) + word]

    def events(self):
        return list(read_events(self.events_path))


IPERF3_COOKIE = b"2qgvey6v6l632x5r7u7unmdr43pok64jsrw3\0"
IPERF3_PARAMETERS = struct.pack("!I", 27) + b'{"udp":true,"parallel":1}  '


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "TCP_PORT", 0)
    monkeypatch.setattr(workload, "PROBE_PORT", 0)
    monkeypatch.setattr(workload, "SOCKPERF_PORT", 0)
    made = Bench(tmp_path)
    yield made
    made.close()


def request(connection, sequence):
    return REQUEST.pack(sequence, mix(connection, sequence))


def answer(connection, sequence):
    return ANSWER.pack(
        sequence, sequence, mix(connection, sequence - 1) if sequence > 1 else 0, mix(connection, sequence)
    )


def everything(client, length=1 << 16):
    """What has come; and the end, if it has, as None."""
    parts = []
    while True:
        try:
            data = client.recv(length)
        except BlockingIOError:
            return b"".join(parts)
        if not data:
            return b"".join(parts), None
        parts.append(data)


def is_over(client):
    """Whether the guest has ended the connection, in order or by a reset."""
    try:
        return isinstance(everything(client), tuple)
    except ConnectionResetError:
        return True


def test_requests_are_answered_in_order_with_the_count_and_the_value_before(bench):
    client = bench.greeted(Kind.REQUEST)
    for sequence in (1, 2, 3):
        client.send(request(7, sequence))
        bench.turn(1)
        assert everything(client) == answer(7, sequence)
    assert bench.slot(Slot.ANSWERED) == 3


def test_messages_may_be_cut_at_any_byte_and_the_guest_may_move_right_there(bench):
    data = Hello(Kind.REQUEST, 7).pack() + request(7, 1) + request(7, 2)
    for cut in range(1, len(data)):
        client = bench.connect()
        client.send(data[:cut])
        bench.turn(1)
        bench.move()
        client.send(data[cut:])
        bench.turn()
        assert everything(client) == answer(7, 1) + answer(7, 2)
        client.shutdown(socket.SHUT_WR)
        bench.turn()
        assert everything(client) == (b"", None)
    assert bench.ram.used_slots() == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.integers(1, 400), min_size=1, max_size=40))
def test_any_pipelining_is_answered_completely(bench, pieces):
    client = bench.greeted(Kind.REQUEST)
    data, position = b"".join(request(7, sequence) for sequence in range(1, 201)), 0
    for piece in [*pieces, len(data)]:
        client.send(data[position : position + piece])
        position += piece
        bench.turn(1)
    bench.turn(8)
    assert everything(client) == b"".join(answer(7, sequence) for sequence in range(1, 201))
    client.close()
    bench.turn(2)


def test_answers_that_the_client_does_not_take_wait_in_the_ram_and_nothing_more_is_read(bench):
    client = bench.greeted(Kind.REQUEST, receive_buffer=1)
    served = bench.guest._connections[next(iter(bench.guest._connections))][0]
    served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    data = memoryview(b"".join(request(7, sequence) for sequence in range(1, 5001)))
    position, got = 0, b""
    for _ in range(50):  # the client only talks
        with contextlib.suppress(BlockingIOError):
            position += client.send(data[position:])
        bench.turn(1)
    assert bench.slot(Slot.OUT_LENGTH) > 0
    assert bench.slot(Slot.IN_LENGTH) < REQUEST.size
    bench.move()
    for _ in range(5000):
        if position < len(data):
            with contextlib.suppress(BlockingIOError):
                position += client.send(data[position:])
        bench.turn(1)
        got += everything(client)
        if len(got) == 5000 * ANSWER.size:
            break
    assert got == b"".join(answer(7, sequence) for sequence in range(1, 5001))


def test_a_connect_gets_one_answer_and_its_end(bench):
    client = bench.greeted(Kind.CONNECT)
    assert everything(client) == ANSWER.pack(0, 0, 0, mix(7, 0))
    client.shutdown(socket.SHUT_WR)
    bench.turn()
    assert everything(client) == (b"", None)
    assert bench.ram.used_slots() == []
    assert [event["reason"] for event in bench.events()] == ["close"]


def test_a_download_is_the_pattern_across_moves_until_the_client_ends(bench):
    client, got = bench.greeted(Kind.DOWNLOAD), b""
    for number in range(60):
        bench.turn(1)
        got += everything(client)
        if number in (5, 17, 18):
            bench.move()
    client.shutdown(socket.SHUT_WR)
    bench.turn(4)
    rest, end = everything(client)
    got += rest
    assert end is None
    assert len(got) > 1 << 20
    assert workload.wrong_bytes(7, 0, got) == 0


def test_an_upload_is_checked_across_moves_and_gets_its_receipt(bench):
    client, sent = bench.greeted(Kind.UPLOAD), 0
    for number in range(40):
        sent += client.send(pattern(7, sent, 1 << 15))
        bench.turn(1)
        if number % 13 == 5:
            bench.move()
    client.shutdown(socket.SHUT_WR)
    bench.turn(6)
    assert everything(client) == (RECEIPT.pack(sent, 0), None)


def test_a_wrong_byte_in_an_upload_is_counted(bench):
    client = bench.greeted(Kind.UPLOAD)
    data = bytearray(pattern(7, 0, 1000))
    data[500] ^= 1
    client.send(data)
    client.shutdown(socket.SHUT_WR)
    bench.turn(4)
    assert everything(client) == (RECEIPT.pack(1000, 1), None)


@pytest.mark.parametrize("unread", [0, 10, 24, 40, 1024, 1 << 16, 1 << 17])
@pytest.mark.parametrize("kind", [Kind.UPLOAD, Kind.REQUEST])
def test_a_client_that_ended_before_the_move_gets_everything_it_asked_for(bench, kind, unread):
    """Its FIN stays with the old kernel. Here both guests are on one kernel, so the new one is given an end that is
    open, as a restored connection is: a TCP connection of its own, with the same unread bytes in it."""
    bench.greeted(kind)
    whole = unread // REQUEST.size * REQUEST.size if kind is Kind.REQUEST else unread
    requests = b"".join(request(7, n) for n in range(1, whole // REQUEST.size + 1)) if kind is Kind.REQUEST else b""
    data = (
        requests if kind is Kind.REQUEST else b"".join(bytes(pattern(7, n, 1 << 10)) for n in range(0, unread, 1 << 10))
    )
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)  # room for all of it, as a restored one has
        server.bind(("127.0.0.1", 0))
        server.listen()
        client = socket.create_connection(server.getsockname())
        restored, _ = server.accept()
    bench.clients.append(client)
    fd = next(iter(bench.guest._connections))
    _, slot = bench.guest._connections[fd]
    os.dup2(restored.fileno(), fd)  # the slot's connection is now the open one
    restored.close()
    client.sendall(data)
    while fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)) != bytes(4):  # until all of it has arrived
        time.sleep(0.001)
    client.setblocking(False)
    bench.guest._epoll.close()  # the old guest shall not see it
    bench.move(peer_closed=[slot])
    got = b""
    for _ in range(3000):
        bench.turn(1)
        came = everything(client)
        if isinstance(came, tuple):
            got += came[0]
            break
        got += came
    else:
        pytest.fail("the guest never noticed that the client had ended")
    if kind is Kind.UPLOAD:
        assert got == RECEIPT.pack(len(data), 0)
    else:
        assert got == b"".join(answer(7, n) for n in range(1, len(data) // REQUEST.size + 1))


@pytest.mark.parametrize(
    "junk",
    [
        b"POST / HTTP/1.1\r\nHost: guest\r\n\r\n",
        b"GET /" + bytes(100),
        b"*1\r\n+OK\r\n",
        b"GET /\r\n\r\n" * 100,
        HELLO.pack(workload.MAGIC, 0, 7, 0),
        HELLO.pack(workload.MAGIC, 5, 7, 0),
        HELLO.pack(workload.MAGIC, 6, 7, 0),
        IPERF3_COOKIE + struct.pack("!I", 2) + b"{}",
        IPERF3_COOKIE + struct.pack("!I", 1 << 20),
        HELLO.pack(workload.MAGIC + 1, Kind.REQUEST, 7, 0),
        Hello(Kind.CONNECT, 7).pack() + bytes(65),
        Hello(Kind.DOWNLOAD, 7).pack() + bytes(65),
    ],
)
def test_whoever_is_no_client_of_this_guest_is_closed_and_the_others_are_served_on(bench, junk):
    good, bad = bench.greeted(Kind.REQUEST), bench.connect()
    bad.send(junk)
    bench.turn(2)
    assert is_over(bad)
    good.send(request(7, 1))
    bench.turn(1)
    assert everything(good) == answer(7, 1)
    assert len(bench.ram.used_slots()) == 1


@pytest.mark.parametrize("rate", [1, 1 << 31, 1 << 40, 2**64 - 1])
def test_any_rate_of_a_download_is_taken(bench, rate):
    bench.greeted(Kind.DOWNLOAD, rate=rate)
    assert bench.slot(Slot.STATE) == SlotState.SERVING
    assert bench.slot(Slot.RATE) == rate
    bench.move()
    connection = next(iter(bench.guest._connections.values()))[0]
    assert int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, 47, 8), "little") == rate


def test_a_reset_frees_the_slot_also_when_it_comes_during_the_move(bench):
    first, second = bench.greeted(Kind.REQUEST), bench.greeted(Kind.DOWNLOAD)
    for client in (first, second):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    first.close()
    bench.turn(2)
    assert bench.ram.used_slots() == [1]
    second.close()
    bench.move(peer_closed=[1])
    bench.turn(2)
    assert bench.ram.used_slots() == []


class Unreachable:
    """A socket whose peer's host is gone, as the kernel says it after its last retransmission."""

    def __init__(self, connection):
        self.connection = connection

    def recv_into(self, *_):
        raise OSError(113, "No route to host")

    send = recv_into

    def __getattr__(self, name):
        return getattr(self.connection, name)


def test_a_client_that_has_become_unreachable_does_not_take_the_guest_down(bench):
    client = bench.greeted(Kind.REQUEST)
    fd, (connection, slot) = next(iter(bench.guest._connections.items()))
    bench.guest._connections[fd] = (Unreachable(connection), slot)
    client.send(request(7, 1))
    bench.turn(1)
    assert bench.ram.used_slots() == []


def test_slots_are_used_again_clean(bench):
    client = bench.greeted(Kind.UPLOAD, rate=5)
    client.send(b"wrong bytes")
    bench.turn(1)
    client.close()
    bench.turn(2)
    assert bench.ram.used_slots() == []
    bench.greeted(Kind.REQUEST)
    assert bench.slot(Slot.KIND) == Kind.REQUEST
    assert [bench.slot(word) for word in (Slot.WRONG, Slot.POSITION, Slot.ANSWERED, Slot.PEER_CLOSED)] == [0] * 4


def test_without_a_free_slot_a_newcomer_is_refused_and_does_not_keep_the_loop_busy(bench):
    for slot in range(SLOTS - 1):
        bench.ram.quads[slot_base(slot) + Slot.STATE] = SlotState.SERVING
    bench.guest.resume(moved=False)
    last = bench.greeted(Kind.REQUEST)
    refused = bench.connect()
    with pytest.raises(ConnectionResetError):
        refused.recv(1)
    assert [fd for fd, _ in bench.guest._epoll.poll(0)] == [bench.guest._control.fileno()]
    last.close()
    bench.turn(2)
    client = bench.greeted(Kind.REQUEST)
    client.send(request(7, 1))
    bench.turn(1)
    assert everything(client) == answer(7, 1)
    bench.ram.words[1:FIRST_DIRTIER_PAGE, Slot.STATE] = 0


def test_everyone_who_waits_is_accepted_before_a_pause(bench):
    address = bench.named(bench.guest._listeners)
    for _ in range(20):
        client = socket.create_connection(address)
        bench.clients.append(client)
    bench.turn(1)
    assert len(bench.ram.used_slots()) == 20


def test_resuming_with_fewer_connections_than_the_ram_knows_is_an_error(bench):
    bench.ram.quads[slot_base(5) + Slot.STATE] = SlotState.SERVING
    with pytest.raises(RuntimeError, match="0 connections for 1 used slots"):
        bench.guest.resume(moved=True)
    bench.ram.quads[slot_base(5) + Slot.STATE] = SlotState.FREE


def test_a_connection_that_was_adopted_too_early_is_let_go_and_one_that_comes_again_replaces_it(bench):
    peers = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for slot in (5, 5, 6):
            peers.append(socket.create_connection(server.getsockname(), timeout=10))
            bench.guest.adopt(slot, server.accept()[0])
    bench.clients += peers
    assert peers[0].recv(1) == b""
    bench.guest.let_go(6)
    assert peers[2].recv(1) == b""
    bench.guest.resume(moved=True)
    assert peers[1].recv(1) == b""


def test_each_connection_has_a_serial_number_of_its_own_and_the_next_in_its_slot_another(bench):
    first = bench.greeted(Kind.REQUEST)
    (slot,) = bench.ram.used_slots()
    assert bench.ram.quads[slot_base(slot) + Slot.SERIAL] == 1
    first.close()
    bench.turn()
    bench.greeted(Kind.REQUEST)
    assert bench.ram.used_slots() == [slot]
    assert bench.ram.quads[slot_base(slot) + Slot.SERIAL] == bench.ram.quads[Super.ACCEPTED] == 2


def test_a_client_hears_the_end_of_its_connection_though_an_agent_has_a_duplicate(bench):
    client = bench.connect()
    (connection,) = bench.guest._connections.values()
    with connection[0].dup():
        client.send(b"not a client of this guest, nor a tool that it knows" * 2)
        bench.turn()
        assert is_over(client)


def test_probes_are_echoed_as_they_came(bench):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as prober:
        prober.connect(bench.named(bench.guest._probes))
        for data in (b"one", b"", workload.PROBE.pack(1, 2, 3, 4)):
            prober.send(data)
        bench.turn(1)
        assert [prober.recv(100) for _ in range(3)] == [b"one", b"", workload.PROBE.pack(1, 2, 3, 4)]
        prober.send(b"to be answered when I am gone")
    bench.turn(3)


def test_a_tool_that_is_not_ours_is_answered_before_and_after_a_move_also_in_the_middle_of_a_request(bench):
    web, store = bench.connect(), bench.connect()
    web.send(b"GET / HTTP/1.1\r\n\r\n")
    store.send(b"*1\r\n$4\r\nPI")
    bench.turn()
    assert everything(web).endswith(b"\r\n\r\nup\n")
    assert everything(store) == b""
    bench.move()
    store.send(b"NG\r\n")
    web.send(b"GET / HTTP/1.1\r\n\r\n")
    bench.turn()
    assert everything(store) == b"+PONG\r\n"
    assert everything(web).endswith(b"\r\n\r\nup\n")


def test_sockperf_is_answered_on_its_own_port_and_strangers_there_are_not(bench):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tool:
        tool.connect(bench.named(bench.guest._foreign_probes))
        tool.send(b"stranger")
        tool.send(bytes(8) + b"\x00\x03\x00\x00\x00\x0e")
        bench.turn(1)
        tool.setblocking(False)
        assert tool.recv(100) == bytes(8) + b"\x00\x02\x00\x00\x00\x0e"
        with pytest.raises(BlockingIOError):
            tool.recv(100)


@contextlib.contextmanager
def datagrams_to(bench):
    """A socket of iperf3's client."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.connect(bench.named(bench.guest._counted))
        yield made


def numbered(*numbers):
    return [struct.pack("!III", 0, 0, number).ljust(100, b"\0") for number in numbers]


def test_a_test_of_iperf3_moves_with_the_guest(bench):
    client = bench.connect()
    client.send(IPERF3_COOKIE + IPERF3_PARAMETERS[:9])
    bench.turn()
    assert everything(client) == b"\x09"
    bench.move()
    client.send(IPERF3_PARAMETERS[9:])
    bench.turn()
    assert everything(client) == b"\x0a"
    with datagrams_to(bench) as stream:
        for datagram in (b"9876", *numbered(1, 2, 3)):
            stream.send(datagram)
        bench.turn()
        assert stream.recv(100) == b"6789"
        assert everything(client) == b"\x01\x02"
        mine = stream.getsockname()
    bench.move()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(numbered(1000)[0], bench.named(bench.guest._counted))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.bind(mine)
        stream.connect(bench.named(bench.guest._counted))  # the guest's port is another one only here
        for datagram in numbered(34, 35):
            stream.send(datagram)
        bench.turn()
    client.send(b"\x04")
    bench.turn()
    assert everything(client) == b"\x0d"
    bench.move()
    client.send(struct.pack("!I", 2) + b"{}")
    bench.turn()
    told = everything(client)
    assert told[-1] == 14
    (stream,) = json.loads(told[4:-1])["streams"]
    assert (stream["errors"], stream["packets"], stream["bytes"]) == (30, 35, 500)
    client.send(b"\x10")
    bench.turn()
    client.shutdown(socket.SHUT_WR)
    bench.turn()
    assert is_over(client)
    assert bench.ram.used_slots() == []
    assert bench.events()[-1]["workload"] == "iperf3"


def test_there_is_one_test_of_iperf3_at_a_time_and_then_another(bench):
    first, second = bench.connect(), bench.connect()
    first.send(IPERF3_COOKIE)
    bench.turn()
    second.send(IPERF3_COOKIE)
    bench.turn()
    assert everything(second) == (b"\xff", None)
    assert everything(first) == b"\x09"
    first.close()
    bench.turn()
    third = bench.connect()
    third.send(IPERF3_COOKIE)
    bench.turn()
    assert everything(third) == b"\x09"
    assert bench.ram.quads[Super.IPERF3_SLOT] == bench.ram.used_slots()[0] + 1


def test_datagrams_without_a_test_are_dropped(bench):
    with datagrams_to(bench) as stream:
        for datagram in (b"9876", *numbered(1)):
            stream.send(datagram)
        bench.turn()
        with pytest.raises(BlockingIOError):
            stream.recv(100)


@pytest.fixture
def clock(monkeypatch):
    """A clock of the test's own, in ns."""

    class Clock:
        now = 10**12

    monkeypatch.setattr(guest_module, "now_ns", lambda: Clock.now)
    return Clock


def dirty(bench, clock, *, pages_per_s, ticks_ns):
    """Run a dirtying guest, one iteration for each time; the pages written and skipped."""
    bench.guest.boot(working_set_pages=32, dirty_pages_per_s=pages_per_s, pattern=dirtier.Pattern.UNIFORM)
    guest = bench.guest
    ticks = iter(ticks_ns)

    class Poll:
        """Epoll that lets time pass instead of waiting; the control socket speaks up at the end."""

        def poll(self, _timeout, _events):
            try:
                clock.now += next(ticks)
            except StopIteration:
                return [(guest._control.fileno(), 1)]
            return []

    real, guest._epoll = guest._epoll, Poll()
    try:
        guest.run()
    finally:
        guest._epoll = real
    quads = bench.ram.quads
    writer = dirtier.Dirtier(pattern=dirtier.Pattern.UNIFORM, working_set_pages=32)
    assert writer.wrong_pages(bench.ram.words, written=quads[Super.PAGES_WRITTEN]) == 0
    return quads[Super.PAGES_WRITTEN], quads[Super.PAGES_SKIPPED]


def test_the_dirtier_keeps_its_rate_whatever_the_length_of_its_turns(bench, clock):
    assert dirty(bench, clock, pages_per_s=10_000, ticks_ns=[2_000_000] * 400 + [20_000_000] * 10) == (10_000, 0)


def test_after_a_short_stall_the_dirtier_catches_up(bench, clock):
    assert dirty(bench, clock, pages_per_s=10_000, ticks_ns=[90_000_000, 0, 0, 0]) == (900, 0)


def test_what_the_dirtier_could_not_write_while_it_was_throttled_it_does_not_catch_up_on(bench, clock):
    def ticks():
        for _ in range(100):  # of each 10 ms, 4 ms at the agent's behest
            bench.ram.quads[Super.THROTTLED_NS] += 4_000_000
            yield 10_000_000

    assert dirty(bench, clock, pages_per_s=10_000, ticks_ns=ticks()) == (6_000, 0)


def test_what_the_dirtier_cannot_keep_up_with_is_left_out_and_counted(bench, clock):
    written, skipped = dirty(bench, clock, pages_per_s=1_000_000, ticks_ns=[2_000_000] * 1000)
    assert written > 400_000
    assert written % 512 == 0
    assert 0 <= 2_000_000 - written - skipped <= 100_000 + 512 + 2000


def test_a_rate_without_a_working_set_writes_nothing(bench, clock):
    bench.guest.boot(working_set_pages=0, dirty_pages_per_s=1000, pattern=dirtier.Pattern.UNIFORM)
    clock.now += 10**9
    bench.turn(2)
    assert bench.ram.quads[Super.PAGES_WRITTEN] == 0
