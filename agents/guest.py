"""The guest: a live server whose whole state lies in its RAM (`unnoticed.agents.ram`).

A process in the guest's network namespace, started by an agent and told by it, over a socket, to boot, resume or pause.
It serves the workloads of `unnoticed.workload` and dirties memory at a set rate. Its event loop keeps nothing between
two iterations but the map from descriptor to connection slot: that is what lets another process, on another host, go
on from the memory and the connections alone.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unnoticed import workload
from unnoticed.agents import dirtier, foreign, iperf3
from unnoticed.agents.kernel import descriptors, libc, userfaultfd
from unnoticed.agents.ram import (
    IN_BYTES,
    IN_OFFSET,
    IPERF3_IN_BYTES,
    OUT_BYTES,
    OUT_OFFSET,
    PAGE_BYTES,
    SLOTS,
    VERSION,
    Ram,
    Slot,
    SlotState,
    Super,
    slot_base,
)
from unnoticed.agents.ram import MAGIC as RAM_MAGIC
from unnoticed.agents.starvation import Starvation
from unnoticed.agents.wire import Copying
from unnoticed.agents.writer import writer_of
from unnoticed.clock import now_ns
from unnoticed.endpoints import ADDRESS_BYTES, family_of, pack_address, unpack_address
from unnoticed.events import EventLog
from unnoticed.tcpinfo import socket_reading
from unnoticed.workload import Answer, Hello, Kind, mix

_TICK_NS = 2_000_000  # how often the dirtier writes
_BATCH_PAGES = 512  # the most it writes at once: about a millisecond, so that a pause never waits longer
_BACKLOG_NS = 100_000_000  # what it may catch up on after a stall of the machine
_PIECES = 4  # bulk pieces per connection and iteration
# What may lie unsent in the kernel, at most and at least: the less, the less there is to move in a cutover.
_NOTSENT_BYTES, _LEAST_NOTSENT_BYTES = 128 << 10, 16 << 10
_SO_MAX_PACING_RATE = 47  # include/uapi/asm-generic/socket.h; an unsigned long
_TCP_NOTSENT_LOWAT = 25
_SO_RCVBUFFORCE = 33
# The kernel doubles it, and charges a probe with up to 832 bytes (struct sk_buff): 10 s of four clients at 1 kHz.
_PROBES_BYTES = 16 << 20
_EVENTS = 16  # served between two looks at the probes: an answer to them must not wait for a hundred connections
_OF_CLIENTS = frozenset(Kind) - {Kind.FOREIGN, Kind.IPERF3}  # kinds that a Hello can ask for
_RESET_ON_CLOSE = struct.pack("@ii", 1, 0)  # struct linger


class Guest:
    """One guest process. `run` serves until it is told to pause, or its agent is gone."""

    def __init__(
        self, *, ram: Ram, addresses: Sequence[str], control: socket.socket, events: EventLog, congestion: str
    ) -> None:
        """It is to be reached at `addresses`, of IPv4 and IPv6. Raises OSError where it cannot have them."""
        self._ram = ram
        self._quads = ram.quads
        self._control = control
        self._events = events
        # Each by its descriptor, one for each address.
        self._listeners = _by_descriptor(_listener(address, congestion) for address in addresses)
        self._names = {each.family: each.getsockname()[:2] for each in self._listeners.values()}
        self._probes = _by_descriptor(_probes(address, workload.PROBE_PORT) for address in addresses)
        self._counted = _by_descriptor(_probes(address, workload.TCP_PORT) for address in addresses)
        # Room for what all clients' probers send while this process stands still: a probe that found none would look
        # like one that a cut path lost.
        with contextlib.suppress(PermissionError):  # a guest in a unit test
            for probes in (*self._probes.values(), *self._counted.values()):
                probes.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _PROBES_BYTES)
        self._foreign_probes = _by_descriptor(_probes(address, workload.SOCKPERF_PORT) for address in addresses)
        self._epoll = select.epoll()
        for fixed in (control.fileno(), *self._listeners, *self._probes, *self._foreign_probes, *self._counted):
            self._epoll.register(fixed, select.EPOLLIN)
        self._connections: dict[int, tuple[socket.socket, int]] = {}  # descriptor to socket and slot
        self._adopted: dict[int, socket.socket] = {}  # by slot: connections that came before the guest itself
        self._free: list[int] = []
        self._buffer = bytearray(1 << 18)
        self._starvation = Starvation(events)

    @property
    def listener_fds(self) -> list[int]:
        return list(self._listeners)

    def boot(
        self,
        *,
        working_set_pages: int,
        dirty_pages_per_s: int,
        pattern: int,
        contents: dirtier.Contents = dirtier.UNCOMPRESSIBLE,
    ) -> None:
        """Fill the RAM: superblock, free slots, and the dirtier's area."""
        self._ram.words[:2] = 0
        for word, value in (
            (Super.MAGIC, RAM_MAGIC),
            (Super.VERSION, VERSION),
            (Super.MEMORY_BYTES, self._ram.memory_bytes),
            (Super.WORKING_SET_PAGES, working_set_pages),
            (Super.PATTERN, pattern),
            (Super.DIRTY_PAGES_PER_S, dirty_pages_per_s),
            (Super.ZERO_PPM, contents.zero_ppm),
            (Super.COMPRESSIBLE_PPM, contents.compressible_ppm),
        ):
            self._quads[word] = value
        dirtier.fill(self._ram.words, contents)

    def adopt(self, slot: int, connection: socket.socket) -> None:
        """Take over a connection that moves here, before the guest itself does: all that needs no look at the RAM."""
        self.let_go(slot)
        _set_up(connection)
        self._adopted[slot] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def let_go(self, slot: int) -> None:
        """Forget a connection that will not move, or not with this socket."""
        connection = self._adopted.pop(slot, None)
        if connection is not None:
            self._epoll.unregister(connection.fileno())
            connection.close()

    def resume(self, *, moved: bool) -> None:
        """Everything but `run` that a guest needs before its first iteration; `moved` if it comes from elsewhere."""
        self._quads[Super.RESUMES] += 1
        used = self._ram.used_slots()
        if moved:
            self._take_up(used)
        is_used = set(used)
        self._free = [slot for slot in reversed(range(SLOTS)) if slot not in is_used]

    def _take_up(self, used: list[int]) -> None:
        """Go on with the connections that were adopted: one for each used slot of the RAM."""
        for slot in self._adopted.keys() - set(used):
            self.let_go(slot)
        if len(self._adopted) != len(used):
            raise RuntimeError(f"{len(self._adopted)} connections for {len(used)} used slots")
        slots, fds = self._ram.slots, [self._adopted[slot].fileno() for slot in used]
        self._connections = {fd: (self._adopted[slot], slot) for fd, slot in zip(fds, used, strict=True)}
        slots[used, Slot.DESCRIPTOR] = fds
        # Few differ from what all were adopted as.
        special = (
            (slots[:, Slot.OUT_LENGTH] != 0)
            | (slots[:, Slot.KIND] == Kind.DOWNLOAD)
            | (slots[:, Slot.STATE] == SlotState.FINISHING)
            | (slots[:, Slot.RATE] != 0)
            | (slots[:, Slot.PEER_CLOSED] != 0)
        )
        for slot in np.flatnonzero(special & (slots[:, Slot.STATE] != SlotState.FREE)).tolist():
            connection, base = self._adopted[slot], slot_base(slot)
            self._epoll.modify(connection.fileno(), self._interest(slot))
            if self._quads[base + Slot.RATE]:
                _pace(connection, self._quads[base + Slot.RATE])
            if self._quads[base + Slot.PEER_CLOSED]:
                # The client's FIN is in the source kernel's past and will not come again: have this one act as if it
                # had come. A connection that was reset meanwhile is not connected, and says so when it is read.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
        self._adopted = {}

    def run(self) -> None:
        """Serve until told to pause; returns at the safe point, with everything in RAM."""
        quads = self._quads
        writer = writer_of(self._ram)
        origin_ns = self._running_ns() - quads[Super.DIRTIED_NS]
        control, listeners, probes = self._control.fileno(), self._listeners, self._probes
        foreign_probes, counted = self._foreign_probes, self._counted
        timeout_s = tick_s = None if writer.is_idle else _TICK_NS / 1e9
        self._starvation.begin(now_ns())
        while True:
            pausing = False
            ready = self._epoll.poll(-1 if timeout_s is None else timeout_s, _EVENTS)
            self._starvation.look(now_ns())
            for fd, event in ready:
                if fd == control:
                    pausing = True
                elif fd in probes:
                    _echo(probes[fd])
                elif fd in foreign_probes:
                    _echo_foreign(foreign_probes[fd])
                elif fd in counted:
                    self._count(counted[fd])
                elif fd in listeners:
                    self._accept(listeners[fd])
                else:
                    self._serve(fd, event)
            if not writer.is_idle:
                written = quads[Super.PAGES_WRITTEN]
                now = self._running_ns()
                due = writer.due(now - origin_ns)
                if writer.due(max(0, now - origin_ns - _BACKLOG_NS)) > written + _BATCH_PAGES:
                    quads[Super.PAGES_SKIPPED] += due - written
                    origin_ns = now - writer.elapsed_ns(written)
                    due = written
                stop = min(due, written + _BATCH_PAGES)
                if stop > written:
                    writer.write(self._ram.words, start=written, stop=stop)
                    quads[Super.PAGES_WRITTEN] = stop
                quads[Super.DIRTIED_NS] = now - origin_ns if stop == due else writer.elapsed_ns(stop)
                timeout_s = 0 if due > stop else tick_s
            if pausing:
                for listener in listeners.values():
                    self._accept(listener)
                return

    def _running_ns(self) -> int:
        """A clock for the dirtier, which stands while the guest is throttled: nothing is caught up on afterwards."""
        return now_ns() - self._quads[Super.THROTTLED_NS]

    # -- connections -----------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, (address, port, *_) = listener.accept()
            except OSError:  # nobody waits, or whoever did has gone
                return
            if not self._free:  # refused: one that waited would be lost in a migration, and keep this loop busy
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                connection.close()
                continue
            slot = self._free.pop()
            base = slot_base(slot)
            for word in Slot:
                self._quads[base + word] = 0
            start = (base + Slot.REMOTE_ADDRESS) * 8
            self._ram.view[start : start + ADDRESS_BYTES] = pack_address(address)
            self._quads[base + Slot.REMOTE_PORT] = port
            self._quads[base + Slot.STATE] = SlotState.GREETING
            _set_up(connection)
            fd = connection.fileno()
            self._quads[base + Slot.DESCRIPTOR] = fd
            self._connections[fd] = (connection, slot)
            self._epoll.register(fd, self._interest(slot))
            self._quads[Super.ACCEPTED] += 1
            self._quads[base + Slot.SERIAL] = self._quads[Super.ACCEPTED]  # the last word: now the agent may look

    def _interest(self, slot: int) -> int:
        base = slot_base(slot)
        state, kind = self._quads[base + Slot.STATE], self._quads[base + Slot.KIND]
        sending = self._quads[base + Slot.OUT_LENGTH] > 0 or (state == SlotState.SERVING and kind == Kind.DOWNLOAD)
        # While answers wait, no more requests are read: the client's window fills, as with any server.
        reading = self._quads[base + Slot.OUT_LENGTH] == 0 and state != SlotState.FINISHING
        return (select.EPOLLOUT if sending else 0) | (select.EPOLLIN if reading else 0)

    def _serve(self, fd: int, event: int) -> None:
        connection, slot = self._connections[fd]
        if event & select.EPOLLOUT:
            self._write(connection, slot)
        if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and fd in self._connections:
            self._read(connection, slot)

    def _read(self, connection: socket.socket, slot: int) -> None:
        base = slot_base(slot)
        bulk = self._quads[base + Slot.KIND] == Kind.UPLOAD
        for _ in range(_PIECES if bulk else 1):
            try:
                length = connection.recv_into(self._buffer, 0 if bulk else IN_BYTES * 16)
            except BlockingIOError:
                return
            except OSError as error:  # reset, timed out, unreachable
                self._close(connection, slot, reason="reset", detail=str(error))
                return
            if length == 0:
                self._ended(connection, slot)
                return
            if bulk:
                self._take_bulk(base, memoryview(self._buffer)[:length])
            else:
                self._take(connection, slot, bytes(self._buffer[:length]))
                return

    def _take(self, connection: socket.socket, slot: int, data: bytes) -> None:
        """Process what arrived on a connection that is not a bulk upload; keep an incomplete message in the RAM."""
        base, quads, view = slot_base(slot), self._quads, self._ram.view
        start = base * 8 + IN_OFFSET
        held = quads[base + Slot.IN_LENGTH]
        data = bytes(view[start : start + held]) + data
        position = 0
        if quads[base + Slot.STATE] == SlotState.GREETING and foreign.is_foreign(data):
            quads[base + Slot.KIND], quads[base + Slot.STATE] = Kind.FOREIGN, SlotState.SERVING
        if quads[base + Slot.STATE] == SlotState.GREETING and iperf3.is_cookie(data):
            self._begin_test(slot)
            data = data if quads[base + Slot.STATE] == SlotState.SERVING else b""
        if quads[base + Slot.STATE] == SlotState.GREETING and len(data) >= workload.HELLO.size:
            self._greet(connection, slot, data)
            position = workload.HELLO.size
        if quads[base + Slot.STATE] == SlotState.SERVING:
            kind = quads[base + Slot.KIND]
            if kind == Kind.REQUEST:
                position = self._answer(base, data, position)
            elif kind in {Kind.FOREIGN, Kind.IPERF3}:
                position = self._answer_foreign(slot, data)
            elif kind == Kind.UPLOAD:
                self._take_bulk(base, memoryview(data)[position:])
                position = len(data)
        rest = data[position:]
        room = IPERF3_IN_BYTES if quads[base + Slot.KIND] == Kind.IPERF3 else IN_BYTES
        if len(rest) > room or quads[base + Slot.STATE] == SlotState.FREE:
            self._close(connection, slot, reason="protocol", detail="not a client of this guest")
            return
        view[start : start + len(rest)] = rest
        quads[base + Slot.IN_LENGTH] = len(rest)
        self._write(connection, slot)

    def _greet(self, connection: socket.socket, slot: int, data: bytes) -> None:
        base, quads = slot_base(slot), self._quads
        magic, kind, number, rate = workload.HELLO.unpack_from(data)
        if magic != workload.MAGIC or kind not in _OF_CLIENTS:
            quads[base + Slot.STATE] = SlotState.FREE
            return
        hello = Hello(kind, number, rate)
        quads[base + Slot.KIND], quads[base + Slot.CONNECTION] = hello.kind, hello.connection
        quads[base + Slot.STATE] = SlotState.SERVING
        if kind == Kind.DOWNLOAD and rate:
            quads[base + Slot.RATE] = rate
            _pace(connection, rate)
        if kind == Kind.CONNECT:
            self._append(base, workload.ANSWER.pack(*Answer(0, 0, 0, mix(number, 0))))

    def _answer(self, base: int, data: bytes, position: int) -> int:
        """Answer every complete request that there is room to answer; returns where the rest starts."""
        quads = self._quads
        size = workload.REQUEST.size
        while position + size <= len(data) and quads[base + Slot.OUT_LENGTH] + workload.ANSWER.size <= OUT_BYTES:
            sequence, value = workload.REQUEST.unpack_from(data, position)
            position += size
            quads[base + Slot.ANSWERED] += 1
            self._append(
                base,
                workload.ANSWER.pack(sequence, quads[base + Slot.ANSWERED], quads[base + Slot.PREVIOUS], value),
            )
            quads[base + Slot.PREVIOUS] = value
        return position

    def _answer_foreign(self, slot: int, data: bytes) -> int:
        """The same for a tool that is not ours; what is no request, or too much at once, ends the connection."""
        base = slot_base(slot)
        try:
            if self._quads[base + Slot.KIND] == Kind.IPERF3:
                answers, taken = iperf3.answer(self._test(slot), data, now_ns=now_ns())
            else:
                answers, taken = foreign.answer(data)
        except ValueError:
            answers, taken = b"", 0
            self._quads[base + Slot.STATE] = SlotState.FREE
        if self._quads[base + Slot.OUT_LENGTH] + len(answers) > OUT_BYTES:
            self._quads[base + Slot.STATE] = SlotState.FREE
            return taken
        self._append(base, answers)
        return taken

    def _begin_test(self, slot: int) -> None:
        """Take a connection for iperf3's; while the test of another runs it is refused, as iperf3's server does it."""
        base, quads = slot_base(slot), self._quads
        is_taken = self._tested() is not None  # asked before this one looks like a test itself: slots are used again
        quads[base + Slot.KIND] = Kind.IPERF3
        if is_taken:
            self._append(base, bytes([iperf3.Message.ACCESS_DENIED]))
            quads[base + Slot.STATE] = SlotState.FINISHING
            return
        test = self._test(slot)
        for word in iperf3.Word:
            test[word] = 0
        quads[base + Slot.STATE], quads[Super.IPERF3_SLOT] = SlotState.SERVING, slot + 1

    def _test(self, slot: int) -> iperf3.Words:
        start = slot_base(slot) + Slot.TEST
        return self._quads[start : start + len(iperf3.Word)]

    def _tested(self) -> int | None:
        """The slot of the connection whose test runs."""
        slot = self._quads[Super.IPERF3_SLOT] - 1
        if slot < 0:
            return None
        base, quads = slot_base(slot), self._quads
        return slot if quads[base + Slot.STATE] and quads[base + Slot.KIND] == Kind.IPERF3 else None

    def _count(self, datagrams: socket.socket) -> None:
        """Take what has come for the test; a stranger's is dropped, as is all without a test."""
        slot = self._tested()
        test = None if slot is None else self._test(slot)
        client = None if slot is None else self._address_of(slot)
        for _ in range(64):
            try:
                datagram, sender = datagrams.recvfrom(2048)
                if slot is None or test is None or sender[0] != client:
                    continue
                answered, said = iperf3.take(test, datagram, port=sender[1], now_ns=now_ns())
                if answered:
                    datagrams.sendto(answered, sender)
            except OSError:  # nothing left, or the tool is gone
                return
            if said:
                base = slot_base(slot)
                self._append(base, said)
                connection, _ = self._connections[self._quads[base + Slot.DESCRIPTOR]]
                self._write(connection, slot)

    def _address_of(self, slot: int) -> str:
        start = (slot_base(slot) + Slot.REMOTE_ADDRESS) * 8
        return unpack_address(bytes(self._ram.view[start : start + ADDRESS_BYTES]))

    def _take_bulk(self, base: int, data: memoryview) -> None:
        quads = self._quads
        position = quads[base + Slot.POSITION]
        quads[base + Slot.WRONG] += workload.wrong_bytes(quads[base + Slot.CONNECTION], position, data)
        quads[base + Slot.POSITION] = position + len(data)

    def _append(self, base: int, data: bytes) -> None:
        waiting = self._quads[base + Slot.OUT_LENGTH]
        start = base * 8 + OUT_OFFSET + waiting
        self._ram.view[start : start + len(data)] = data
        self._quads[base + Slot.OUT_LENGTH] = waiting + len(data)

    def _write(self, connection: socket.socket, slot: int) -> None:
        base, quads = slot_base(slot), self._quads
        try:
            waiting = quads[base + Slot.OUT_LENGTH]
            if waiting:
                start = base * 8 + OUT_OFFSET
                taken = connection.send(self._ram.view[start : start + waiting])
                rest = bytes(self._ram.view[start + taken : start + waiting])
                self._ram.view[start : start + len(rest)] = rest
                quads[base + Slot.OUT_LENGTH] = len(rest)
            elif quads[base + Slot.KIND] == Kind.DOWNLOAD and quads[base + Slot.STATE] == SlotState.SERVING:
                self._send_bulk(connection, base)
        except BlockingIOError:
            pass
        except OSError as error:
            self._close(connection, slot, reason="reset", detail=str(error))
            return
        if quads[base + Slot.STATE] == SlotState.FINISHING and quads[base + Slot.OUT_LENGTH] == 0:
            self._close(connection, slot, reason="close")
        else:
            self._epoll.modify(connection.fileno(), self._interest(slot))

    def _send_bulk(self, connection: socket.socket, base: int) -> None:
        quads = self._quads
        for _ in range(_PIECES):
            position = quads[base + Slot.POSITION]
            piece = workload.pattern(quads[base + Slot.CONNECTION], position, 1 << 16)
            taken = connection.send(piece)
            quads[base + Slot.POSITION] = position + taken
            if taken < len(piece):
                return

    def _ended(self, connection: socket.socket, slot: int) -> None:
        """The client has ended its direction."""
        base, quads = slot_base(slot), self._quads
        if quads[base + Slot.STATE] == SlotState.SERVING and quads[base + Slot.KIND] == Kind.UPLOAD:
            self._append(base, workload.RECEIPT.pack(quads[base + Slot.POSITION], quads[base + Slot.WRONG]))
        quads[base + Slot.STATE] = SlotState.FINISHING
        self._write(connection, slot)

    def _close(self, connection: socket.socket, slot: int, *, reason: str, detail: str = "") -> None:
        base, quads = slot_base(slot), self._quads
        kind = quads[base + Slot.KIND]
        address = self._address_of(slot)
        self._events.write(
            "socket",
            reason=reason,
            workload=Kind(kind).name.lower() if kind else "unknown",
            connection=quads[base + Slot.CONNECTION],
            detail=detail,
            **socket_reading(
                connection,
                local=self._names[family_of(address)],
                remote=(address, quads[base + Slot.REMOTE_PORT]),
            ),
        )
        self._epoll.unregister(connection.fileno())
        del self._connections[connection.fileno()]
        with contextlib.suppress(OSError):  # it was reset
            connection.shutdown(socket.SHUT_RDWR)  # an agent that prepares a migration has a duplicate
        connection.close()
        quads[base + Slot.STATE] = SlotState.FREE
        self._free.append(slot)


def _listener(address: str, congestion: str) -> socket.socket:
    listener = socket.socket(family_of(address), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    listener.bind((address, workload.TCP_PORT))
    listener.listen(SLOTS)
    listener.setblocking(False)
    return listener


def _probes(address: str, port: int) -> socket.socket:
    probes = socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    probes.bind((address, port))
    probes.setblocking(False)
    return probes


def _by_descriptor(sockets: Iterable[socket.socket]) -> dict[int, socket.socket]:
    return {each.fileno(): each for each in sockets}


def _echo(probes: socket.socket) -> None:
    for _ in range(64):
        try:
            data, sender = probes.recvfrom(256)
            probes.sendto(data, sender)
        except OSError:  # nothing left, or the prober is gone
            return


def _echo_foreign(probes: socket.socket) -> None:
    for _ in range(64):
        try:
            data, sender = probes.recvfrom(2048)
            answered = foreign.sockperf_answer(data)
            if answered is not None:
                probes.sendto(answered, sender)
        except OSError:  # nothing left, or the tool is gone
            return


def _set_up(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_BYTES)


def _pace(connection: socket.socket, rate_bytes_per_s: int) -> None:
    """Hold a download to its rate, and let no more of it lie unsent in the kernel than leaves in 5 ms."""
    connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("@L", rate_bytes_per_s))
    notsent_bytes = min(max(rate_bytes_per_s // 200, _LEAST_NOTSENT_BYTES), _NOTSENT_BYTES)
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, notsent_bytes)


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One message from the agent, and the descriptors that came with it. Raises EOFError when the agent is gone."""
    data, ancillary, _, _ = control.recvmsg(1 << 16, socket.CMSG_SPACE(256 * 4))
    if not data:
        raise EOFError
    numbers = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
    return json.loads(data), list(numbers)


def main() -> None:
    """Argument: JSON with control_fd, ram_fd, memory_bytes, copying, addresses, events, who, congestion."""
    settings = json.loads(sys.argv[1])
    libc.die_with_parent()
    descriptors.reserve(SLOTS)  # every slot may hold a connection
    control = socket.socket(fileno=settings["control_fd"])
    copying = Copying(settings["copying"])
    ram = Ram(settings["ram_fd"], memory_bytes=settings["memory_bytes"], populate=copying is not Copying.AFTER)
    guest = Guest(
        ram=ram,
        addresses=settings["addresses"],
        control=control,
        events=EventLog(Path(settings["events"]), who=settings["who"]),
        congestion=settings["congestion"],
    )
    workload.pattern(0, 0, 1)  # builds its table now rather than in the first connection
    tracker = _open(userfaultfd.open_async_write_protect)
    # It stays open here: were the agent's the last one, then a guest whose agent dies would find zeros and go on.
    waiting = None if copying is Copying.BEFORE else _open(userfaultfd.open_missing)
    hello = {"address": ram.address, "listener_fds": guest.listener_fds, "waits": waiting is not None}
    fds = [fd for fd in (tracker, waiting) if fd is not None]
    socket.send_fds(control, [json.dumps(hello).encode()], fds)
    try:
        while True:
            message, handed = _receive(control)
            match message["message"]:
                case "boot":
                    guest.boot(
                        working_set_pages=message["working_set_bytes"] // PAGE_BYTES,
                        dirty_pages_per_s=message["dirty_bytes_per_s"] // PAGE_BYTES,
                        pattern=dirtier.Pattern.named(message["pattern"]),
                        contents=dirtier.Contents(**message["contents"]),
                    )
                    control.send(b'{"message":"booted"}')
                case "adopt":
                    for slot, fd in zip(message["slots"], handed, strict=True):
                        guest.adopt(slot, socket.socket(fileno=fd))
                case "let go":
                    for slot in message["slots"]:
                        guest.let_go(slot)
                case "resume":
                    guest.resume(moved=message["moved"])
                    control.send(json.dumps({"message": "resumed", "time_ns": now_ns()}).encode())
                    guest.run()
                    _receive(control)  # the "pause" that ended the run
                    control.send(json.dumps({"message": "paused", "time_ns": now_ns()}).encode())
    except (EOFError, ConnectionResetError):
        os._exit(0)


def _open(userfault: Callable[[], int]) -> int | None:
    """A userfaultfd; None where the kernel has not got that kind."""
    try:
        return userfault()
    except OSError:
        return None


if __name__ == "__main__":
    main()
