"""Many connections at once, on loopback: the compiled loops do what `tcp_repair` does with each."""

import contextlib
import ctypes
import dataclasses
import socket
import struct
import time

import pytest

from unnoticed.agents import batches, wire
from unnoticed.agents.arrivals import ArrivingConnections
from unnoticed.agents.batches import Departing
from unnoticed.agents.kernel import tcp_repair
from unnoticed.errors import MigrationError, PeerError
from unnoticed.tcpinfo import read_tcp_info

pytestmark = pytest.mark.root

CLOSE, CLOSE_WAIT = 7, 8
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
FULL = 2  # of the connections below: the one whose client reads nothing until there is more than it takes


class Shell:
    """In the place of a guest process that waits for its connections."""

    def __init__(self):
        self.adopted = {}

    def hand_over(self, connections):
        self.adopted.update({slot: connection.fileno() for slot, connection in connections.items()})

    def take_back(self, slots):
        for slot in slots:
            del self.adopted[slot]


class Here:
    """In the place of a network namespace: the test's own."""

    def entered(self):
        return contextlib.nullcontext()


@pytest.fixture(params=["plain", "compiled"])
def loops(request, monkeypatch):
    monkeypatch.setattr(batches, "_loops", None)
    if request.param == "compiled":
        batches.make_ready()


@pytest.fixture(params=["ipv4", "ipv6"])
def open_pairs(request):
    """Pairs of connected sockets: a server's end, and its client's."""
    opened = []

    def make(count):
        pairs = []
        family = socket.AF_INET6 if request.param == "ipv6" else socket.AF_INET
        address = "::1" if request.param == "ipv6" else "127.0.0.1"
        with socket.create_server((address, 0), family=family, backlog=count) as server:
            for _ in range(count):
                client = socket.create_connection(server.getsockname()[:2], timeout=10)
                pairs.append((server.accept()[0], client))
        for pair in pairs:
            opened.extend(pair)
            for each in pair:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return pairs

    yield make
    for each in opened:
        each.close()


def until(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lose_what_comes(client):
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0), 8)  # return 0: keep nothing of it
    client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def departing(pairs):
    return [Departing(slot, server, tcp_repair.describe(server, slot=slot)) for slot, (server, _) in enumerate(pairs)]


def in_many_states(pairs):
    """Idle; something unread; something unread at the client and unsent; half closed; reset; and so on."""
    for number, (server, client) in enumerate(pairs):
        match number % 5:
            case 1:
                client.send(b"to the guest %d" % number)
                until(lambda server=server: tcp_repair.queued_bytes(server))
            case 2 if number == FULL:
                server.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while server.send(b"to the client %d" % number * 1000):
                        pass
                server.setblocking(True)
                lose_what_comes(client)  # or its answers to what comes late would meet nobody, and reset it
            case 3:
                client.send(b"the last")
                client.shutdown(socket.SHUT_WR)
                until(lambda server=server: read_tcp_info(server).state == CLOSE_WAIT)
            case 4:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                until(lambda server=server: read_tcp_info(server).state == CLOSE)


def states(batch):
    arrived = batches.parse(batch.blob, connections=batch.connections)
    # Its clock runs; and once it was read, what a timer would send counts as sent.
    return [dataclasses.replace(arrived.state(number), timestamp=0, unsent_bytes=0) for number in range(len(arrived))]


def test_the_compiled_loops_read_what_is_read_one_by_one(open_pairs, monkeypatch):
    batches.make_ready()
    pairs = open_pairs(15)
    connections = departing(pairs)
    in_many_states(pairs)
    time.sleep(0.5)  # what is acknowledged late (200 ms at most) is acknowledged: between two dumps nothing moves
    quiet = [server for number, (server, _) in enumerate(pairs) if number != FULL]  # whose timers run
    with monkeypatch.context() as patch:
        patch.setattr(batches, "_loops", None)
        batches.hold(connections)
        surveyed, in_flight = batches.survey(quiet), batches.most_in_flight_bytes(connections)
    assert batches.survey(quiet) == surveyed
    assert batches.most_in_flight_bytes(connections) == in_flight
    with monkeypatch.context() as patch:
        patch.setattr(batches, "_loops", None)
        one_by_one = batches.dump(connections)
    at_once = batches.dump(connections)
    assert at_once.lost == one_by_one.lost == [4, 9, 14]
    for one, other in zip(states(one_by_one), states(at_once), strict=True):
        # What its timers do goes on, and what its client acknowledges late goes from the queue's front.
        names = ("slot", "local", "remote", "write_sequence") if one.slot == FULL else vars(one)
        assert {name: getattr(one, name) for name in names} == {name: getattr(other, name) for name in names}
        assert one.send_queue.endswith(other.send_queue)
    assert [each.slot for each in states(at_once) if len(each.send_queue) > 1 << 16] == [FULL]
    assert len(states(at_once)) == at_once.connections == 12
    assert batches.parse(one_by_one.blob, connections=12).rows["unsent_bytes"].max() > 0
    for one, other in zip(one_by_one.dumped, at_once.dumped, strict=True):
        assert one[1:4] == other[1:4]
        assert (one.counters.state, one.counters.options) == (other.counters.state, other.counters.options)


def test_the_compiled_loops_hold_what_is_held_one_by_one(open_pairs):
    pairs = open_pairs(3)
    connections = departing(pairs)
    for server, _ in pairs:
        tcp_repair.enter(server)
    windows = [tcp_repair._window(server) for server, _ in pairs]
    batches.make_ready()
    batches.hold(connections)
    assert [each.window for each in connections] == windows
    assert all(window[1] > 0 for window in windows)
    assert [tcp_repair._window(server)[1] for server, _ in pairs] == [0, 0, 0]


def move(pairs, *, known=None, part=4):
    """Move all that live to new sockets, as a cutover does; by slot."""
    connections = departing(pairs)
    shell = Shell()
    arriving = ArrivingConnections(shell, Here())
    rows = [each.row for each in connections[:known]]
    arriving.expect(wire.Connections(len(rows), b"".join(rows)))
    assert sorted(shell.adopted) == list(range(len(rows)))
    in_many_states(pairs)
    batches.hold(connections)
    batches_ = [batches.dump(connections[start : start + part]) for start in range(0, len(connections), part)]
    for server, _ in pairs:
        server.close()
    for batch in batches_:
        arriving.restore(wire.GuestState(batch.connections, batch.blob, tuple(batch.lost)))
    assert arriving.revive() == []
    assert {slot: arriving._sockets[slot].fileno() for slot in arriving._completed} == {
        slot: shell.adopted[slot] for slot in arriving._completed
    }
    return arriving


@pytest.mark.parametrize("known", [None, 7, 0], ids=["all-known-before", "some", "none"])
def test_connections_in_many_states_go_on_in_other_sockets(loops, open_pairs, known):
    pairs = open_pairs(15)
    arriving = move(pairs, known=known)
    assert len(arriving) == 12
    assert arriving.lost == [4, 9, 14]
    for slot in arriving._completed:
        server, client = arriving._sockets[slot], pairs[slot][1]
        server.settimeout(10)
        if slot % 5 == 1:
            assert server.recv(100) == b"to the guest %d" % slot
        elif slot == FULL:  # what its client had no room for is sent again late: the new socket knows no round trip
            client.settimeout(60)
            client.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            server.shutdown(socket.SHUT_WR)
            came = b"".join(iter(lambda client=client: client.recv(1 << 20), b""))
            assert came[: 1 << 16] == (b"to the client %d" % slot * 5000)[: 1 << 16]
        elif slot % 5 == 3:
            assert server.recv(100) == b"the last"
            server.send(b"received")
            assert client.recv(100) == b"received"
        if slot % 5 < 3 and slot != FULL:
            client.send(b"and on")
            assert server.recv(100) == b"and on"
            server.send(b"it goes")
            assert client.recv(100) == b"it goes"
    arriving.close()


def test_what_the_loops_leave_is_done_singly(open_pairs, monkeypatch):
    """Here: queues for which their buffer has no room, and a socket that was prepared and then spoilt."""
    monkeypatch.setattr(batches, "_DATA_BYTES", 10)
    batches.make_ready()
    pairs = open_pairs(6)
    prepare = tcp_repair.prepare

    def prepare_and_spoil(state):
        prepared = prepare(state)
        if state.slot == 1:
            prepared.connect((state.remote[0], 9))  # in repair mode: it is connected without a word
        return prepared

    monkeypatch.setattr(tcp_repair, "prepare", prepare_and_spoil)
    connections = departing(pairs)
    arriving = ArrivingConnections(Shell(), Here())
    arriving.expect(wire.Connections(6, b"".join(each.row for each in connections)))
    monkeypatch.setattr(tcp_repair, "prepare", prepare)
    for _, client in pairs:
        client.send(b"more than ten bytes")
    until(lambda: all(tcp_repair.queued_bytes(server) == 19 for server, _ in pairs))
    batches.hold(connections)
    batch = batches.dump(connections)
    for server, _ in pairs:
        server.close()
    arriving.restore(wire.GuestState(batch.connections, batch.blob))
    assert arriving.revive() == []
    for slot in range(6):
        assert arriving._sockets[slot].recv(100) == b"more than ten bytes"
    arriving.close()


def test_a_connection_that_went_before_it_was_to_move_is_forgotten_and_its_slot_may_have_another(loops, open_pairs):
    pairs = open_pairs(2)
    first, second = (tcp_repair.describe(server, slot=5).pack() for server, _ in pairs)
    shell = Shell()
    arriving = ArrivingConnections(shell, Here())
    arriving.expect(wire.Connections(1, first))
    with pytest.raises(PeerError, match="a connection for slot 5, which cannot take it"):
        arriving.expect(wire.Connections(1, second))
    arriving.expect(wire.Connections(1, second, (5,)))
    assert list(shell.adopted) == [5]
    arriving.expect(wire.Connections(0, b"", (5,)))
    assert not shell.adopted
    arriving.close()


@pytest.mark.parametrize("slot", [1024, 0xFFFFFFFF])
def test_a_slot_that_there_is_not_is_the_sources_fault(loops, open_pairs, slot):
    ((server, _),) = open_pairs(1)
    row = tcp_repair.describe(server, slot=slot).pack()
    arriving = ArrivingConnections(Shell(), Here())
    with pytest.raises(PeerError, match="which cannot take it"):
        arriving.expect(wire.Connections(1, row))
    with pytest.raises(PeerError, match="for slots that there are not"):
        arriving.restore(wire.GuestState(1, row))
    with pytest.raises(PeerError, match="cannot be read: a connection's state is cut short"):
        arriving.restore(wire.GuestState(2, row))


def test_a_connection_with_urgent_data_is_named_by_the_loops_as_well(loops, open_pairs):
    ((server, client),) = open_pairs(1)
    (connection,) = departing([(server, None)])
    client.send(b"!", socket.MSG_OOB)
    until(lambda: tcp_repair._has_urgent_data(server))
    batches.hold([connection])
    with pytest.raises(MigrationError, match="slot 0 has urgent data"):
        batches.dump([connection])


def test_a_connection_that_this_end_has_closed_is_named_by_the_loops_as_well(loops, open_pairs):
    ((server, _),) = open_pairs(1)
    (connection,) = departing([(server, None)])
    server.shutdown(socket.SHUT_WR)
    batches.hold([connection])
    with pytest.raises(MigrationError, match=r"slot 0 is in TCP state [45] and cannot move"):
        batches.dump([connection])
