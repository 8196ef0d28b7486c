"""Many connections at once: `tcp_repair` one after another, or its compiled loops where they have been made ready.

To load those takes a second, and to compile them, on the first time on a machine, half a minute: `make_ready` is for an
agent that expects many connections, and for a time when nobody waits. What goes wrong with one connection goes to
`tcp_repair`, which says what it is.

On the wire (STATE, CONNECTIONS) a batch is the fixed parts of all states, then the queues of all, in the same order.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.kernel.tcp_repair import ENDS_BYTES, SendWindow, TcpState
from unnoticed.clock import now_ns
from unnoticed.errors import MigrationError
from unnoticed.tcpinfo import TCP_INFO_BYTES, TcpInfo, parse_tcp_info, read_tcp_info

MANY = 64  # from so many connections on the loops are worth their loading
_DATA_BYTES = 1 << 20  # of the queues of one batch; a connection that finds no room is read by itself

# As TcpState.pack has it, with the lengths of the queues.
ROW = np.dtype(
    [
        ("ends", "u1", (ENDS_BYTES,)),
        ("write_sequence", "<u4"),
        ("receive_sequence", "<u4"),
        ("mss", "<u2"),
        ("options", "u1"),
        ("send_scale", "u1"),
        ("receive_scale", "u1"),
        ("peer_closed", "u1"),
        ("window", "<u4", (5,)),
        ("timestamp", "<u4"),
        ("send_buffer_bytes", "<u4"),
        ("receive_buffer_bytes", "<u4"),
        ("unsent_bytes", "<u4"),
        ("slot", "<u4"),
        ("congestion", "u1", (16,)),
        ("send_bytes", "<u4"),
        ("receive_bytes", "<u4"),
    ]
)
Rows = npt.NDArray[Any]
_NUMBERS = (
    *(
        "write_sequence",
        "receive_sequence",
        "mss",
        "options",
        "send_scale",
        "receive_scale",
        "peer_closed",
        "timestamp",
    ),
    *("send_buffer_bytes", "receive_buffer_bytes", "unsent_bytes", "send_bytes", "receive_bytes"),
)

_loops: ModuleType | None = None


def make_ready() -> None:
    """Load the compiled loops, and have each run once."""
    global _loops
    from unnoticed.agents.kernel import tcp_repair_loops as loops

    none, table, data = np.zeros(0, np.int64), np.zeros((0, loops.COLUMNS), np.int64), np.zeros(1, np.uint8)
    windows, infos = np.zeros((0, loops.WINDOW_COLUMNS), np.int64), np.zeros((0, TCP_INFO_BYTES), np.uint8)
    addresses, done = np.zeros((0, loops.ADDRESS_BYTES), np.uint8), np.zeros(0, np.uint8)
    loops.survey(none, infos, none, none)
    loops.hold(none, windows)
    loops.most_in_flight(none)
    loops.dump(none, windows, table, infos, none, data, done)
    loops.complete(none, addresses, none, table, data, none, done)
    loops.leave(none, done)
    _loops = loops


def is_ready() -> bool:
    """Whether the loops are loaded."""
    return _loops is not None


@dataclass
class Departing:
    """A connection that may move: the socket is a duplicate of the guest's.

    `description` is all that is known beforehand, None of one that had ended; `window` what `hold` gave.
    """

    slot: int
    socket: socket.socket
    description: TcpState | None
    window: SendWindow | None = None

    def __post_init__(self) -> None:
        described = self.description
        self.row = b"" if described is None else described.pack()
        self.ends = (("", 0), ("", 0)) if described is None else (described.local, described.remote)


class Dumped(NamedTuple):
    """What the kernel counted for a connection up to its dump, as bytes of struct tcp_info."""

    time_ns: int
    slot: int
    local: tuple[str, int]
    remote: tuple[str, int]
    info: TcpInfo | bytes

    @property
    def counters(self) -> TcpInfo:
        return self.info if isinstance(self.info, TcpInfo) else parse_tcp_info(self.info)


@dataclass
class Batch:
    """Connections that were dumped: the bytes for the wire, counters, and the slots of those that had ended."""

    connections: int
    blob: bytes
    dumped: list[Dumped]
    lost: list[int]


def survey(connections: Sequence[socket.socket]) -> tuple[list[int], int]:
    """Of running connections: the retransmission timeouts of those that tell, in ns, and the bytes in all queues."""
    if _loops is None:
        timeouts: list[int] = []
        queued_bytes = 0
        for each in connections:
            try:
                timeouts.append(read_tcp_info(each).rto_us * 1000)
                queued_bytes += tcp_repair.queued_bytes(each)
            except OSError:
                continue
        return timeouts, queued_bytes
    fds = _descriptors(connections)
    infos, lengths, queued = np.zeros((len(fds), TCP_INFO_BYTES), np.uint8), np.zeros_like(fds), np.zeros_like(fds)
    _loops.survey(fds, infos, lengths, queued)
    rto_us = infos[lengths > 0, 8:12].copy().view("<u4")[:, 0]
    return (rto_us.astype(np.int64) * 1000).tolist(), int(queued.sum())


def hold(connections: Sequence[Departing]) -> None:
    """Let none of them start anything new; one that has ended is found by the dump."""
    if _loops is None:
        for each in connections:
            try:
                each.window = tcp_repair.hold(each.socket)
            except OSError:
                continue
        return
    fds = _descriptors([each.socket for each in connections])
    windows = np.zeros((len(fds), _loops.WINDOW_COLUMNS), np.int64)
    _loops.hold(fds, windows)
    for each, window in zip(connections, windows.tolist(), strict=True):
        if window[0] != _loops.NOT_HELD:
            each.window = tuple(window)


def most_in_flight_bytes(connections: Sequence[Departing]) -> int:
    """The most bytes that one of them has sent and not seen acknowledged. Raises OSError."""
    if _loops is None:
        return max((tcp_repair.in_flight_bytes(each.socket) for each in connections), default=0)
    most: int = _loops.most_in_flight(_descriptors([each.socket for each in connections]))
    return most


def dump(connections: Sequence[Departing]) -> Batch:
    """The states of connections in repair mode. Raises MigrationError, OSError."""
    rows, queues = bytearray(), bytearray()
    batch = Batch(0, b"", [], [])
    read = {} if _loops is None else _dump_compiled(_loops, connections)
    read_ns = now_ns()
    for number, each in enumerate(connections):
        if number in read:
            row, data, info = read[number]
            rows += row
            queues += data
            batch.dumped.append(Dumped(read_ns, each.slot, *each.ends, info))
            continue
        try:
            state, counters = tcp_repair.dump(each.socket, slot=each.slot, window=each.window)
        except tcp_repair.ConnectionLostError:
            batch.lost.append(each.slot)
            continue
        packed = state.pack()
        rows += packed[: ROW.itemsize]
        queues += packed[ROW.itemsize :]
        batch.dumped.append(Dumped(now_ns(), each.slot, state.local, state.remote, counters))
    batch.connections, batch.blob = len(batch.dumped), bytes(rows + queues)
    return batch


def _dump_compiled(loops: ModuleType, connections: Sequence[Departing]) -> dict[int, tuple[bytes, bytes, bytes]]:
    """Row, queues and counters of those that could be read, by their number."""
    numbers = [number for number, each in enumerate(connections) if each.description is not None]
    connections = [connections[number] for number in numbers]
    count = len(connections)
    fds = _descriptors([each.socket for each in connections])
    windows = np.array([each.window or (loops.NOT_HELD, 0, 0, 0, 0) for each in connections], np.int64)
    windows = windows.reshape(count, loops.WINDOW_COLUMNS)
    table, infos = np.zeros((count, loops.COLUMNS), np.int64), np.zeros((count, TCP_INFO_BYTES), np.uint8)
    lengths, data, done = np.zeros(count, np.int64), np.empty(_DATA_BYTES, np.uint8), np.zeros(count, np.uint8)
    used = loops.dump(fds, windows, table, infos, lengths, data, done)
    rows = np.frombuffer(b"".join(each.row for each in connections), ROW).copy()
    for name, column in _columns(loops):
        rows[name] = table[:, column]
    rows["window"] = table[:, loops.WINDOW :]
    packed, counters, queues = rows.tobytes(), infos.tobytes(), data[:used].tobytes()
    ends = np.cumsum(np.where(done, table[:, loops.SEND_BYTES] + table[:, loops.RECEIVE_BYTES], 0)).tolist()
    found: dict[int, tuple[bytes, bytes, bytes]] = {}
    for at in np.flatnonzero(done).tolist():
        row = packed[at * ROW.itemsize : (at + 1) * ROW.itemsize]
        info = counters[at * TCP_INFO_BYTES : at * TCP_INFO_BYTES + int(lengths[at])]
        found[numbers[at]] = (row, queues[ends[at - 1] if at else 0 : ends[at]], info)
    return found


def _columns(loops: ModuleType) -> list[tuple[str, int]]:
    """The fields of a row that are columns of the loops' table."""
    return [(name, getattr(loops, name.upper())) for name in _NUMBERS]


@dataclass(frozen=True)
class Arrived:
    """A batch that came from the network: rows, and where in `data` the queues of each begin."""

    rows: Rows
    data: bytes
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def state(self, number: int) -> TcpState:
        """One of them. Raises ValueError if it cannot be one."""
        row = self.rows[number]
        start = int(self.starts[number])
        end = start + int(row["send_bytes"]) + int(row["receive_bytes"])
        return TcpState.unpack(memoryview(row.tobytes() + self.data[start:end]))[0]


def parse(blob: bytes, *, connections: int) -> Arrived:
    """Take a batch apart. Raises ValueError if the bytes are not one of so many connections."""
    if len(blob) < connections * ROW.itemsize:
        raise ValueError("a connection's state is cut short")
    rows = np.frombuffer(blob, ROW, count=connections)
    data = blob[connections * ROW.itemsize :]
    lengths = rows["send_bytes"].astype(np.int64) + rows["receive_bytes"]
    if int(lengths.sum()) != len(data):
        raise ValueError("the connections' queues are cut short, or more than their lengths say")
    if bool((rows["unsent_bytes"] > rows["send_bytes"]).any()):
        raise ValueError("a connection has more unsent bytes than its send queue holds")
    return Arrived(rows, data, np.cumsum(lengths) - lengths)


def complete(
    prepared: Sequence[socket.socket], peers: Sequence[bytes], arrived: Arrived, numbers: Sequence[int]
) -> list[bool]:
    """Have prepared sockets continue the connections `numbers` of a batch; `peers`: whose, as sockaddr.

    Says which of them do; the others are of no use any more. Raises ValueError for a state that cannot be one.
    """
    if _loops is None:
        return [_completes(*pair) for pair in zip(prepared, map(arrived.state, numbers), strict=True)]
    at, count = np.array(numbers, np.int64), len(numbers)
    rows = arrived.rows[at]
    table, done = np.zeros((count, _loops.COLUMNS), np.int64), np.zeros(count, np.uint8)
    for name, column in _columns(_loops):
        table[:, column] = rows[name]
    table[:, _loops.WINDOW :] = rows["window"]
    lengths = np.array([len(peer) for peer in peers], np.int64)
    padded = b"".join(peer.ljust(_loops.ADDRESS_BYTES, b"\0") for peer in peers)
    places = np.frombuffer(padded, np.uint8).reshape(count, _loops.ADDRESS_BYTES).copy()
    data = np.frombuffer(arrived.data + b"\0", np.uint8).copy()  # the loops are compiled for arrays that can be written
    _loops.complete(_descriptors(prepared), places, lengths, table, data, arrived.starts[at], done)
    worked: list[bool] = done.astype(np.bool_).tolist()
    return worked


def _completes(connection: socket.socket, state: TcpState) -> bool:
    try:
        tcp_repair.complete(connection, state)
    except OSError:
        return False
    return True


def leave(connections: Sequence[socket.socket]) -> list[int]:
    """Leave repair mode; the numbers of those that could not."""
    if _loops is None:
        failed: list[int] = []
        for number, each in enumerate(connections):
            try:
                tcp_repair.leave(each)
            except (MigrationError, OSError):
                failed.append(number)
        return failed
    fds = _descriptors(connections)
    done = np.zeros(len(fds), np.uint8)
    _loops.leave(fds, done)
    numbers: list[int] = np.flatnonzero(done == 0).tolist()
    return numbers


def _descriptors(connections: Sequence[socket.socket]) -> npt.NDArray[np.int64]:
    return np.array([each.fileno() for each in connections], np.int64)
