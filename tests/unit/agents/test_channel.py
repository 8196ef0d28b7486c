"""The channel: the protocol on a real socket, and what becomes of a peer that is silent, gone or untruthful."""

import socket
import threading

import numpy as np
import pytest

from unnoticed.agents import channel as channel_module
from unnoticed.agents import wire
from unnoticed.agents.channel import Channel
from unnoticed.agents.ram import PAGE_BYTES, Ram
from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError

S, D = Role.SOURCE, Role.DESTINATION
KEY = b"the key of both"


@pytest.fixture
def pair():
    """A connected pair of TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def channels(pair):
    return Channel(pair[0], role=S, key=KEY), Channel(pair[1], role=D, key=KEY)


@pytest.fixture
def impatient(monkeypatch):
    """A limit of 20 ms instead of seconds."""
    monkeypatch.setattr(channel_module, "_SILENCE_S", 0.02)


@pytest.fixture
def hasty(monkeypatch):
    """50 ms to prove oneself instead of seconds."""
    monkeypatch.setattr(channel_module, "_GREETING_S", 0.05)


def greet(source, destination):
    source.send(wire.Hello(nonce=source.wire.nonce, memory_bytes=16 * PAGE_BYTES))
    destination.expect(wire.Hello)
    destination.send(wire.Welcome(nonce=destination.wire.nonce))
    source.expect(wire.Welcome)
    source.send(wire.Proof())
    destination.expect(wire.Proof)
    destination.send(wire.Prepared())
    source.expect(wire.Prepared)


def test_two_channels_understand_each_other_though_each_has_its_own_nonce(channels):
    greet(*channels)
    assert channels[0].wire.nonce != channels[1].wire.nonce


def test_pages_go_between_the_frames_and_the_bytes_are_counted(channels):
    source, destination = channels
    greet(source, destination)
    runs = np.array([[1, 2], [5, 3]], dtype=np.uint64)
    here, there = Ram.create(memory_bytes=16 * PAGE_BYTES), Ram.create(memory_bytes=16 * PAGE_BYTES)
    try:
        here.words[:] = 7
        sent = source.send(wire.RoundStart(0), more=True)
        sent += sum(source.send_pages(message, here) for message in wire.split(runs))
        sent += source.send(wire.RoundEnd(5))
        destination.expect(wire.RoundStart)
        message = destination.expect(wire.Pages)
        destination.receive_pages(message, there)
        assert destination.expect(wire.RoundEnd) == wire.RoundEnd(5)
        assert there.words[:, 0].tolist() == [0, 7, 7, 0, 0, 7, 7, 7] + [0] * 8
        assert sent == (8 + 4 + 16) + (8 + 16 + 16) + 5 * PAGE_BYTES + (8 + 8 + 16)
    finally:
        here.close()
        there.close()


def test_an_abort_is_an_error_with_the_reason_of_the_peer(channels):
    source, destination = channels
    greet(source, destination)
    destination.abort("no room at the inn")
    with pytest.raises(PeerError, match="The destination gave up: no room at the inn"):
        source.expect(wire.RoundAck)


def test_another_message_than_the_expected_is_an_error(channels):
    source, destination = channels
    greet(source, destination)
    source.send(wire.RoundStart(0))
    with pytest.raises(PeerError, match="The source sent RoundStart, not Final"):
        destination.expect(wire.Final)


def test_a_peer_that_hangs_up_is_an_error_that_says_when(channels):
    source, destination = channels
    greet(source, destination)
    source.close()
    with pytest.raises(PeerError, match="The source hung up while the conversation was streaming"):
        destination.receive()


def test_a_peer_that_resets_the_connection_is_an_error(channels):
    source, destination = channels
    greet(source, destination)
    source.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    source.close()
    with pytest.raises(PeerError, match=r"The source is gone: .*reset"):
        destination.receive()
    with pytest.raises(PeerError, match="The source is gone"):
        destination.send(wire.Abort("too late"))


def test_a_peer_that_says_nothing_is_given_up(impatient, channels):
    with pytest.raises(PeerError, match=r"The source said nothing for 0\.02 s"):
        channels[1].receive()


def test_patience_bears_a_longer_silence_for_a_while(impatient, channels):
    source, destination = channels
    greeting = threading.Timer(0.06, lambda: source.send(wire.Hello(nonce=source.wire.nonce, memory_bytes=PAGE_BYTES)))
    greeting.start()
    try:
        with destination.patience(20):
            destination.expect(wire.Hello)
    finally:
        greeting.join()
    destination.send(wire.Welcome(nonce=destination.wire.nonce))
    with pytest.raises(PeerError, match=r"said nothing for 0\.02 s"):
        destination.expect(wire.Proof)


def test_a_peer_that_says_half_of_something_is_given_up(impatient, channels):
    source, destination = channels
    hello = source.wire.send(wire.Hello(nonce=source.wire.nonce, memory_bytes=PAGE_BYTES))
    source.socket.sendall(hello[:50])
    with pytest.raises(PeerError, match=r"The source said nothing for 0\.02 s"):
        destination.receive()


def test_a_peer_that_says_a_little_now_and_then_is_given_up_as_well(hasty, channels):
    """Or anybody who reaches the port could keep an agent from its work for hours."""
    source, destination = channels
    hello = source.wire.send(wire.Hello(nonce=source.wire.nonce, memory_bytes=PAGE_BYTES))
    stop = threading.Event()

    def trickle():
        for position in range(len(hello) - 1):
            if stop.wait(0.005):
                return
            source.socket.send(hello[position : position + 1])

    trickler = threading.Thread(target=trickle)
    trickler.start()
    try:
        with pytest.raises(PeerError, match=r"The source did not introduce itself within 0\.05 s"):
            destination.receive()
        assert len(destination.wire._received) < len(hello) - 1
    finally:
        stop.set()
        trickler.join()


def test_a_peer_that_takes_nothing_is_given_up(impatient, channels):
    source, _ = channels
    greet(*channels)
    source.wire.state = wire.State.FINAL
    with pytest.raises(PeerError, match="The destination is gone"):
        source.send(wire.GuestState(1, bytes(64 << 20)))


def test_abort_is_silent_when_it_may_not_be_said_or_nobody_is_left(channels):
    source, destination = channels
    destination.abort("before any greeting")  # not listed in the table
    greet(source, destination)
    destination.close()
    source.abort("is anybody there?")
    source.abort("is anybody there?")


@pytest.mark.parametrize("rate", [1_000_000, 5_000_000_000])
def test_the_rate_limit_is_the_sockets_pacing_rate_beyond_32_bits_too(pair, rate):
    made = Channel(pair[0], role=S, key=KEY, rate_bytes_per_s=rate)
    told = made.socket.getsockopt(socket.SOL_SOCKET, 47, 8)
    assert int.from_bytes(told, "little") == rate
