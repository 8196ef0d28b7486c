"""The hush: no connection begins in it, and those half open or closing get their time."""

import socket
from types import SimpleNamespace

import pytest

from unnoticed.agents import hush as hush_module
from unnoticed.agents.hush import Hush
from unnoticed.tcpinfo import read_tcp_info

ESTABLISHED, SYN_SENT = 1, 2  # include/net/tcp_states.h


class Handshakes:
    """Those that are half open and those that close, one after another as they are asked for; then none."""

    def __init__(self, half_open=(), closing=()):
        self._half_open, self._closing = list(half_open), list(closing)

    def half_open(self):
        return self._half_open.pop(0) if self._half_open else 0

    def closing(self):
        return self._closing.pop(0) if self._closing else 0

    @property
    def left(self):
        return self._half_open + self._closing


class Holding:
    def __init__(self):
        self.calls = []

    def put_attempts_aside(self):
        self.calls.append("aside")

    def put_back(self):
        self.calls.append("back")


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def state_of_an_attempt(listener):
    """Loopback delivers a SYN, and its answer, before the call returns."""
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        return read_tcp_info(client).state


def test_a_syn_is_dropped_until_it_ends(listener):
    hush = Hush(SimpleNamespace(listeners=[listener]), Handshakes(), holding=None)
    assert state_of_an_attempt(listener) == ESTABLISHED
    hush.begin()
    assert state_of_an_attempt(listener) == SYN_SENT
    hush.end()
    assert state_of_an_attempt(listener) == ESTABLISHED


def test_to_end_what_has_not_begun_changes_nothing(listener):
    Hush(SimpleNamespace(listeners=[listener]), Handshakes(), holding=None).end()
    assert state_of_an_attempt(listener) == ESTABLISHED


def test_where_frames_are_held_syns_wait_aside_and_the_listeners_are_left_alone(listener):
    holding = Holding()
    hush = Hush(SimpleNamespace(listeners=[listener]), Handshakes(), holding=holding)
    hush.begin()
    assert holding.calls == ["aside"]
    assert state_of_an_attempt(listener) == ESTABLISHED
    hush.end()
    assert holding.calls == ["aside", "back"]


@pytest.mark.parametrize(
    "handshakes", [Handshakes(half_open=[2, 1, 1]), Handshakes(closing=[1, 1]), Handshakes([1], [2, 1])]
)
def test_it_waits_until_none_is_half_open_and_none_closes(handshakes, monkeypatch):
    monkeypatch.setattr(hush_module, "_LIMIT_NS", 1 << 62)
    Hush(SimpleNamespace(listeners=[]), handshakes, holding=None).begin()
    assert handshakes.left == []


def test_it_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(hush_module, "_LIMIT_NS", 1_000_000)
    forever = SimpleNamespace(half_open=lambda: 1, closing=lambda: 0)
    Hush(SimpleNamespace(listeners=[]), forever, holding=None).begin()
