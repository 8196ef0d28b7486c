"""The connections of a guest that is to leave, until they live elsewhere, or here again.

While the guest runs, duplicates of its sockets are taken, and the destination is told of the connections, so that it
can prepare for them. In the cutover they are held before the gate closes: a held connection hears acknowledgements but
starts nothing. What is in flight gets a moment to arrive, because the destination's kernel, which has no measure of the
path yet, would repeat it only after a second. Then the gate closes and they are dumped, part by part.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from unnoticed.agents import batches, wire
from unnoticed.agents.batches import Departing, Dumped
from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.kernel.tcp_repair import Position
from unnoticed.agents.ram import SLOTS, Slot, slot_base
from unnoticed.clock import now_ns
from unnoticed.endpoints import endpoint
from unnoticed.events import EventLog
from unnoticed.workload import Kind

SETTLE_NS = 3_000_000
_POLL_S = 0.0002
# A receiver acknowledges every second full segment at once, and less than that up to 40 ms later (RFC 9293, 3.8.6.3).
_DELAYED_BYTES = 1460
_PART = 128  # connections that are dumped here while those before them are restored there


class DepartingConnections:
    """All connections of one guest.

    `lost` are the slots of those that had ended before they could be dumped, `rto_min_ns` the smallest retransmission
    timeout that the last survey found; None while there is none.
    """

    def __init__(self, guest: GuestProcess) -> None:
        self._guest = guest
        self._known: dict[int, Departing] = {}  # by slot
        self._serials = np.zeros(SLOTS, np.uint64)  # of those
        self._came: dict[int, Departing] = {}  # of which the destination has not been told
        self._gone: list[int] = []  # nor of these, which it was told of
        self._dumped: list[Dumped] = []
        self.lost: list[int] = []
        self.rto_min_ns: int | None = None

    def __len__(self) -> int:
        """How many the guest had when it was last looked at."""
        return len(self._known)

    @property
    def dumped(self) -> int:
        return len(self._dumped)

    def refresh(self) -> None:
        """Take duplicates of the sockets that have come since the last look, and close those of connections that went.

        Of a paused guest these are all; of a running one those that could be had before they closed.
        """
        slots = self._guest.ram.slots
        serials = np.where(slots[:, Slot.STATE] != 0, slots[:, Slot.SERIAL], 0)
        for slot in np.flatnonzero(serials != self._serials).tolist():
            gone = self._known.pop(slot, None)
            if gone is not None:
                gone.socket.close()
                if gone.description is not None and self._came.pop(slot, None) is None:
                    self._gone.append(slot)
            self._serials[slot] = 0
            if serials[slot] and self._add(slot, int(serials[slot])):
                self._serials[slot] = serials[slot]

    def _add(self, slot: int, serial: int) -> bool:
        duplicate = self._guest.duplicate(slot)
        if duplicate is None:
            return False
        words = self._guest.ram.slots[slot]
        # Between our looks at its number and at its descriptor another file may have taken that; the RAM tells.
        if not words[Slot.STATE] or words[Slot.SERIAL] != serial:
            duplicate.close()
            return False
        description = None
        with contextlib.suppress(OSError):  # it has ended: nothing to prepare for, and the dump will find it
            description = tcp_repair.describe(duplicate, slot=slot)
        departing = self._known[slot] = Departing(slot, duplicate, description)
        if description is not None:
            self._came[slot] = departing
        return True

    def announce(self, send: Callable[[wire.Message], None]) -> None:
        """Look what connections have come and gone, and tell the destination, for it to prepare; if any have."""
        self.refresh()
        if not self._came and not self._gone:
            return
        rows = b"".join(each.row for each in self._came.values())
        message = wire.Connections(len(self._came), rows, tuple(self._gone))
        self._came, self._gone = {}, []
        send(message)

    def survey(self) -> tuple[list[int], int]:
        """Of the running guest's connections: retransmission timeouts in ns, and the bytes in all their queues."""
        timeouts_ns, queued_bytes = batches.survey([each.socket for each in self._known.values()])
        self.rto_min_ns = min(timeouts_ns, default=None)
        return timeouts_ns, queued_bytes

    # -- in the cutover ------------------------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Let each say now what it has received: those whose acknowledgement is due later will not be here then."""
        for connection in self._known.values():
            with contextlib.suppress(OSError):
                tcp_repair.acknowledge(connection.socket)

    def hold(self) -> None:
        """Let none of them start anything new."""
        batches.hold(list(self._known.values()))

    def positions(self) -> list[Position]:
        """How far those that are held have come."""
        found: list[Position] = []
        for each in self._known.values():
            with contextlib.suppress(OSError):  # it has ended: the dump will find it
                found.append(tcp_repair.position(each.socket, ends=each.ends))
        return found

    def settle(self) -> None:
        """Wait a little for the acknowledgement of what is in flight."""
        connections = list(self._known.values())
        deadline_ns = now_ns() + SETTLE_NS
        while batches.most_in_flight_bytes(connections) > _DELAYED_BYTES:
            if now_ns() > deadline_ns:
                return
            time.sleep(_POLL_S)

    def dump(self) -> Iterator[wire.GuestState]:
        """The state of each, in the order of the slots, in one part or several. Raises MigrationError, OSError."""
        connections = [self._known[slot] for slot in sorted(self._known)]
        for start in range(0, max(1, len(connections)), _PART):
            batch = batches.dump(connections[start : start + _PART])
            self.lost += batch.lost
            self._dumped += batch.dumped
            yield wire.GuestState(batch.connections, batch.blob, tuple(batch.lost))

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """They stay: let them go on where they were, and ask the peers what was missed. Closes the duplicates."""
        for connection in self._known.values():
            with contextlib.suppress(OSError):
                tcp_repair.release(connection.socket, connection.window)
        self.let_go()

    def close(self) -> None:
        """They have left: end them here, silently, since they are in repair mode, and close the duplicates.

        The guest's process has the sockets too, and their timers would run until it has ended.
        """
        for connection in self._known.values():
            tcp_repair.abort(connection.socket)
        self.let_go()

    def let_go(self) -> None:
        """Close the duplicates, without a word to the peers."""
        for connection in self._known.values():
            connection.socket.close()
        self._known.clear()
        self._serials[:] = 0

    def log(self, events: EventLog) -> None:
        """The kernel's counters of each at its dump; what its timers send later, to a closed gate, is void."""
        quads = self._guest.ram.quads
        for dumped in self._dumped:
            base = slot_base(dumped.slot)
            kind = quads[base + Slot.KIND]
            events.write(
                "socket",
                time_ns=dumped.time_ns,
                reason="dump",
                workload=Kind(kind).name.lower() if kind else "unknown",
                connection=quads[base + Slot.CONNECTION],
                local=endpoint(*dumped.local),
                remote=endpoint(*dumped.remote),
                **asdict(dumped.counters),
            )
