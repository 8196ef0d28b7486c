"""One end of a page channel: a TCP socket that speaks `unnoticed.agents.page_wire`."""

from __future__ import annotations

import os
import socket
import struct

from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.owed import runs_in
from unnoticed.agents.page_wire import FRAME_BYTES, Frame, Kind, PageWire, Type
from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError
from unnoticed.patience import patient

SILENCE_S = patient(10.0)  # pages that do not come for so long are given up, and the guest with them
_PRIORITY = {Kind.DEMAND: 6, Kind.PUSH: 2}  # SO_PRIORITY: interactive and bulk (include/uapi/linux/pkt_sched.h)
# What is in the kernel and not sent yet of the push, at most: if its page is demanded now it goes twice.
_MOST_UNSENT_BYTES, _LEAST_UNSENT_BYTES = 128 << 10, 4 << 10
_UNSENT_NS = 4_000_000  # at its pace
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
        """Send no faster than this, and have no more wait in the kernel than that needs."""
        unsent = min(max(bytes_per_s * _UNSENT_NS // 10**9, _LEAST_UNSENT_BYTES), _MOST_UNSENT_BYTES)
        self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, unsent)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("@L", bytes_per_s))

    @property
    def unacknowledged(self) -> int:
        """How many of the bytes that were sent are not acknowledged yet."""
        return tcp_repair.unacknowledged_bytes(self.socket)

    def send(self, frame: Frame) -> None:
        """Send a frame without pages. Raises PeerError."""
        try:
            self.socket.sendall(self.wire.send(frame))
        except OSError as error:
            raise PeerError(f"The {self._peer} is gone: {error}.") from error

    def send_pages(self, first: int, mask: int, ram_fd: int) -> int:
        """Send PAGES and their contents, straight from the memfd; returns bytes. Nothing must change in them any more.

        Raises PeerError.
        """
        runs = runs_in(first, mask)
        parts = [self.wire.send(Frame(Type.PAGES, first, mask))]
        try:
            if len(runs) == 1:
                self.socket.sendall(parts[0], socket.MSG_MORE)
                offset, end = first * PAGE_BYTES, (first + mask.bit_length()) * PAGE_BYTES
                offset += (runs[0][0] - first) * PAGE_BYTES
                while offset < end:
                    sent = os.sendfile(self.socket.fileno(), ram_fd, offset, end - offset)
                    if sent == 0:
                        raise OSError("nothing was sent")
                    offset += sent
            else:
                parts += [os.pread(ram_fd, count * PAGE_BYTES, start * PAGE_BYTES) for start, count in runs]
                self.socket.sendall(b"".join(parts))
        except OSError as error:
            raise PeerError(f"The {self._peer} stopped taking pages: {error}.") from error
        return FRAME_BYTES + mask.bit_count() * PAGE_BYTES

    def fill(self, length: int) -> int:
        """Send as many bytes that mean nothing; returns bytes. Raises PeerError."""
        data = self.wire.send(Frame(Type.FILL, total=length)) + bytes(length)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise PeerError(f"The {self._peer} is gone: {error}.") from error
        return len(data)

    def receive(self) -> Frame | None:
        """The next frame; None if the peer has hung up between two frames. Raises PeerError."""
        try:
            data = self.socket.recv(FRAME_BYTES, socket.MSG_WAITALL)
        except BlockingIOError:
            raise PeerError(f"The {self._peer} said nothing for {SILENCE_S:g} s.") from None
        except OSError as error:
            raise PeerError(f"The {self._peer} is gone: {error}.") from error
        return self.wire.receive(data) if data else None

    def receive_contents(self, buffer: memoryview) -> None:
        """The contents of pages, all of the buffer. Raises PeerError: also when nothing comes for SILENCE_S."""
        received = 0
        while received < len(buffer):
            try:
                came = self.socket.recv_into(buffer[received:], len(buffer) - received, socket.MSG_WAITALL)
            except BlockingIOError:
                raise PeerError(f"The {self._peer} said nothing for {SILENCE_S:g} s in the midst of a page.") from None
            except OSError as error:
                raise PeerError(f"The {self._peer} stopped sending pages: {error}.") from error
            if came == 0:
                where = "in the midst of one" if received else "while pages were still there"
                raise PeerError(f"The {self._peer} stopped sending pages {where}.")
            received += came

    def close(self) -> None:
        self.socket.close()
