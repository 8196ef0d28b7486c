"""TCP_REPAIR: take a live TCP connection out of one kernel and put it into another (include/uapi/linux/tcp.h).

A socket in repair mode sends nothing, not even when it is closed: neither FIN nor RST. `dump` reads what the peer
cannot tell us again: sequence numbers, both queues, the negotiated options and the window. `restore` builds a socket
that continues there. Needs CAP_NET_ADMIN in the socket's network namespace.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
from dataclasses import dataclass

from unnoticed.agents.kernel import libc
from unnoticed.endpoints import ADDRESS_BYTES, endpoint, family_of, pack_address, unpack_address
from unnoticed.errors import MigrationError
from unnoticed.tcpinfo import TcpInfo, read_tcp_info

_TCP = socket.IPPROTO_TCP
_TCP_MAXSEG, _LARGEST_MAXSEG = 2, 32767  # MAX_TCP_WINDOW
_TCP_QUICKACK = 12
_TCP_CONGESTION = 13
_TCP_REPAIR = 19
_TCP_REPAIR_QUEUE = 20
_TCP_QUEUE_SEQ = 21
_TCP_REPAIR_OPTIONS = 22
_TCP_TIMESTAMP = 24
_TCP_REPAIR_WINDOW = 29

_REPAIR_ON, _REPAIR_OFF, _REPAIR_OFF_NO_WINDOW_PROBE = 1, 0, -1
_RECEIVE_QUEUE, _SEND_QUEUE = 1, 2
_OPTION_MAXSEG, _OPTION_WINDOW, _OPTION_SACK, _OPTION_TIMESTAMP = 2, 3, 4, 8  # RFC 9293, 7323, 2018
_INFO_TIMESTAMPS, _INFO_SACK, _INFO_WINDOW_SCALE = 1, 2, 4  # TCPI_OPT_*

_SIOCINQ, _SIOCOUTQ, _SIOCOUTQNSD = 0x541B, 0x5411, 0x894B  # include/uapi/linux/sockios.h
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_BUF_LOCK = 32, 33, 72  # include/uapi/asm-generic/socket.h
_FREEBIND: dict[int, tuple[int, int]] = {  # include/uapi/linux/in.h, in6.h
    socket.AF_INET: (socket.IPPROTO_IP, 15),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),
}

_ESTABLISHED, _CLOSE, _CLOSE_WAIT = 1, 7, 8  # include/net/tcp_states.h
_MASK = (1 << 32) - 1
_LIMIT_QUEUE_BYTES = 64 << 20
_DUMP_ATTEMPTS = 50
_WINDOW = struct.Struct("=5I")  # struct tcp_repair_window: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
SendWindow = tuple[int, int, int, int, int]
_ENDS = f"{ADDRESS_BYTES}sH{ADDRESS_BYTES}sH"
ENDS_BYTES = struct.calcsize(f"<{_ENDS}")
_FIXED = struct.Struct(f"<{_ENDS}IIHBBBB5IIIIII16s")
_POSITION = struct.Struct(f"<{_ENDS}II?")


class ConnectionLostError(MigrationError):
    """The connection ended before it could be dumped: its peer reset it, or it timed out. There is nothing to move."""


@dataclass(frozen=True, kw_only=True)
class TcpState:
    """Everything a connection needs to go on in another kernel. Sequence numbers are those of RFC 9293.

    `local` and `remote` are addresses of one family, IPv4 or IPv6, and ports.
    `write_sequence` follows the last byte of the send queue (sent and unsent), `receive_sequence` the last byte of
    the receive queue. `timestamp` is the connection's TCP timestamp clock at the dump (RFC 7323), 0 without timestamps.
    """

    slot: int
    local: tuple[str, int]
    remote: tuple[str, int]
    write_sequence: int
    receive_sequence: int
    mss: int
    options: int
    send_scale: int
    receive_scale: int
    peer_closed: bool
    window: SendWindow
    timestamp: int
    send_buffer_bytes: int
    receive_buffer_bytes: int
    unsent_bytes: int
    congestion: bytes
    send_queue: bytes
    receive_queue: bytes

    def pack(self) -> bytes:
        """The state as bytes: fixed part, then the two queues."""
        return (
            _FIXED.pack(
                pack_address(self.local[0]),
                self.local[1],
                pack_address(self.remote[0]),
                self.remote[1],
                self.write_sequence,
                self.receive_sequence,
                self.mss,
                self.options,
                self.send_scale,
                self.receive_scale,
                self.peer_closed,
                *self.window,
                self.timestamp,
                self.send_buffer_bytes,
                self.receive_buffer_bytes,
                self.unsent_bytes,
                self.slot,
                self.congestion,
            )
            + struct.pack("<II", len(self.send_queue), len(self.receive_queue))
            + self.send_queue
            + self.receive_queue
        )

    @classmethod
    def unpack(cls, data: memoryview) -> tuple[TcpState, int]:
        """The state at the start of `data`, and how many bytes it took.

        Raises ValueError if the bytes are cut short or cannot be a state: they come from the network.
        """
        if len(data) < _FIXED.size + 8:
            raise ValueError("a connection's state is cut short")
        fields = _FIXED.unpack_from(data)
        send_length, receive_length = struct.unpack_from("<II", data, _FIXED.size)
        if max(send_length, receive_length) > _LIMIT_QUEUE_BYTES:
            raise ValueError(f"a connection's queue of {max(send_length, receive_length)} bytes is beyond the limit")
        start = _FIXED.size + 8
        end = start + send_length + receive_length
        if len(data) < end:
            raise ValueError("a connection's queues are cut short")
        if fields[19] > send_length:
            raise ValueError("a connection has more unsent bytes than its send queue holds")
        local, remote = unpack_address(fields[0]), unpack_address(fields[2])
        if family_of(local) != family_of(remote):
            raise ValueError(f"a connection cannot be between {local} and {remote}")
        return (
            cls(
                local=(local, fields[1]),
                remote=(remote, fields[3]),
                write_sequence=fields[4],
                receive_sequence=fields[5],
                mss=fields[6],
                options=fields[7],
                send_scale=fields[8],
                receive_scale=fields[9],
                peer_closed=bool(fields[10]),
                window=(fields[11], fields[12], fields[13], fields[14], fields[15]),
                timestamp=fields[16],
                send_buffer_bytes=fields[17],
                receive_buffer_bytes=fields[18],
                unsent_bytes=fields[19],
                slot=fields[20],
                congestion=fields[21].rstrip(b"\0"),
                send_queue=bytes(data[start : start + send_length]),
                receive_queue=bytes(data[start + send_length : end]),
            ),
            end,
        )


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a connection had come when it was held: what sequence number is due, and the timestamp, if it has any.

    `local` and `remote` are addresses and ports.
    """

    local: tuple[str, int]
    remote: tuple[str, int]
    receive_sequence: int
    timestamp: int | None

    def pack(self) -> bytes:
        """As bytes, of a fixed length."""
        return _POSITION.pack(
            pack_address(self.local[0]),
            self.local[1],
            pack_address(self.remote[0]),
            self.remote[1],
            self.receive_sequence,
            self.timestamp or 0,
            self.timestamp is not None,
        )

    @classmethod
    def unpack_all(cls, data: bytes) -> list[Position]:
        """Those that were packed one behind another. Raises ValueError if the bytes are cut short."""
        if len(data) % _POSITION.size:
            raise ValueError("a connection's position is cut short")
        return [
            cls(
                local=(unpack_address(local), local_port),
                remote=(unpack_address(remote), remote_port),
                receive_sequence=sequence,
                timestamp=timestamp if has_timestamps else None,
            )
            for local, local_port, remote, remote_port, sequence, timestamp, has_timestamps in _POSITION.iter_unpack(
                data
            )
        ]


def in_flight_bytes(connection: socket.socket) -> int:
    """Bytes that were sent and not acknowledged."""
    return _queued(connection, _SIOCOUTQ) - _queued(connection, _SIOCOUTQNSD)


def unacknowledged_bytes(connection: socket.socket) -> int:
    """Bytes that were given to the kernel and not acknowledged, sent or not."""
    return _queued(connection, _SIOCOUTQ)


def queued_bytes(connection: socket.socket) -> int:
    """Bytes in both queues: unacknowledged or unsent, and not read yet. What a dump of the connection holds."""
    return _queued(connection, _SIOCOUTQ) + _queued(connection, _SIOCINQ)


def acknowledge(connection: socket.socket) -> None:
    """Send the acknowledgement that is being delayed, if one is."""
    connection.setsockopt(_TCP, _TCP_QUICKACK, 1)


def enter(connection: socket.socket) -> None:
    """Put a connection into repair mode: closed in it, it goes without FIN and RST."""
    connection.setsockopt(_TCP, _TCP_REPAIR, _REPAIR_ON)


def leave(connection: socket.socket) -> None:
    """Leave repair mode silently, without a window probe: a resumed machine says nothing of its own accord."""
    _leave(connection, _REPAIR_OFF_NO_WINDOW_PROBE)


def hold(connection: socket.socket) -> SendWindow:
    """Enter repair mode, and let nothing new be sent; returns the window as it was.

    Repair mode alone does not stop the pacing timer: it goes on sending what is queued (tcp_write_xmit in
    net/ipv4/tcp_output.c). A send window of zero does.
    """
    enter(connection)
    window = _window(connection)
    connection.setsockopt(_TCP, _TCP_REPAIR_WINDOW, _WINDOW.pack(*_with_send_window(window, 0)))
    return window


def position(connection: socket.socket, *, ends: tuple[tuple[str, int], tuple[str, int]]) -> Position:
    """Of a connection that is held; `ends`: local and remote. Raises OSError."""
    connection.setsockopt(_TCP, _TCP_REPAIR_QUEUE, _RECEIVE_QUEUE)
    sequence = connection.getsockopt(_TCP, _TCP_QUEUE_SEQ) & _MASK
    has_timestamps = connection.getsockopt(_TCP, socket.TCP_INFO, 6)[5] & _INFO_TIMESTAMPS
    timestamp = connection.getsockopt(_TCP, _TCP_TIMESTAMP) & _MASK if has_timestamps else None
    return Position(local=ends[0], remote=ends[1], receive_sequence=sequence, timestamp=timestamp)


def release(connection: socket.socket, window: SendWindow | None) -> None:
    """Undo `hold`, with a window probe: its answer tells what the connection missed."""
    if window is not None:
        connection.setsockopt(_TCP, _TCP_REPAIR_WINDOW, _WINDOW.pack(*_reopened(_window(connection), window)))
    _leave(connection, _REPAIR_OFF)


def _leave(connection: socket.socket, how: int) -> None:
    connection.setsockopt(_TCP, _TCP_REPAIR, how)
    # Repair mode took this away. A connection that outlives its process (in FIN-WAIT-2, say) would keep the next guest
    # on this host from listening to its port.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _window(connection: socket.socket) -> SendWindow:
    window: SendWindow = _WINDOW.unpack(connection.getsockopt(_TCP, _TCP_REPAIR_WINDOW, _WINDOW.size))
    return window


def _with_send_window(window: SendWindow, send_window: int) -> SendWindow:
    return (window[0], send_window, *window[2:])


def _reopened(now: SendWindow, before: SendWindow) -> SendWindow:
    """The window as it would be had it not been closed: a peer's word since then goes before the old one."""
    return _with_send_window(now, now[1] or before[1])


def dump(connection: socket.socket, *, slot: int, window: SendWindow | None = None) -> tuple[TcpState, TcpInfo]:
    """Read a connection that is in repair mode, and the kernel's counters for it.

    `window` is what `hold` gave, if it is held. Nothing of the peer may reach it any more.
    Raises ConnectionLostError for one that has ended, and MigrationError for one in a state that cannot be moved
    (anything else but established or half-closed by the peer), or with urgent data.
    """
    for _ in range(_DUMP_ATTEMPTS):
        info = read_tcp_info(connection)
        if info.state == _CLOSE:
            raise ConnectionLostError("The connection has ended.")
        if info.state not in {_ESTABLISHED, _CLOSE_WAIT}:
            raise MigrationError(
                f"The connection in slot {slot} is in TCP state {info.state} and cannot move; "
                "only established and half-closed ones can."
            )
        if _has_urgent_data(connection):
            raise MigrationError(
                f"The connection in slot {slot} has urgent data (RFC 9293, section 3.8.5) that the guest has not read; "
                "TCP_REPAIR can move it only when it has."
            )
        try:
            state = _read(connection, info, slot=slot, held=window)
        except OSError:  # was it reset while it was read?
            if read_tcp_info(connection).state == _CLOSE:
                continue
            raise
        if state is not None:
            return state, info
    raise MigrationError(f"The connection in slot {slot} keeps changing while it is read: is the gate not closed?")


def _read(connection: socket.socket, info: TcpInfo, *, slot: int, held: SendWindow | None) -> TcpState | None:
    """Its state; None if a segment that was under way changed it meanwhile.

    A closed gate keeps new segments out, but one that had passed it may still wait for another processor. It is no
    loss if it comes later: it is acknowledged to nobody, so the peer will repeat it.
    """
    # Before its queue is selected: from then on what a timer would send counts as sent, though it is not.
    unsent = _queued(connection, _SIOCOUTQNSD)
    queued = _queued(connection, _SIOCOUTQ)
    window = _window(connection)
    connection.setsockopt(_TCP, _TCP_REPAIR_QUEUE, _SEND_QUEUE)
    write_sequence = connection.getsockopt(_TCP, _TCP_QUEUE_SEQ) & _MASK
    send_queue = _peek(connection, queued)
    connection.setsockopt(_TCP, _TCP_REPAIR_QUEUE, _RECEIVE_QUEUE)
    receive_sequence = connection.getsockopt(_TCP, _TCP_QUEUE_SEQ) & _MASK
    peer_closed = connection.getsockopt(_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT  # the sequence counts its FIN
    waiting = _queued(connection, _SIOCINQ)
    receive_queue = _peek(connection, waiting)
    timestamps = info.options & _INFO_TIMESTAMPS
    state = TcpState(
        slot=slot,
        local=connection.getsockname()[:2],
        remote=connection.getpeername()[:2],
        write_sequence=write_sequence,
        receive_sequence=receive_sequence,
        mss=connection.getsockopt(_TCP, _TCP_MAXSEG),
        options=info.options,
        send_scale=info.snd_wscale,
        receive_scale=info.rcv_wscale,
        peer_closed=peer_closed,
        window=window if held is None else _reopened(window, held),
        timestamp=connection.getsockopt(_TCP, _TCP_TIMESTAMP) & _MASK if timestamps else 0,
        send_buffer_bytes=connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        receive_buffer_bytes=connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        unsent_bytes=unsent,
        congestion=connection.getsockopt(_TCP, _TCP_CONGESTION, 16).rstrip(b"\0"),
        send_queue=send_queue,
        receive_queue=receive_queue,
    )
    after = connection.getsockopt(_TCP, _TCP_QUEUE_SEQ) & _MASK
    whole = len(send_queue) == queued and len(receive_queue) == waiting and after == receive_sequence
    return state if whole else None


def describe(connection: socket.socket, *, slot: int) -> TcpState:
    """What does not change about a connection: all that `prepare` needs. The rest is 0. Raises OSError."""
    return TcpState(
        slot=slot,
        local=connection.getsockname()[:2],
        remote=connection.getpeername()[:2],
        write_sequence=0,
        receive_sequence=0,
        mss=0,
        options=0,
        send_scale=0,
        receive_scale=0,
        peer_closed=False,
        window=(0, 0, 0, 0, 0),
        timestamp=0,
        send_buffer_bytes=0,
        receive_buffer_bytes=0,
        unsent_bytes=0,
        congestion=connection.getsockopt(_TCP, _TCP_CONGESTION, 16).rstrip(b"\0"),
        send_queue=b"",
        receive_queue=b"",
    )


def sockaddr(address: tuple[str, int]) -> bytes:
    """An address as struct sockaddr_in or sockaddr_in6 (include/uapi/linux/in.h, in6.h)."""
    family = family_of(address[0])
    head = struct.pack("=H", family) + struct.pack(">H", address[1])
    if family == socket.AF_INET6:
        return head + bytes(4) + socket.inet_pton(family, address[0]) + bytes(4)
    return head + socket.inet_aton(address[0]) + bytes(8)


def restore(state: TcpState) -> socket.socket:
    """A socket in repair mode that continues the connection, in the network namespace of the calling thread.

    Raises OSError if the kernel refuses.
    """
    connection = prepare(state)
    try:
        complete(connection, state)
    except BaseException:
        connection.close()  # in repair mode: silent
        raise
    return connection


def prepare(state: TcpState) -> socket.socket:
    """A socket in repair mode, as far as it can be made while the connection still lives elsewhere; see `describe`.

    In the network namespace of the calling thread. Raises OSError if the kernel refuses.
    """
    family = family_of(state.local[0])
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        enter(connection)
        connection.setsockopt(*_FREEBIND[family], 1)
        connection.bind(state.local)
        connection.setsockopt(_TCP, _TCP_CONGESTION, state.congestion)
    except BaseException:
        connection.close()  # in repair mode: silent
        raise
    return connection


def complete(connection: socket.socket, state: TcpState) -> None:
    """Have a prepared socket continue the connection; it stays in repair mode.

    Its sent but unacknowledged bytes are queued as sent. The unsent ones are not: `send_unsent` queues them after
    `leave`. Raises OSError if the kernel refuses; the socket is of no use then.
    """
    sent = state.send_queue[: len(state.send_queue) - state.unsent_bytes]
    connection.setsockopt(_TCP, _TCP_REPAIR_QUEUE, _SEND_QUEUE)
    _set_unsigned(connection, _TCP_QUEUE_SEQ, state.write_sequence - len(state.send_queue))
    connection.setsockopt(_TCP, _TCP_REPAIR_QUEUE, _RECEIVE_QUEUE)
    _set_unsigned(connection, _TCP_QUEUE_SEQ, state.receive_sequence - len(state.receive_queue))
    # The segment size is computed at the connect, and not again when the options say what was negotiated: without this
    # it would be the default of 536 for good.
    connection.setsockopt(_TCP, _TCP_MAXSEG, min(state.mss, _LARGEST_MAXSEG))
    connection.connect(state.remote)
    options = struct.pack("=II", _OPTION_MAXSEG, state.mss)
    if state.options & _INFO_WINDOW_SCALE:
        options += struct.pack("=II", _OPTION_WINDOW, state.send_scale | state.receive_scale << 16)
    if state.options & _INFO_SACK:
        options += struct.pack("=II", _OPTION_SACK, 0)
    if state.options & _INFO_TIMESTAMPS:
        options += struct.pack("=II", _OPTION_TIMESTAMP, 0)
    connection.setsockopt(_TCP, _TCP_REPAIR_OPTIONS, options)
    if state.options & _INFO_TIMESTAMPS:
        _set_unsigned(connection, _TCP_TIMESTAMP, state.timestamp)
    _fill(connection, state.receive_queue, queue=_RECEIVE_QUEUE, buffer_bytes=state.receive_buffer_bytes)
    _fill(connection, sent, queue=_SEND_QUEUE, buffer_bytes=state.send_buffer_bytes)
    connection.setsockopt(_TCP, _TCP_REPAIR_WINDOW, _WINDOW.pack(*state.window))


def send_unsent(connection: socket.socket, state: TcpState) -> None:
    """Queue what the source's kernel had accepted from the guest but never sent. Call after `leave`.

    Raises OSError if the connection is broken, MigrationError if its buffer cannot be made to take all.
    """
    if not state.unsent_bytes:
        return
    unsent = memoryview(state.send_queue)[len(state.send_queue) - state.unsent_bytes :]
    unsent = unsent[_send_now(connection, unsent) :]
    if unsent:  # what was sent before takes more of the buffer here than it took there
        half_bytes = state.send_buffer_bytes // 2
        connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, half_bytes + 2 * len(state.send_queue))
        unsent = unsent[_send_now(connection, unsent) :]
        connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, half_bytes)
        connection.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)
    if unsent:
        raise MigrationError(
            f"The restored connection with {endpoint(*state.remote)} did not take "
            f"{len(unsent)} of {state.unsent_bytes} unsent bytes."
        )


def abort(connection: socket.socket) -> None:
    """End a connection, whoever else holds its socket (RFC 9293, ABORT): connecting it to nothing does that.

    The peer is sent a reset, or in repair mode nothing at all (tcp_disconnect in net/ipv4/tcp.c).
    """
    with contextlib.suppress(OSError):
        libc.disconnect(connection.fileno())


def _fill(connection: socket.socket, data: bytes, *, queue: int, buffer_bytes: int) -> None:
    """Push a queue back in repair mode, then give the buffer the size that it had, and its autotuning back."""
    force = _SO_RCVBUFFORCE if queue == _RECEIVE_QUEUE else _SO_SNDBUFFORCE
    # The kernel doubles what it is told, and charges a queue with about twice its payload (struct sk_buff).
    connection.setsockopt(socket.SOL_SOCKET, force, max(buffer_bytes // 2, len(data) * 2))
    connection.setsockopt(_TCP, _TCP_REPAIR_QUEUE, queue)
    view = memoryview(data)
    while view:
        view = view[connection.send(view[: 1 << 16], socket.MSG_DONTWAIT) :]  # nobody would make room
    if len(data) * 2 > buffer_bytes // 2:
        connection.setsockopt(socket.SOL_SOCKET, force, buffer_bytes // 2)
    connection.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)


def _set_unsigned(connection: socket.socket, option: int, value: int) -> None:
    connection.setsockopt(_TCP, option, struct.pack("=I", value & _MASK))


def _queued(connection: socket.socket, request: int) -> int:
    value = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), request, value)
    return value[0]


def _peek(connection: socket.socket, length: int) -> bytes:
    """At most the first `length` bytes of the chosen queue."""
    if length == 0:
        return b""
    try:
        return connection.recv(length, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def _has_urgent_data(connection: socket.socket) -> bool:
    """Whether there is some, or the peer has said that some is on its way (net/ipv4/tcp.c, tcp_recv_urg).

    What lies behind its mark cannot be read while that is ahead. Whoever takes it out of band, as no guest of ours
    does, hides the mark from this look until the stream has been read up to it.
    """
    try:
        connection.recv(1, socket.MSG_OOB | socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:  # none; or the connection has ended, which others find
        return False
    return True


def _send_now(connection: socket.socket, data: memoryview) -> int:
    try:
        return connection.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0
