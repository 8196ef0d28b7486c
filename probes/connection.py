"""One TCP connection of the load: a non-blocking socket around a Flow."""

from __future__ import annotations

import os
import select
import socket
from typing import Any

from unnoticed.clock import now_ns
from unnoticed.probes.client_flows import Flow
from unnoticed.probes.stream_socket import open_stream, unacknowledged_bytes
from unnoticed.tcpinfo import socket_reading


class Connection:
    """Carries one flow from connect to close. The owner polls it for `interest` and calls `turn` when it is ready.

    A turn sends and receives one piece at most, so that a busy bulk connection does not keep the others waiting.
    It is over when `finished` (in order) or `death` (a sentence) is set; then `close` gives its last reading.
    """

    def __init__(
        self,
        flow: Flow,
        address: tuple[str, int],
        *,
        congestion_control: str,
        pacing_byte_per_s: int | None = None,
    ) -> None:
        """Start to connect. Raises OSError if that fails at once."""
        self.flow = flow
        self.finished = False
        self.death = ""
        self._address = address
        self._established = False
        self._ended = False  # our direction
        self._socket = open_stream(address, congestion_control=congestion_control, pacing_byte_per_s=pacing_byte_per_s)
        self._local: tuple[str, int] = self._socket.getsockname()[:2]

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def interest(self) -> int:
        """The epoll events it waits for."""
        if not self._established:
            return select.EPOLLOUT
        interest = select.EPOLLIN
        if not self._ended and self.flow.next_bytes():
            interest |= select.EPOLLOUT
        return interest

    def turn(self, events: int, buffer: bytearray) -> None:
        """Do what epoll says can be done, with `buffer` to receive in."""
        if not self._established and not self._establish():
            return
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._receive(buffer)
        if events & select.EPOLLOUT:
            self.send(buffer)
        self.advance()

    def send(self, buffer: bytearray) -> None:
        """Send what the flow has to say, as far as the kernel takes it."""
        if not self._established or self._ended or self.death:
            return
        data = self.flow.next_bytes()
        if not data:
            return
        try:
            count = self._socket.send(data)
        except BlockingIOError:
            return
        except OSError as error:
            self._drain(buffer)
            self._die(error)
            return
        self.flow.took(count, now_ns=now_ns())

    def advance(self) -> None:
        """End our direction if the flow has no more to say or to hear."""
        if self._established and not self._ended and not self.death and self.flow.may_end:
            self._ended = True
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._die(error)

    def close(self, reason: str) -> dict[str, Any]:
        """Close it and return its last reading: the fields of the event `socket`.

        reason: "close" when it ended in order, "reset" when it died, "final" when it was given up.
        """
        flow = self.flow
        fields = {
            "reason": reason,
            "workload": flow.kind.name.lower(),
            "connection": flow.connection,
            **socket_reading(self._socket, local=self._local, remote=self._address),
            "bytes_sent": flow.bytes_sent,
            "bytes_received": flow.bytes_received,
            "wrong_bytes": flow.wrong_bytes,
            "integrity": flow.integrity,
            "detail": "; ".join(filter(None, [self.death, flow.detail, self._unfinished(reason)])),
        }
        self._socket.close()
        return fields

    def _unfinished(self, reason: str) -> str:
        """What a connection that was given up still owed."""
        if reason != "final" or self.death:
            return ""
        if not self._established:
            return "not established"
        owed = unacknowledged_bytes(self._socket)
        return f"given up before the guest closed it, with {owed} bytes unacknowledged"

    def _establish(self) -> bool:
        failure = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self.death = f"connecting failed: {os.strerror(failure)}"
            return False
        self._established = True
        return True

    def _receive(self, buffer: bytearray) -> None:
        try:
            length = self._socket.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._die(error)
            return
        if length:
            self.flow.received(buffer, length, now_ns=now_ns())
        elif self._ended:
            self.finished = True
        else:
            self.death = "the guest ended the connection before it was asked to"

    def _drain(self, buffer: bytearray) -> None:
        """Read what came before the connection broke: it is to be checked like everything else."""
        try:
            while length := self._socket.recv_into(buffer):
                self.flow.received(buffer, length, now_ns=now_ns())
        except OSError:
            pass

    def _die(self, error: OSError) -> None:
        self.death = self.death or (error.strerror or str(error))
