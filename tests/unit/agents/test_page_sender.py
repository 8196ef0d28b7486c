"""The page sender over loopback TCP: what arrives, what is left when its time is over, and what it counts."""

import socket
from types import SimpleNamespace

import numpy as np
import pytest

from unnoticed.agents import page_sender, wire
from unnoticed.agents.channel import Channel
from unnoticed.agents.page_sender import PageSender
from unnoticed.agents.ram import PAGE_BYTES, Ram
from unnoticed.agents.wire import Role
from unnoticed.errors import MigrationError

PAGES = 64
KEY = bytes(32)
SOME = np.array([[1, 3], [7, 1], [20, 30]], dtype=np.uint64)


class Ends:
    """A sender in a round, and the destination's channel."""

    def __init__(self, ram, codec):
        with socket.create_server(("127.0.0.1", 0)) as server:
            source = Channel(socket.create_connection(server.getsockname()), role=Role.SOURCE, key=KEY)
            self.destination = Channel(server.accept()[0], role=Role.DESTINATION, key=KEY)
        source.send(wire.Hello(nonce=source.wire.nonce, memory_bytes=ram.memory_bytes, copying=wire.Copying.BOTH))
        self.destination.expect(wire.Hello)
        self.destination.send(wire.Welcome(nonce=self.destination.wire.nonce))
        source.expect(wire.Welcome)
        source.send(wire.Proof())
        self.destination.expect(wire.Proof)
        self.destination.send(wire.Prepared())
        source.expect(wire.Prepared)
        self.guest = SimpleNamespace(is_alive=True)
        self.sender = PageSender(source, self.guest, content=ram, codec=codec)
        self.sender.send(wire.RoundStart(0), more=True)

    def arrived(self):
        """How many bytes came since the greeting; the last that are sent."""
        self.sender.channel.socket.shutdown(socket.SHUT_WR)
        count = 0
        while data := self.destination.socket.recv(1 << 20):
            count += len(data)
        return count

    def close(self):
        self.sender.close()
        self.sender.channel.close()
        self.destination.close()


@pytest.fixture
def ram():
    made = Ram.create(memory_bytes=PAGES * PAGE_BYTES)
    made.words[:] = np.arange(1, made.words.size + 1, dtype=np.uint64).reshape(made.words.shape)
    yield made
    made.close()


@pytest.fixture(params=["none", "zstd"])
def ends(ram, request):
    made = Ends(ram, request.param)
    yield made
    made.close()


def test_it_counts_every_byte_of_messages_and_pages(ends):
    assert ends.sender.send_pages(SOME).tolist() == []
    ends.sender.send(wire.RoundEnd(34))
    assert ends.sender.bytes_sent == ends.arrived()
    assert sum(pages for pages, _bytes in ends.sender.take_counts().values()) == 34
    assert ends.sender.take_counts() == {}


@pytest.mark.parametrize("ends", ["none"], indirect=True)
def test_the_pages_arrive(ends, ram):
    ends.sender.send_pages(SOME)
    ends.destination.expect(wire.RoundStart)
    other = Ram.create(memory_bytes=ram.memory_bytes)
    try:
        message = ends.destination.expect(wire.Pages)
        ends.destination.receive_pages(message, other)
        assert message.runs.tolist() == SOME.tolist()
        assert np.flatnonzero((other.words == ram.words).all(axis=1)).tolist() == [1, 2, 3, 7, *range(20, 50)]
    finally:
        other.close()


def test_what_is_late_is_not_sent_but_returned(ends, monkeypatch):
    monkeypatch.setattr(page_sender, "_LIMITED_PAGES", 4)
    looks = iter([0, 0, 1])
    monkeypatch.setattr(page_sender, "now_ns", lambda: next(looks, 1))
    assert ends.sender.send_pages(SOME, end_ns=1).tolist() == [
        [20, 4],
        [24, 4],
        [28, 4],
        *([n, 4] for n in range(32, 48, 4)),
        [48, 2],
    ]
    ends.sender.send(wire.RoundEnd(4))
    assert ends.sender.bytes_sent == ends.arrived()


def test_nothing_is_sent_of_a_guest_that_has_ended(ends):
    ends.guest.is_alive = False
    before = ends.sender.bytes_sent
    with pytest.raises(MigrationError, match="There is nothing to migrate any more"):
        ends.sender.send_pages(SOME)
    assert ends.sender.bytes_sent == before


def test_pages_that_come_later_are_named(ends):
    ends.sender.send_owed(SOME)
    ends.destination.expect(wire.RoundStart)
    assert ends.destination.expect(wire.Owed).runs.tolist() == SOME.tolist()
    assert ends.sender.channel.wire.pages_in_all == 0
