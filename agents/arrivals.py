"""The connections of a guest that is to come, on their way into this kernel.

The source names them while the guest still runs there. For each that is known a socket is made here, in repair mode,
and given to the guest's shell, which sets it up; so in the cutover little is left to be done for it. They are completed
part by part, as their states arrive, and all speak only when the guest has been given up by the source.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator

import numpy as np

from unnoticed.agents import batches, wire
from unnoticed.agents.batches import ROW, Arrived
from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.tcp_repair import TcpState
from unnoticed.agents.ram import SLOTS, Slot, SlotState, slot_base
from unnoticed.endpoints import endpoint
from unnoticed.errors import MigrationError, PeerError


class ArrivingConnections:
    """All connections of one guest that comes here."""

    def __init__(self, guest: GuestProcess, namespace: NetworkNamespace) -> None:
        """`namespace`: where they are to live."""
        self._guest, self._namespace = guest, namespace
        self._sockets: dict[int, socket.socket] = {}  # by slot: prepared, or completed
        self._rows = np.zeros(SLOTS, ROW)  # what those were prepared for
        self._peers = [b""] * SLOTS
        self._completed: list[int] = []
        self._unsent: list[TcpState] = []
        self._peer_closed: list[int] = []
        self._lost: list[int] = []

    def __len__(self) -> int:
        """How many are complete."""
        return len(self._completed)

    @property
    def lost(self) -> list[int]:
        """The slots of those that had ended."""
        return self._lost

    def expect(self, message: wire.Connections) -> None:
        """Prepare for connections, and forget those that have gone. Raises PeerError."""
        self._forget(message.gone)
        arrived = _parse(message.blob, message.connections)
        prepared: dict[int, socket.socket] = {}
        with self._namespace.entered():
            for number in range(len(arrived)):
                state = _state(arrived, number)
                if state.slot >= SLOTS or state.slot in self._sockets:
                    raise PeerError(f"The source names a connection for slot {state.slot}, which cannot take it.")
                with contextlib.suppress(OSError):  # it will be made when it comes, or that will tell why not
                    self._sockets[state.slot] = prepared[state.slot] = tcp_repair.prepare(state)
                    self._rows[state.slot] = arrived.rows[number]
                    self._peers[state.slot] = tcp_repair.sockaddr(state.remote)
        self._guest.hand_over(prepared)

    def _forget(self, slots: Iterable[int]) -> None:
        known = [slot for slot in slots if slot in self._sockets]
        self._guest.take_back(known)
        for slot in known:
            self._sockets.pop(slot).close()

    def restore(self, message: wire.GuestState) -> None:
        """Complete one part of them. Raises PeerError, OSError."""
        arrived = _parse(message.blob, message.connections)
        self._lost += message.lost
        slots = arrived.rows["slot"].astype(np.int64)
        if len(slots) and (int(slots.max()) >= SLOTS or len(set(slots.tolist())) < len(slots)):
            raise PeerError("The source sends connections for slots that there are not, or twice for the same.")
        before = self._rows[slots]
        same = (before["ends"] == arrived.rows["ends"]).all(axis=1)
        same &= (before["congestion"] == arrived.rows["congestion"]).all(axis=1)
        numbers = [number for number in np.flatnonzero(same).tolist() if int(slots[number]) in self._sockets]
        prepared = [int(slots[number]) for number in numbers]
        sockets, peers = [self._sockets[slot] for slot in prepared], [self._peers[slot] for slot in prepared]
        with _readable():
            done = batches.complete(sockets, peers, arrived, numbers)
        completed = {number for number, worked in zip(numbers, done, strict=True) if worked}
        self._restore_anew([_state(arrived, number) for number in range(len(arrived)) if number not in completed])
        self._rows[slots] = arrived.rows
        self._completed += slots.tolist()
        self._unsent += [_state(arrived, number) for number in np.flatnonzero(arrived.rows["unsent_bytes"]).tolist()]
        self._peer_closed += slots[arrived.rows["peer_closed"] != 0].tolist()

    def _restore_anew(self, states: list[TcpState]) -> None:
        """Those for which nothing is prepared, or not what they need. Raises OSError."""
        if not states:
            return
        self._forget(state.slot for state in states)
        made: dict[int, socket.socket] = {}
        with self._namespace.entered():
            for state in states:
                self._sockets[state.slot] = made[state.slot] = tcp_repair.restore(state)
        self._guest.hand_over(made)

    def check(self) -> None:
        """Hold them against the guest's RAM, which has come as well. Raises PeerError."""
        lost = set(self._lost)
        if self._completed != [slot for slot in self._guest.ram.used_slots() if slot not in lost]:
            raise PeerError("The guest's connections are not those that its RAM knows.")

    def tell_ram(self) -> None:
        """Tell the guest's RAM of the connections that have ended, wholly or by half: their new sockets cannot."""
        quads = self._guest.ram.quads
        for slot in self._peer_closed:
            quads[slot_base(slot) + Slot.PEER_CLOSED] = 1
        for slot in self._lost:
            quads[slot_base(slot) + Slot.STATE] = SlotState.FREE

    def revive(self) -> list[str]:
        """Let every connection speak; says what went wrong with those that cannot, and resets them."""
        troubles: list[str] = []
        failed = batches.leave([self._sockets[slot] for slot in self._completed])
        for slot in [self._completed[number] for number in failed]:
            try:
                tcp_repair.leave(self._sockets[slot])
            except OSError as error:
                troubles.append(self._abort(slot, error))
        for state in self._unsent:
            try:
                tcp_repair.send_unsent(self._sockets[state.slot], state)
            except (MigrationError, OSError) as error:
                troubles.append(self._abort(state.slot, error))
        return troubles

    def _abort(self, slot: int, error: Exception) -> str:
        """The guest will find it broken, as if the client had reset it."""
        tcp_repair.abort(self._sockets[slot])
        row = self._rows[[slot]]
        row["send_bytes"] = row["receive_bytes"] = row["unsent_bytes"] = 0
        remote = TcpState.unpack(memoryview(row.tobytes()))[0].remote
        return f"{endpoint(*remote)}: {error}"

    def close(self) -> None:
        """Close the sockets here: the guest has its own, or else they are in repair mode, and silent."""
        for connection in self._sockets.values():
            connection.close()
        self._sockets.clear()


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """What cannot be read within the block is the source's fault."""
    try:
        yield
    except ValueError as error:
        raise PeerError(f"The guest's connections cannot be read: {error}.") from error


def _parse(blob: bytes, connections: int) -> Arrived:
    with _readable():
        return batches.parse(blob, connections=connections)


def _state(arrived: Arrived, number: int) -> TcpState:
    with _readable():
        return arrived.state(number)
