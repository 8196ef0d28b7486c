"""Page channels over loopback TCP: how they are joined, by whom, and what goes through them."""

import contextlib
import os
import socket
import struct
import threading
import time

import pytest

from unnoticed.agents import page_channel, page_receiver, postcopy_destination
from unnoticed.agents.page_channel import PageChannel
from unnoticed.agents.page_wire import FRAME_BYTES, Frame, Kind, PageWire, Type, channel_key
from unnoticed.agents.postcopy_destination import accept_channels
from unnoticed.agents.ram import PAGE_BYTES, Ram
from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError

KEY, PAGES = bytes(32), 256


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def channel_to(listener, kind, *, key=KEY):
    """The source's end of a channel that has not joined yet."""
    connection = socket.create_connection(listener.getsockname())
    wire = PageWire(Role.SOURCE, kind, key=channel_key(key, kind), pages=PAGES)
    return PageChannel(connection, wire, kind)


@pytest.fixture
def joined(listener):
    """Both channels, both ends: source's and destination's, by kind."""
    ours = {kind: channel_to(listener, kind) for kind in (Kind.PUSH, Kind.DEMAND)}
    for channel in ours.values():
        channel.send(Frame(Type.JOIN))
    theirs = accept_channels(listener, session_key=KEY, pages=PAGES)
    for kind, channel in theirs.items():
        channel.send(Frame(Type.JOINED))
        assert ours[kind].receive() == Frame(Type.JOINED)
    yield ours, theirs
    for channel in (*ours.values(), *theirs.values()):
        channel.close()


@pytest.fixture
def ram():
    made = Ram.create(memory_bytes=PAGES * PAGE_BYTES)
    made.view[:] = os.urandom(len(made.view))
    yield made
    made.close()


def test_strangers_who_knock_first_are_sent_away_and_the_source_gets_in(listener):
    reset = socket.create_connection(listener.getsockname())
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    reset.close()
    strangers = [socket.create_connection(listener.getsockname()) for _ in range(4)]
    strangers[0].sendall(bytes(FRAME_BYTES))
    strangers[1].sendall(b"half a frame")
    strangers[2].shutdown(socket.SHUT_WR)
    impostor = channel_to(listener, Kind.PUSH, key=b"another key")
    impostor.send(Frame(Type.JOIN))
    ours = [channel_to(listener, kind) for kind in Kind]
    for channel in ours:
        channel.send(Frame(Type.JOIN))
    theirs = accept_channels(listener, session_key=KEY, pages=PAGES)
    assert set(theirs) == set(Kind)
    for stranger in (*strangers, impostor.socket):
        stranger.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
        stranger.close()
    for channel in (*ours, *theirs.values()):
        channel.close()


def test_the_same_channel_is_not_taken_twice_nor_waited_for_in_vain(listener, monkeypatch):
    monkeypatch.setattr(postcopy_destination, "_JOIN_S", 0.2)
    twice = [channel_to(listener, Kind.PUSH) for _ in range(2)]
    for channel in twice:
        channel.send(Frame(Type.JOIN))
    with pytest.raises(PeerError, match="did not open its page channels"):
        accept_channels(listener, session_key=KEY, pages=PAGES)
    for channel in twice:
        channel.close()


@pytest.mark.parametrize("mask", [1, 0b1011, (1 << 64) - 1, 0b110 << 60])
def test_pushed_pages_come_as_they_are(joined, ram, mask):
    ours, theirs = (ends[Kind.PUSH] for ends in joined)
    sender = threading.Thread(target=ours.send_pages, args=(7, mask, ram.fd))
    sender.start()
    frame = theirs.receive()
    buffer = memoryview(bytearray(mask.bit_count() * PAGE_BYTES))
    theirs.receive_contents(buffer)
    sender.join()
    assert frame == Frame(Type.PAGES, 7, mask)
    pages = [7 + bit for bit in range(64) if mask >> bit & 1]
    assert bytes(buffer) == b"".join(ram.view[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] for page in pages)


def test_a_source_that_hangs_up_in_the_midst_of_a_page_is_noticed(joined):
    ours, theirs = (ends[Kind.PUSH] for ends in joined)
    ours.send(Frame(Type.PAGES, 0, 1))
    ours.socket.sendall(b"a part of a page")
    ours.close()
    theirs.receive()
    with pytest.raises(PeerError, match="in the midst of one"):
        theirs.receive_contents(memoryview(bytearray(PAGE_BYTES)))


@pytest.fixture
def impatient(monkeypatch):
    """Channels that give a silent peer up after a second."""
    monkeypatch.setattr(page_channel, "SILENCE_S", 1.0)


def test_pages_that_come_slowly_are_waited_for(impatient, joined):
    ours, theirs = (PageChannel(ends[Kind.PUSH].socket, ends[Kind.PUSH].wire, Kind.PUSH) for ends in joined)

    def trickle():
        for _ in range(4):
            ours.socket.sendall(bytes(PAGE_BYTES // 4))
            time.sleep(0.5)

    sender = threading.Thread(target=trickle)
    sender.start()
    theirs.receive_contents(memoryview(bytearray(PAGE_BYTES)))
    sender.join()
    ours.socket.sendall(b"a part of the next one")
    with pytest.raises(PeerError, match="said nothing for 1 s in the midst of a page"):
        theirs.receive_contents(memoryview(bytearray(PAGE_BYTES)))


class Obeying:
    """The orders of a helper that runs in a thread."""

    def __init__(self, fds, key):
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.first = {"message": "serve", "key": key.hex(), "address": 0}, fds
        self.said = []

    def fileno(self):
        return self.theirs.fileno()

    def receive(self):
        if self.first:
            first, self.first = self.first, None
            return first
        return self.theirs.recv(100), []

    def say(self, message, **fields):
        self.said.append((message, fields))


@pytest.fixture
def receiver(joined, ram):
    """A page receiver in a thread: the source's end of its channel, its orders, and the thread."""
    ours, theirs = (ends[Kind.PUSH] for ends in joined)
    orders = Obeying([-1, os.dup(theirs.socket.fileno())], channel_key(KEY, Kind.PUSH))
    helper = threading.Thread(target=page_receiver.receive, args=(orders, {"memory_bytes": ram.memory_bytes}))
    helper.start()
    yield ours, orders, helper
    orders.ours.close()
    orders.theirs.close()


@pytest.mark.parametrize("is_told", [True, False])
def test_rounds_may_take_longer_than_a_source_may_be_silent(impatient, receiver, is_told):
    ours, orders, helper = receiver
    time.sleep(1.5)
    if is_told:
        orders.ours.send(b"begin")
        time.sleep(0.2)
    ours.send(Frame(Type.END, total=0))
    orders.ours.send(b"the end")
    helper.join(5)
    assert orders.said == [("done", {"pages": 0, "received": 0})]


def test_what_fills_the_path_is_no_page_and_rounds_may_follow(impatient, receiver):
    ours, orders, helper = receiver
    sent = ours.fill(1 << 18) + ours.fill(1)
    assert sent == 2 * FRAME_BYTES + (1 << 18) + 1
    time.sleep(1.5)
    assert ours.unacknowledged == 0
    orders.ours.send(b"begin")
    ours.send(Frame(Type.END, total=0))
    orders.ours.send(b"the end")
    helper.join(5)
    assert orders.said == [("done", {"pages": 0, "received": 0})]
