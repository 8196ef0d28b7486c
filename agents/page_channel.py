"""One end of a page channel: a TCP socket that speaks `unnoticed.agents.page_wire`."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Sequence

from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.owed import runs_in
from unnoticed.agents.page_wire import FRAME_BYTES, Frame, Kind, PageWire, Type
from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError
from unnoticed.patience import patient

SILENCE_S = patient(10.0)  # pages that do not come for so long are given up, and the guest with them
_PRIORITY = {Kind.DEMAND: 6, Kind.PUSH: 2}  # SO_PRIORITY: interactive and bulk (include/uapi/linux/pkt_sched.h)
_UNSENT_BYTES = 128 << 10  # of the push, in the kernel at most: what is under way when its page is demanded goes twice
_WAKE_BYTES = 64 << 10  # of the push: it is not worth waking up for less
_TCP_NOTSENT_LOWAT = 25
_SO_MAX_PACING_RATE = 47  # include/uapi/asm-generic/socket.h; an unsigned long


class PageChannel:
    """Frames and the contents of pages, over one socket."""

    def __init__(self, connection: socket.socket, wire: PageWire, kind: Kind) -> None:
        self.socket = connection
        self.wire = wire
        connection.setblocking(True)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(SILENCE_S), 0))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY[kind])
        self._is_push = kind is Kind.PUSH
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        if self._is_push:
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        self._peer = wire.role.peer.value

    @classmethod
    def from_parts(
        cls, role: Role, kind: Kind, *, fd: int, key: bytes, pages: int, is_patient: bool = False
    ) -> PageChannel:
        """The channel on a descriptor that was handed over after the two ends had joined.

        `is_patient`: that the peer says nothing means that it wants nothing.
        """
        channel = cls(socket.socket(fileno=fd), PageWire.joined(role, kind, key=key, pages=pages), kind)
        if is_patient:
            channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 0))
        return channel

    def pace(self, bytes_per_s: int) -> None:
        """Send no faster than this."""
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("@L", bytes_per_s))

    def send(self, frame: Frame) -> None:
        """Send a frame without pages. Raises PeerError."""
        try:
            self.socket.sendall(self.wire.send(frame))
        except OSError as error:
            raise PeerError(f"The {self._peer} is gone: {error}.") from error

    def send_page(self, page: int, ram: memoryview) -> None:
        """Send one page of the RAM, which was wanted. Raises PeerError."""
        frame = self.wire.send(Frame(Type.PAGES, page, 1))
        self._send_piece([frame, ram[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]])

    def send_pages(self, first: int, mask: int, ram: memoryview, *, piece_bytes: int) -> int:
        """Send PAGES and their contents, which must not change any more; returns bytes. Raises PeerError.

        The kernel gets them in pieces, which it does not join: what goes out in between waits for one of them at most.
        """
        pages = max(1, piece_bytes // PAGE_BYTES)
        parts: list[bytes | memoryview] = [self.wire.send(Frame(Type.PAGES, first, mask))]
        room = pages
        for start, count in runs_in(first, mask):
            page, end = start, start + count
            while page < end:
                some = min(room, end - page)
                parts.append(ram[page * PAGE_BYTES : (page + some) * PAGE_BYTES])
                page, room = page + some, room - some
                if not room:
                    self._send_piece(parts)
                    parts, room = [], pages
        if parts:
            self._send_piece(parts)
        return FRAME_BYTES + mask.bit_count() * PAGE_BYTES

    def _send_piece(self, parts: Sequence[bytes | memoryview]) -> None:
        left = sum(map(len, parts))
        try:
            while (sent := self.socket.sendmsg(parts, (), socket.MSG_EOR)) < left:
                left -= sent
                parts = [b"".join(parts)[sent:]]
        except OSError as error:
            raise PeerError(f"The {self._peer} stopped taking pages: {error}.") from error

    def receive(self) -> Frame | None:
        """The next frame; None if the peer has hung up between two frames. Raises PeerError."""
        try:
            self._await(FRAME_BYTES)
            data = self.socket.recv(FRAME_BYTES, socket.MSG_WAITALL)
        except BlockingIOError:
            raise PeerError(f"The {self._peer} said nothing for {SILENCE_S:g} s.") from None
        except OSError as error:
            raise PeerError(f"The {self._peer} is gone: {error}.") from error
        return self.wire.receive(data) if data else None

    def receive_page(self, buffer: memoryview) -> Frame:
        """A frame and the one page that follows it, at once: all of the buffer. Raises PeerError."""
        self.receive_contents(buffer)
        return self.wire.receive(bytes(buffer[:FRAME_BYTES]))

    def receive_contents(self, buffer: memoryview) -> None:
        """The contents of pages, all of the buffer. Raises PeerError."""
        length = len(buffer)
        received = 0
        while received < length:
            try:
                self._await(min(length - received, _WAKE_BYTES))
                count = self.socket.recv_into(buffer[received:], length - received)
            except OSError as error:
                raise PeerError(f"The {self._peer} stopped sending pages: {error}.") from error
            if count == 0 and received == 0:
                raise PeerError(f"The {self._peer} hung up while pages were still there.")
            if count == 0:
                raise PeerError(f"The {self._peer} stopped sending pages in the midst of one.")
            received += count

    def _await(self, length: int) -> None:
        """Of what is pushed: until so much is there. To wake up for every piece would cost more than to take it in."""
        if self._is_push:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, length)
            if not self._poll.poll(SILENCE_S * 1000):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # as recv does

    def close(self) -> None:
        self.socket.close()
