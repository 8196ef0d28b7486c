"""The hush before a cutover: no new connection begins, and those that are just beginning or ending may finish.

A connection that is half open is this host's kernel's alone, so it cannot be moved. A SYN that is dropped comes again
after a second; where frames are held it waits aside instead.
"""

from __future__ import annotations

import time

from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.holding import Holding
from unnoticed.agents.kernel import socket_filter
from unnoticed.agents.kernel.socket_diag import HandshakeMonitor
from unnoticed.clock import now_ns
from unnoticed.patience import patient

_LIMIT_NS = int(patient(100_000_000))  # longest wait for connections that begin or end
_POLL_S = 0.0002


class Hush:
    """Of the listeners of one guest."""

    def __init__(self, guest: GuestProcess, handshakes: HandshakeMonitor, *, holding: Holding | None) -> None:
        """`holding`: where SYNs wait aside; without it they are dropped unseen."""
        self._guest, self._handshakes, self._holding = guest, handshakes, holding

    def begin(self) -> None:
        """Let no new connection begin, and wait a little for those half open to finish. Raises OSError.

        And for those that the guest has closed: they are the kernel's alone, and what they have to say would stay here.
        """
        if self._holding is not None:
            self._holding.put_attempts_aside()
        else:
            for listener in self._guest.listeners:
                socket_filter.drop_new_connections(listener)
        deadline_ns = now_ns() + _LIMIT_NS
        while (self._handshakes.half_open() or self._handshakes.closing()) and now_ns() < deadline_ns:
            time.sleep(_POLL_S)

    def end(self) -> None:
        """Let connections begin again, first those whose SYNs wait aside. Also where it never began. Raises OSError."""
        if self._holding is not None:
            self._holding.put_back()
        else:
            for listener in self._guest.listeners:
                socket_filter.accept_new_connections(listener)
