"""The compiled loops of a post-copy against the reference: `page_wire`."""

import contextlib
import os
import socket
import struct
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unnoticed.agents.kernel import page_loops
from unnoticed.agents.kernel.page_loops import Keyring
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.owed import OwedPages
from unnoticed.agents.page_server import PageServer
from unnoticed.agents.page_wire import FRAME_BYTES, Frame, Kind, PageWire, Type
from unnoticed.agents.pager import Pager
from unnoticed.agents.ram import SMALLEST_BYTES, Ram
from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError

KEY = bytes(range(32))
PAGES = SMALLEST_BYTES // PAGE_BYTES
ADDRESS = 0x7F00_0000_0000
FAULT = struct.Struct("<B7xQQ8x")


@given(st.binary(min_size=1, max_size=64), st.sampled_from(list(Role)), st.binary(min_size=24, max_size=24))
def test_frames_are_signed_as_the_reference_signs_them(key, role, header):
    wire = PageWire.joined(role, Kind.DEMAND, key=key, pages=PAGES)
    wire.counts = [7, 1 << 40]
    frame, keyring = np.zeros(5, np.uint64), Keyring.of(wire)
    frame[:3] = np.frombuffer(header, np.uint64)
    page_loops._sign(frame, keyring)
    assert frame.tobytes() == header + wire._tag(True, header)
    assert keyring.counts.tolist() == wire.counts


@pytest.fixture
def ends():
    """Two connected sockets; both ends are closed in the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        yield ours, theirs


class Serving:
    """A page server in a thread, and the reference at the other end."""

    def __init__(self, ends):
        self.ours, self.theirs = ends
        self.ram = Ram.create(memory_bytes=SMALLEST_BYTES)
        self.ram.words[:] = np.arange(self.ram.words.size, dtype=np.uint64).reshape(self.ram.words.shape)
        self.owed = OwedPages.create(pages=PAGES)
        self.owed.owe(np.array([[0, PAGES]], np.uint64))
        self.server = PageServer(self.owed, self.ram)
        self.wire = PageWire.joined(Role.DESTINATION, Kind.DEMAND, key=KEY, pages=PAGES)
        self.result = None
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        try:
            wire = PageWire.joined(Role.SOURCE, Kind.DEMAND, key=KEY, pages=PAGES)
            self.result = self.server.serve(self.ours.fileno(), wire)
        except PeerError as error:
            self.result = error

    def want(self, page):
        self.theirs.sendall(self.wire.send(Frame(Type.WANT, page)))

    def page(self):
        data = b""
        while len(data) < FRAME_BYTES + PAGE_BYTES:
            data += self.theirs.recv(FRAME_BYTES + PAGE_BYTES - len(data))
        return self.wire.receive(data[:FRAME_BYTES]), data[FRAME_BYTES:]

    def end(self):
        with contextlib.suppress(OSError):
            self.theirs.shutdown(socket.SHUT_WR)
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.result


@pytest.fixture
def serving(ends):
    serving = Serving(ends)
    yield serving
    serving.end()


def test_each_page_that_is_wanted_is_sent_and_is_not_owed_any_more(serving):
    for page in (200, 0, PAGES - 1, 200):
        serving.want(page)
    for page in (200, 0, PAGES - 1, 200):
        frame, content = serving.page()
        assert frame == Frame(Type.PAGES, page, 1)
        assert content == serving.ram.view[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
    assert serving.end() == 4
    flags, demand = serving.owed.views()
    assert np.flatnonzero(flags == 0).tolist() == [0, 200, PAGES - 1]
    assert demand.tolist() == [201, 4]
    assert serving.owed.demanded == 4


def other(frame, *, key=KEY, kind=Kind.DEMAND, counts=(1, 1), role=Role.DESTINATION):
    """A frame that is signed by somebody, and that only the peer refuses."""
    wire = PageWire.joined(role, kind, key=key, pages=1 << 32)
    wire.catch_up(counts, (1 << 31,) * (frame.type == Type.PAGES))
    wire._advance = lambda *_: None
    return wire.send(frame)


ODD_WANTS = {
    "another key": (other(Frame(Type.WANT, 3), key=bytes(32)), "does not carry the right tag"),
    "a replay": (other(Frame(Type.WANT, 3), counts=(1, 0)), "does not carry the right tag"),
    "a page beyond the RAM": (other(Frame(Type.WANT, PAGES)), "one that the guest's RAM has not got"),
    "another type": (other(Frame(Type.JOINED)), "JOINED from the destination"),
    "its own words": (other(Frame(Type.WANT, 3), role=Role.SOURCE), "does not carry the right tag"),
    "half a frame": (other(Frame(Type.WANT, 3))[:17], "hung up its demand channel"),
}


@pytest.mark.parametrize("odd", ODD_WANTS)
def test_a_server_refuses_what_the_reference_refuses(serving, odd):
    data, reason = ODD_WANTS[odd]
    serving.theirs.sendall(data)
    result = serving.end()
    assert isinstance(result, PeerError)
    assert reason in str(result)
    assert serving.owed.take() == (0, (1 << 64) - 1)


def test_a_server_says_that_nobody_takes_its_pages(serving):
    serving.want(3)
    serving.page()
    serving.ours.shutdown(socket.SHUT_WR)
    serving.want(4)
    assert "stopped taking pages: Broken pipe" in str(serving.end())


class Paging:
    """A pager in a thread, whose faults are written to a pipe. A place for a page is what it has not got."""

    def __init__(self, ends):
        self.ours, self.theirs = ends
        self.faults = os.pipe2(os.O_NONBLOCK)
        self.orders = socket.socketpair()
        self.log = os.memfd_create("log")
        self.wire = PageWire.joined(Role.SOURCE, Kind.DEMAND, key=KEY, pages=PAGES)
        wire = PageWire.joined(Role.DESTINATION, Kind.DEMAND, key=KEY, pages=PAGES)
        fds = {"fault_fd": self.faults[0], "log_fd": self.log}
        self.pager = Pager(self.ours.fileno(), wire, address=ADDRESS, **fds)
        self.result = None
        self.thread = threading.Thread(target=self._attend)
        self.thread.start()

    def _attend(self):
        try:
            self.result = self.pager.attend(self.orders[0].fileno(), is_last=False)
        except PeerError as error:
            self.result = error

    def touch(self, *pages):
        data = b"".join(FAULT.pack(0x12, 0, ADDRESS + page * PAGE_BYTES + 40) for page in pages)
        os.write(self.faults[1], data)

    def wanted(self):
        return self.wire.receive(self.theirs.recv(FRAME_BYTES, socket.MSG_WAITALL))

    def end(self):
        self.orders[1].send(b"finish")
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.result

    def close(self):
        self.end()
        for each in (*self.faults, self.log):
            os.close(each)
        for each in self.orders:
            each.close()


@pytest.fixture
def paging(ends):
    paging = Paging(ends)
    yield paging
    paging.close()


def test_each_page_that_is_touched_is_wanted_once(paging):
    paging.touch(5, 9, 5)
    paging.touch(PAGES - 1, 9)
    assert [paging.wanted() for _ in range(3)] == [Frame(Type.WANT, page) for page in (5, 9, PAGES - 1)]
    assert paging.end() is True
    assert paging.wire.wanted == 3
    paging.theirs.settimeout(0.05)
    with pytest.raises(TimeoutError):
        paging.theirs.recv(1)


def test_what_is_no_fault_is_passed_over(paging):
    os.write(paging.faults[1], FAULT.pack(0x15, 0, ADDRESS))
    paging.touch(1)
    assert paging.wanted() == Frame(Type.WANT, 1)


def signed(frame):
    return other(frame, role=Role.SOURCE) + bytes(PAGE_BYTES)


ODD_PAGES = {
    "another page": (signed(Frame(Type.PAGES, 6, 1)), "another page than the one that was wanted"),
    "two pages": (signed(Frame(Type.PAGES, 5, 3)), "another page than the one that was wanted"),
    "no page": (signed(Frame(Type.PAGES, 5, 0)), "sends no pages"),
    "another type": (signed(Frame(Type.END)), "END from the source"),
    "no type": (signed(Frame(77)), "none of these"),
    "another key": (
        other(Frame(Type.PAGES, 5, 1), role=Role.SOURCE, key=bytes(32)) + bytes(PAGE_BYTES),
        "does not carry the right tag",
    ),
    "a part of a page": (signed(Frame(Type.PAGES, 5, 1))[:-1], "in the midst of one"),
    "nothing": (b"", "hung up its demand channel"),
}


@pytest.mark.parametrize("odd", ODD_PAGES)
def test_a_pager_refuses_what_the_reference_refuses(paging, odd):
    data, reason = ODD_PAGES[odd]
    paging.touch(5)
    paging.wanted()
    paging.theirs.sendall(data)
    paging.theirs.shutdown(socket.SHUT_WR)
    paging.thread.join(10)
    assert isinstance(paging.result, PeerError)
    assert reason in str(paging.result)
    assert paging.pager.placed == 0


def test_the_page_that_is_due_is_put_in_place(paging):
    paging.touch(5)
    paging.wanted()
    paging.theirs.sendall(paging.wire.send(Frame(Type.PAGES, 5, 1)) + bytes(PAGE_BYTES))
    paging.thread.join(10)
    assert "Inappropriate ioctl" in str(paging.result)  # a pipe has no place for it
