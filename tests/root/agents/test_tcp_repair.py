"""One TCP connection, taken from the guest's network stack at A to the one at B and back, while its client talks on."""

import contextlib
import dataclasses
import random
import select
import socket
import struct
import time
from pathlib import Path

import pytest

from unnoticed.agents.announce import Announcer, frames_for
from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.kernel.bridge_port import BridgePort, PortState
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.endpoints import family_of
from unnoticed.errors import MigrationError
from unnoticed.tcpinfo import read_tcp_info

pytestmark = pytest.mark.root

PORT = 7300
DATA = random.Random(7).randbytes(4 << 20)


class Connection:
    """A connection from c1 to the guest; `move` takes the guest's end to the other host, as a cutover does."""

    def __init__(self, fabric, ip):
        self.places, self.ip = fabric.places, ip
        self.spaces = {name: NetworkNamespace(self.places[name].pid) for name in ("a", "b", "c1", "guest-a", "guest-b")}
        self.gates, self.announcers = {}, {}
        for at in "ab":
            with self.spaces[at].entered():
                self.gates[at] = BridgePort("guest")
            with self.spaces[f"guest-{at}"].entered():
                self.announcers[at] = Announcer("eth0")
        self.at = "a"
        self.server = self.client = None
        self.announce()

    def announce(self):
        guest = self.places["guest-a"]
        self.announcers[self.at].send(frames_for("garp+na", mac=guest.mac, ipv4=guest.ipv4, ipv6=guest.ipv6))

    def open(self, *, congestion="cubic", receive_buffer=None):
        address = (self.places["guest-a"].address(self.ip), PORT)
        family = family_of(address[0])
        with self.spaces["guest-a"].entered(), socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
            listener.bind(address)
            listener.listen()
            with self.spaces["c1"].entered():
                self.client = socket.socket(family)
            if receive_buffer:
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.client.settimeout(10)
            self.client.connect(address)
            self.server, _ = listener.accept()
        for each in (self.client, self.server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setblocking(False)

    def dump(self):
        self.gates[self.at].set(PortState.DISABLED)
        tcp_repair.enter(self.server)
        return tcp_repair.dump(self.server, slot=3)[0]

    def restore(self, state):
        """What the bytes of the state make of it, at the other host."""
        state, _ = tcp_repair.TcpState.unpack(memoryview(state.pack()))
        self.server.close()
        self.at = "b" if self.at == "a" else "a"
        with self.spaces[f"guest-{self.at}"].entered():
            self.server = tcp_repair.restore(state)
        self.gates[self.at].set(PortState.FORWARDING)
        self.announce()
        tcp_repair.leave(self.server)
        tcp_repair.send_unsent(self.server, state)
        self.server.setblocking(False)

    def move(self):
        state = self.dump()
        self.restore(state)
        return state

    def close(self):
        for each in (self.server, self.client):
            if each is not None:
                each.close()
        self.gates["a"].set(PortState.FORWARDING)
        self.gates["b"].set(PortState.DISABLED)
        self.at = "a"
        self.announce()
        for each in (*self.gates.values(), *self.announcers.values(), *self.spaces.values()):
            each.close()


@pytest.fixture
def connection(request, fabric):
    made = Connection(fabric, getattr(request, "param", "ipv4"))
    try:
        yield made
    finally:
        made.close()


of_both_families = pytest.mark.parametrize("connection", ["ipv4", "ipv6"], indirect=True)


def fill(sender, data=DATA):
    """Send without the other end reading, until nothing more goes in for a while; how much went in."""
    sent = 0
    while sent < len(data) and select.select([], [sender], [], 0.2)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += sender.send(data[sent : sent + 65536])
    return sent


def read(receiver, length):
    """Exactly so many bytes, or fewer at the end of the stream."""
    parts = []
    while length:
        assert select.select([receiver], [], [], 15)[0], "neither data nor the end came"
        data = receiver.recv(length)
        if not data:
            break
        parts.append(data)
        length -= len(data)
    return b"".join(parts)


def until(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(params=[1, 0], ids=["timestamps", "no-timestamps"])
def timestamps(request, connection):
    """With and without TCP timestamps, as the guest's network stack has them."""

    def put(value):
        for at in "ab":
            with connection.spaces[f"guest-{at}"].entered():
                Path("/proc/sys/net/ipv4/tcp_timestamps").write_text(str(value))

    put(request.param)
    yield request.param
    put(1)


@of_both_families
def test_a_connection_with_data_in_both_queues_goes_on_without_a_byte_lost_or_changed(connection, timestamps):
    connection.open(receive_buffer=8192)
    to_guest = fill(connection.client)
    to_client = fill(connection.server)
    state = connection.dump()
    assert bool(state.timestamp) == bool(timestamps)
    assert len(state.receive_queue) > 0
    assert len(state.send_queue) >= state.unsent_bytes > 0
    assert state.receive_queue == DATA[: len(state.receive_queue)]
    connection.restore(state)
    assert read(connection.client, to_client) == DATA[:to_client]
    assert read(connection.server, to_guest) == DATA[:to_guest]
    for one, other in ((connection.client, connection.server), (connection.server, connection.client)):
        one.send(b"and on it goes")
        assert read(other, 14) == b"and on it goes"
    assert bool(read_tcp_info(connection.server).options & 1) == bool(timestamps)


@of_both_families
def test_what_was_in_flight_and_lost_is_repeated_by_the_new_kernel(connection):
    connection.open()
    connection.gates["a"].set(PortState.DISABLED)
    connection.server.send(b"never left the host")
    connection.client.send(b"never came")
    state = connection.move()
    assert (state.send_queue, state.unsent_bytes, state.receive_queue) == (b"never left the host", 0, b"")
    assert read(connection.client, 19) == b"never left the host"
    assert read(connection.server, 10) == b"never came"


@of_both_families
def test_a_connection_that_its_client_has_half_closed_can_be_answered_and_closed(connection, timestamps):
    connection.open()
    connection.client.send(b"all I have to say")
    connection.client.shutdown(socket.SHUT_WR)
    until(lambda: read_tcp_info(connection.server).state == 8)
    state = connection.move()
    assert state.peer_closed
    assert state.receive_queue == b"all I have to say"
    assert connection.server.recv(100) == b"all I have to say"
    connection.server.send(b"received")
    connection.server.close()
    assert read(connection.client, 100) == b"received"


@of_both_families
def test_the_options_the_scales_and_the_congestion_control_are_kept(connection, timestamps):
    connection.open(congestion="reno")
    before = read_tcp_info(connection.server)
    connection.move()
    after = read_tcp_info(connection.server)
    assert connection.server.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
    assert (after.options & 7, after.snd_wscale, after.rcv_wscale, after.snd_mss) == (
        before.options & 7,
        before.snd_wscale,
        before.rcv_wscale,
        before.snd_mss,
    )


def test_buffers_do_not_grow_over_twenty_moves(connection):
    connection.open(receive_buffer=8192)
    to_guest, to_client = fill(connection.client), fill(connection.server)
    sizes = set()
    for _ in range(20):
        state = connection.move()
        sizes.add((state.send_buffer_bytes, state.receive_buffer_bytes))
    first = min(sizes)
    assert all(send <= first[0] and receive <= first[1] for send, receive in sizes)
    assert read(connection.client, to_client) == DATA[:to_client]
    assert read(connection.server, to_guest) == DATA[:to_guest]


@of_both_families
def test_sequence_numbers_may_wrap_around_during_the_moves(connection):
    """4 MiB each way does not reach the wrap by chance: here the state is shifted to just before it."""
    connection.open()
    state = connection.move()
    assert 0 <= state.write_sequence < 1 << 32
    shifted = dataclasses.replace(state, write_sequence=5, send_queue=b"0123456789", unsent_bytes=3)
    with connection.spaces["guest-a"].entered():
        restored = tcp_repair.restore(dataclasses.replace(shifted, remote=(state.remote[0], 9)))
    try:
        again, _ = tcp_repair.dump(restored, slot=3)
        assert again.write_sequence == 2
        assert again.send_queue == b"0123456"
    finally:
        restored.close()


def test_unsent_bytes_are_queued_whole_though_the_buffer_is_smaller_here(connection):
    connection.open(receive_buffer=8192)
    connection.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    to_client = fill(connection.server)
    state = connection.dump()
    assert state.unsent_bytes > 100_000
    connection.restore(dataclasses.replace(state, send_buffer_bytes=4608))
    assert read(connection.client, to_client) == DATA[:to_client]


@of_both_families
def test_large_segments_stay_large(connection, timestamps):
    """TCP_INFO counts each segment of what was sent in one piece."""
    connection.open()
    connection.move()
    connection.move()
    connection.server.send(DATA[:14480])
    assert read(connection.client, 14480) == DATA[:14480]
    assert read_tcp_info(connection.server).segs_out in (10, 11)


def test_a_connection_that_was_reset_before_the_dump_is_told_apart(connection):
    connection.open()
    connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.client.close()
    until(lambda: read_tcp_info(connection.server).state == 7)
    with pytest.raises(tcp_repair.ConnectionLostError):
        connection.dump()


@of_both_families
def test_a_window_that_opened_while_nobody_was_there_to_hear_it_is_asked_for(connection):
    """The client's word of it is lost at the closed gate, and it has no reason to say it again."""
    connection.open(receive_buffer=8192)
    to_client = fill(connection.server)
    state = connection.dump()
    assert state.window[1] < state.mss
    taken = connection.client.recv(1 << 20)
    while select.select([connection.client], [], [], 0.05)[0]:
        taken += connection.client.recv(1 << 20)
    connection.restore(state)
    assert taken + read(connection.client, to_client - len(taken)) == DATA[:to_client]


def test_a_client_that_asks_whether_anybody_is_there_is_answered_by_the_new_kernel(connection):
    connection.open()
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2)):
        connection.client.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.move()
    heard = read_tcp_info(connection.client).segs_in
    connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    until(lambda: read_tcp_info(connection.client).segs_in > heard)
    connection.server.send(b"here")
    assert read(connection.client, 4) == b"here"


@pytest.mark.parametrize("behind", [b"", b"and more"])
def test_urgent_data_that_was_not_read_yet_cannot_be_moved_and_is_lost_to_nobody(connection, behind):
    connection.open()
    connection.client.send(b"before!", socket.MSG_OOB)
    connection.client.send(behind)
    until(lambda: tcp_repair._queued(connection.server, 0x541B) >= 6)
    with pytest.raises(MigrationError, match=r"slot 3 has urgent data \(RFC 9293, section 3\.8\.5\)"):
        connection.dump()
    connection.gates["a"].set(PortState.FORWARDING)
    tcp_repair.release(connection.server, None)
    assert connection.server.recv(1, socket.MSG_OOB) == b"!"
    assert read(connection.server, 6 + len(behind)) == b"before" + behind
    state = connection.move()
    assert state.receive_queue == b""


def test_a_connection_that_this_end_has_closed_cannot_be_moved(connection):
    connection.open()
    connection.server.shutdown(socket.SHUT_WR)
    with pytest.raises(MigrationError, match=r"slot 3 is in TCP state [45] and cannot move"):
        connection.dump()


def test_a_segment_that_arrives_while_the_connection_is_read_is_not_torn_apart(connection, monkeypatch):
    """The gate stays open here, so that it can arrive at all."""
    connection.open()
    connection.client.send(b"early ")
    until(lambda: tcp_repair._queued(connection.server, 0x541B) == 6)
    peek, late = tcp_repair._peek, [b"late"]

    def peek_and_let_more_come(server, length):
        data = peek(server, length)
        if length == 6 and late:
            connection.client.send(late.pop())
            until(lambda: tcp_repair._queued(server, 0x541B) == 10)
        return data

    monkeypatch.setattr(tcp_repair, "_peek", peek_and_let_more_come)
    tcp_repair.enter(connection.server)
    state, _ = tcp_repair.dump(connection.server, slot=3)
    assert state.receive_queue == b"early late"
    connection.gates["a"].set(PortState.DISABLED)
    connection.restore(state)
    connection.client.send(b" and more")
    until(lambda: tcp_repair._queued(connection.server, 0x541B) == 19)
    assert connection.server.recv(100) == b"early late and more"


def test_an_end_that_arrives_while_the_connection_is_read_is_counted_or_left_to_come_again(connection, monkeypatch):
    connection.open()
    connection.client.send(b"the last")
    until(lambda: tcp_repair._queued(connection.server, 0x541B) == 8)
    peek, once = tcp_repair._peek, [True]

    def peek_and_let_it_end(server, length):
        data = peek(server, length)
        if length == 8 and once:
            once.pop()
            connection.client.shutdown(socket.SHUT_WR)
            until(lambda: read_tcp_info(server).state == 8)
        return data

    monkeypatch.setattr(tcp_repair, "_peek", peek_and_let_it_end)
    tcp_repair.enter(connection.server)
    state, _ = tcp_repair.dump(connection.server, slot=3)
    assert (state.peer_closed, state.receive_queue) == (True, b"the last")


def test_a_reset_that_arrives_while_the_connection_is_read_makes_it_a_lost_one(connection, monkeypatch):
    connection.open()
    connection.client.send(b"the last")
    until(lambda: tcp_repair._queued(connection.server, 0x541B) == 8)
    peek = tcp_repair._peek

    def peek_and_let_it_be_reset(server, length):
        data = peek(server, length)
        if length == 8:
            connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.client.close()
            until(lambda: read_tcp_info(server).state == 7)
        return data

    monkeypatch.setattr(tcp_repair, "_peek", peek_and_let_it_be_reset)
    tcp_repair.enter(connection.server)
    with pytest.raises(tcp_repair.ConnectionLostError):
        tcp_repair.dump(connection.server, slot=3)


@of_both_families
def test_a_connection_that_outlives_its_process_does_not_keep_the_next_guest_from_listening(connection):
    """Its end was moved half closed, so its kernel waits for a FIN that has come long ago."""
    connection.open()
    connection.client.shutdown(socket.SHUT_WR)
    until(lambda: read_tcp_info(connection.server).state == 8)
    connection.move()
    connection.server.close()
    assert read(connection.client, 1) == b""
    with connection.spaces["guest-b"].entered():
        address = (connection.places["guest-b"].address(connection.ip), PORT)
        socket.create_server(address, family=family_of(address[0])).close()


def test_closing_in_repair_mode_tells_the_client_nothing(connection):
    connection.open()
    tcp_repair.enter(connection.server)
    connection.server.close()
    assert select.select([connection.client], [], [], 0.1)[0] == []


@of_both_families
def test_aborting_resets_the_connection_whoever_else_holds_it(connection):
    connection.open()
    with connection.server.dup():
        tcp_repair.abort(connection.server)
        assert select.select([connection.client], [], [], 10)[0]
        with pytest.raises(ConnectionResetError):
            connection.client.recv(1)
    tcp_repair.abort(connection.server)  # again, in vain


@of_both_families
def test_leaving_repair_mode_at_the_source_goes_on_as_if_nothing_had_been(connection):
    connection.open(receive_buffer=8192)
    to_guest, to_client = fill(connection.client), fill(connection.server)
    connection.dump()
    connection.gates["a"].set(PortState.FORWARDING)
    tcp_repair.release(connection.server, None)
    assert read(connection.client, to_client) == DATA[:to_client]
    assert read(connection.server, to_guest) == DATA[:to_guest]
