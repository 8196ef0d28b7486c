"""The channel of a migration: a TCP socket that speaks `unnoticed.agents.wire`."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from unnoticed.agents import stream, wire
from unnoticed.agents.packing import Packed
from unnoticed.agents.ram import Ram
from unnoticed.errors import PeerError
from unnoticed.patience import patient

PORT = 7100
_FAREWELL_S = 0.2
_SILENCE_S = patient(10.0)  # a peer that says or takes nothing for so long is given up
_GREETING_S = patient(10.0)  # a peer must have proved itself after so long, however busily it talks
_UNPROVEN = {wire.State.GREETING, wire.State.GREETED, wire.State.PROVING}
_SO_MAX_PACING_RATE = 47  # include/uapi/asm-generic/socket.h; an unsigned long
_UNPACED = (1 << 64) - 1  # net/core/sock.c: ~0UL

M = TypeVar("M", bound=wire.Message)


class Channel:
    """One end of the conversation, and of the pages in between."""

    def __init__(self, connection: socket.socket, *, role: wire.Role, key: bytes, rate_bytes_per_s: int = 0) -> None:
        self.socket = connection
        self.wire = wire.Wire(role, key=key, nonce=os.urandom(wire.NONCE_BYTES))
        self._silence_s = _SILENCE_S
        self._proved_by = time.monotonic() + _GREETING_S
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_SILENCE_S))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_SILENCE_S))
        # A path that is gone is given up once, and not by each of the calls that find no room: a guest may wait.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * _SILENCE_S))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rate_bytes_per_s = rate_bytes_per_s
        if rate_bytes_per_s:
            self.pace(None)

    def pace(self, rate_bit_per_s: int | None) -> None:
        """Send no faster than this from now on; None: as fast as the channel's own limit lets us, if it has one."""
        limits = [rate for rate in (self._rate_bytes_per_s, (rate_bit_per_s or 0) // 8) if rate]
        rate = struct.pack("@L", min(limits, default=_UNPACED))
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)

    def send(self, message: wire.Message, *, more: bool = False) -> int:
        """Send a message; returns its bytes. `more` if something follows at once. Raises PeerError."""
        data = self.wire.send(message)
        try:
            self.socket.sendall(data, socket.MSG_MORE if more else 0)
        except OSError as error:
            raise PeerError(f"The {self.wire.role.peer.value} is gone: {error}.") from error
        return len(data)

    def send_pages(self, message: wire.Pages, ram: Ram) -> int:
        """Send a PAGES frame, and straight from the RAM what it announces; returns all bytes. Raises PeerError."""
        sent = self.send(message, more=True)
        stream.send_pages(self.socket, fd=ram.fd, address=ram.address, runs=message.runs)
        return sent + message.bytes_due

    def send_packed(self, packed: Packed, ram: Ram) -> int:
        """Send a PAGES or CODED frame and what follows it; returns all bytes. Raises PeerError."""
        message, follows = packed.message, packed.follows
        if follows is None:
            assert isinstance(message, wire.Pages)
            return self.send_pages(message, ram)
        sent = self.send(message, more=len(follows) > 0)
        try:
            self.socket.sendall(follows)
        except OSError as error:
            raise PeerError(f"The destination stopped taking pages: {error}.") from error
        return sent + len(follows)

    def receive_coded(self, message: wire.Coded) -> bytes:
        """Receive what a CODED frame announced. Raises PeerError when the stream ends too early."""
        data = bytearray(message.coded_bytes)
        view, have = memoryview(data), 0
        while have < len(data):
            try:
                came = self.socket.recv_into(view[have:], 0, socket.MSG_WAITALL)
            except OSError as error:
                raise PeerError(f"The source stopped sending pages: {error}.") from error
            if came == 0:
                raise PeerError("The source stopped sending pages: the connection ended.")
            have += came
        return bytes(data)

    def receive_pages(self, message: wire.Pages, ram: Ram) -> None:
        """Receive what a PAGES frame announced, straight into the RAM. Raises PeerError."""
        stream.receive_pages(self.socket, address=ram.address, runs=message.runs)

    def receive(self) -> wire.Message:
        """The next message. Raises PeerError when the peer breaks the protocol, aborts, hangs up or says nothing."""
        message = self._receive()
        if isinstance(message, wire.Abort):
            raise PeerError(f"The {self.wire.role.peer.value} gave up: {message.reason}")
        return message

    def _receive(self) -> wire.Message:
        message = None
        while message is None:
            try:
                data = self.socket.recv(self.wire.wanted)
            except BlockingIOError:
                raise PeerError(f"The {self.wire.role.peer.value} said nothing for {self._silence_s:g} s.") from None
            except OSError as error:
                raise PeerError(f"The {self.wire.role.peer.value} is gone: {error}.") from error
            if self.wire.state in _UNPROVEN and time.monotonic() > self._proved_by:
                raise PeerError(f"The {self.wire.role.peer.value} did not introduce itself within {_GREETING_S:g} s.")
            message = self.wire.receive(data)
        return message

    @contextmanager
    def patience(self, silence_s: float) -> Iterator[None]:
        """Bear a longer silence of the peer within the block."""
        self._silence_s = silence_s
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(silence_s))
        try:
            yield
        finally:
            self._silence_s = _SILENCE_S
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_SILENCE_S))

    def expect(self, kind: type[M]) -> M:
        """The next message, which the protocol's state says must be of this kind."""
        message = self.receive()
        if not isinstance(message, kind):
            raise PeerError(f"The {self.wire.role.peer.value} sent {type(message).__name__}, not {kind.__name__}.")
        return message

    def abort(self, reason: str) -> None:
        """Tell the peer, if it can still be told at once: a guest waits that stays here."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_FAREWELL_S))
            self.send(wire.Abort(reason))
        except (PeerError, wire.LocalProtocolError, OSError):
            return
        finally:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_SILENCE_S))

    def await_abort(self, *, patience_s: float) -> None:
        """After our ABORT: until the peer has given up as well, or is gone. What it said before is of no interest."""
        with contextlib.suppress(PeerError, OSError), self.patience(patience_s):
            while not isinstance(self._receive(), wire.Abort):
                pass

    def receive_held(self, *, patience_s: float) -> list[bytes]:
        """After an ABORT: the frames that the destination gives back; fewer, if it is gone before it has given all."""
        frames: list[bytes] = []
        with contextlib.suppress(PeerError, OSError), self.patience(patience_s):
            while True:
                message = self._receive()
                if isinstance(message, wire.Held):
                    if not message.frames:
                        break
                    frames += message.frames
        return frames

    def send_held(self, frames: list[bytes]) -> None:
        """After an ABORT: give frames back, and wait until the source has them. Raises PeerError."""
        for part in wire.split_frames(frames):
            self.send(wire.Held(part))
        self.send(wire.Held(()))
        with contextlib.suppress(OSError):  # closing with something unread would destroy what is under way
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(1 << 16):
                pass

    def say_no_more(self) -> None:
        """The peer will find that we have hung up; what it has to say is still heard."""
        with contextlib.suppress(OSError):  # it is gone
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()


def _timeval(seconds: float) -> bytes:
    """Struct timeval."""
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
