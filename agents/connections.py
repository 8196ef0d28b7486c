"""The connections of a paused guest, from the pause until they live elsewhere, or here again.

They are held before the gate closes: a held connection hears acknowledgements but starts nothing. What is in flight
gets a moment to arrive, because the destination's kernel, which has no measure of the path yet, would repeat it only
after a second. Then the gate closes and they are dumped.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import asdict, dataclass

from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.kernel.tcp_repair import SendWindow, TcpState
from unnoticed.agents.ram import Slot, slot_base
from unnoticed.clock import now_ns
from unnoticed.endpoints import endpoint
from unnoticed.events import EventLog
from unnoticed.tcpinfo import TcpInfo
from unnoticed.workload import Kind

SETTLE_NS = 3_000_000
_POLL_S = 0.0002
# A receiver acknowledges every second full segment at once, and less than that up to 40 ms later (RFC 9293, 3.8.6.3).
_DELAYED_BYTES = 1460


@dataclass
class _Connection:
    slot: int
    socket: socket.socket
    window: SendWindow | None = None  # as it was before it was held


@dataclass(frozen=True)
class _Dumped:
    time_ns: int
    state: TcpState
    info: TcpInfo


class DepartingConnections:
    """All connections of one guest. `lost` are the slots of those that had ended before they could be dumped."""

    def __init__(self, guest: GuestProcess) -> None:
        """Take duplicates of the paused guest's sockets. Raises OSError."""
        self._guest = guest
        self._connections = [_Connection(slot, connection) for slot, connection in guest.connections()]
        self._dumped: list[_Dumped] = []
        self.lost: list[int] = []

    def __len__(self) -> int:
        """How many were dumped."""
        return len(self._dumped)

    def acknowledge(self) -> None:
        """Let each say now what it has received: those whose acknowledgement is due later will not be here then."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                tcp_repair.acknowledge(connection.socket)

    def hold(self) -> None:
        """Let none of them start anything new."""
        for connection in self._connections:
            with contextlib.suppress(OSError):  # one that has ended is found by the dump
                connection.window = tcp_repair.hold(connection.socket)

    def settle(self) -> None:
        """Wait a little for the acknowledgement of what is in flight."""
        deadline_ns = now_ns() + SETTLE_NS
        while any(tcp_repair.in_flight_bytes(each.socket) > _DELAYED_BYTES for each in self._connections):
            if now_ns() > deadline_ns:
                return
            time.sleep(_POLL_S)

    def dump(self) -> bytes:
        """The state of each, one behind the other. Raises MigrationError, OSError."""
        parts: list[bytes] = []
        for connection in self._connections:
            try:
                state, info = tcp_repair.dump(connection.socket, slot=connection.slot, window=connection.window)
            except tcp_repair.ConnectionLostError:
                self.lost.append(connection.slot)
                continue
            parts.append(state.pack())
            self._dumped.append(_Dumped(now_ns(), state, info))
        return b"".join(parts)

    def release(self) -> None:
        """They stay: let them go on where they were, and ask the peers what was missed. Closes the duplicates."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                tcp_repair.release(connection.socket, connection.window)
            connection.socket.close()

    def close(self) -> None:
        """They have left: end them here, silently, since they are in repair mode, and close the duplicates.

        The guest's process has the sockets too, and their timers would run until it has ended.
        """
        for connection in self._connections:
            tcp_repair.abort(connection.socket)
            connection.socket.close()

    def log(self, events: EventLog) -> None:
        """The kernel's counters of each at its dump; what its timers send later, to a closed gate, is void."""
        quads = self._guest.ram.quads
        for dumped in self._dumped:
            base = slot_base(dumped.state.slot)
            kind = quads[base + Slot.KIND]
            events.write(
                "socket",
                time_ns=dumped.time_ns,
                reason="dump",
                workload=Kind(kind).name.lower() if kind else "unknown",
                connection=quads[base + Slot.CONNECTION],
                local=endpoint(*dumped.state.local),
                remote=endpoint(*dumped.state.remote),
                **asdict(dumped.info),
            )
