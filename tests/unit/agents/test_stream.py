"""Page streaming between two memories, over a socket pair and over loopback TCP."""

import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unnoticed.agents import stream
from unnoticed.agents.ram import PAGE_BYTES, Ram
from unnoticed.errors import PeerError

PAGES = 512


def unix_pair():
    return socket.socketpair()


def tcp_pair(*, buffer_bytes=None):
    with socket.create_server(("127.0.0.1", 0)) as server:
        if buffer_bytes:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    if buffer_bytes:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return one, other


@contextmanager
def rams():
    made = [Ram.create(memory_bytes=PAGES * PAGE_BYTES) for _ in range(2)]
    try:
        made[0].words[:] = np.arange(1, PAGES * 512 + 1, dtype=np.uint64).reshape(PAGES, 512)
        yield made
    finally:
        for ram in made:
            ram.close()


@st.composite
def run_lists(draw):
    """Ascending runs; short and scattered ones, which go by writev, or long ones, which go by sendfile."""
    pairs, position = [], 0
    longest = draw(st.sampled_from([2, 20, 300]))
    for gap, count in draw(st.lists(st.tuples(st.integers(0, 20), st.integers(1, longest)), max_size=60)):
        if position + gap + count > PAGES:
            break
        pairs.append((position + gap, count))
        position += gap + count
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


def transfer(source, destination, runs, pair):
    """Send the runs' pages through a pair of sockets, and check that nothing is left in it."""
    one, other = pair
    failures = []

    def send():
        try:
            stream.send_pages(one, fd=source.fd, address=source.address, runs=runs)
        except Exception as error:  # shown by the test
            failures.append(error)
        finally:
            one.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        stream.receive_pages(other, address=destination.address, runs=runs)
        assert other.recv(1) == b""
    finally:
        sender.join()
        one.close()
        other.close()
    assert failures == []


def check(source, destination, runs):
    """The pages of the runs are the source's; every other page is untouched."""
    expected = np.zeros_like(destination.words)
    for first, count in runs.tolist():
        expected[first : first + count] = source.words[first : first + count]
    assert (destination.words == expected).all()


@settings(deadline=None, max_examples=60)
@given(runs=run_lists(), make_pair=st.sampled_from([unix_pair, tcp_pair, lambda: tcp_pair(buffer_bytes=1)]))
def test_any_runs_arrive_exactly_and_nothing_else_is_touched(runs, make_pair):
    with rams() as (source, destination):
        transfer(source, destination, runs, make_pair())
        check(source, destination, runs)


def test_every_second_page_is_more_vectors_than_one_call_takes():
    runs = np.column_stack((np.arange(0, PAGES, 2), np.ones(PAGES // 2))).astype(np.uint64)
    with rams() as (source, destination):
        old, stream._VECTORS = stream._VECTORS, 7
        try:
            transfer(source, destination, runs, tcp_pair(buffer_bytes=1))
        finally:
            stream._VECTORS = old
        check(source, destination, runs)


@pytest.mark.parametrize("runs", [[(0, 400)], [(0, 3), (5, 1), (100, 30)]], ids=["long", "scattered"])
@pytest.mark.parametrize("pages_before_the_end", [0, 1.5, 30])
def test_a_source_that_hangs_up_midway_is_a_peer_error(runs, pages_before_the_end):
    one, other = tcp_pair()
    with rams() as (_, destination), one, other:
        one.sendall(bytes(int(pages_before_the_end * PAGE_BYTES)))
        one.close()
        with pytest.raises(PeerError, match="The source stopped sending pages"):
            stream.receive_pages(other, address=destination.address, runs=np.array(runs, dtype=np.uint64))


@pytest.mark.parametrize("runs", [[(0, 400)], [(n, 1) for n in range(0, 500, 2)]], ids=["long", "scattered"])
def test_a_destination_that_goes_away_is_a_peer_error(runs):
    one, other = tcp_pair(buffer_bytes=1)
    with rams() as (source, _), one:
        other.close()
        with pytest.raises(PeerError, match="The destination stopped taking pages"):
            stream.send_pages(one, fd=source.fd, address=source.address, runs=np.array(runs, dtype=np.uint64))


@pytest.mark.parametrize("runs", [[(0, 400)], [(n, 1) for n in range(0, 500, 2)]], ids=["long", "scattered"])
def test_a_peer_that_stands_still_for_longer_than_the_limit_is_a_peer_error(runs):
    """Both ways, with the kernel's time limits that a channel sets, shortened."""
    one, other = tcp_pair(buffer_bytes=1)
    limit = (0).to_bytes(8, "little") + (20_000).to_bytes(8, "little")
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    with rams() as (source, destination), one, other:
        runs = np.array(runs, dtype=np.uint64)
        with pytest.raises(PeerError, match="The destination stopped taking pages"):
            stream.send_pages(one, fd=source.fd, address=source.address, runs=runs)
        with pytest.raises(PeerError, match="The source stopped sending pages"):
            stream.receive_pages(one, address=destination.address, runs=runs)


def test_no_runs_touch_neither_socket_nor_memory():
    none = np.empty((0, 2), dtype=np.uint64)
    with socket.socket() as unconnected:
        stream.send_pages(unconnected, fd=-1, address=0, runs=none)
        stream.receive_pages(unconnected, address=0, runs=none)


def test_the_list_of_runs_is_left_as_it_was():
    runs = np.array([[3, 2], [9, 1]], dtype=np.uint64)
    with rams() as (source, destination):
        transfer(source, destination, runs, unix_pair())
    assert runs.tolist() == [[3, 2], [9, 1]]
