"""What `tcp_repair` does with one connection, done with many in one call: compiled loops over the same system calls.

The interpreter takes several microseconds for each system call, and its lock keeps everything else waiting; a cutover
makes some twenty calls for each connection. `tcp_repair` is the reference: it says why each call is made, and tests
hold the two together. A connection with which anything is out of the ordinary (a call fails, it has ended, it changes
while it is read, its queue has no room) is left with `done` 0, for `tcp_repair` to find out what it is.

Arrays, one row per connection: `fds`; `table`, columns WRITE_SEQUENCE ... of a `TcpState`; `windows`, five columns, the
first of them NOT_HELD where there is none; `done`. Numbers are unsigned 32-bit ones in 64 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from unnoticed.compiled import compiled

I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]

# Columns of `table`; the window has five.
WRITE_SEQUENCE, RECEIVE_SEQUENCE, MSS, OPTIONS, SEND_SCALE, RECEIVE_SCALE, PEER_CLOSED, TIMESTAMP = range(8)
SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES, UNSENT_BYTES, SEND_BYTES, RECEIVE_BYTES, WINDOW = range(8, 14)
COLUMNS, WINDOW_COLUMNS = WINDOW + 5, 5
NOT_HELD = -1
INFO_BYTES = 248  # of TCP_INFO, as `unnoticed.tcpinfo` reads it
ADDRESS_BYTES = 28  # struct sockaddr_in6; a sockaddr_in takes 16 of them

_SOCKET, _TCP = 1, 6
_MAXSEG, _INFO, _REPAIR, _REPAIR_QUEUE, _QUEUE_SEQ, _REPAIR_OPTIONS = 2, 11, 19, 20, 21, 22
_TIMESTAMP, _REPAIR_WINDOW = 24, 29
_REUSEADDR, _SNDBUF, _RCVBUF, _SNDBUFFORCE, _RCVBUFFORCE, _BUF_LOCK = 2, 7, 8, 32, 33, 72
_RECEIVE_QUEUE, _SEND_QUEUE = 1, 2
_OPTION_MAXSEG, _OPTION_WINDOW, _OPTION_SACK, _OPTION_TIMESTAMP = 2, 3, 4, 8
_HAS_TIMESTAMPS, _HAS_SACK, _HAS_SCALES = 1, 2, 4
_SIOCINQ, _SIOCOUTQ, _SIOCOUTQNSD = 0x541B, 0x5411, 0x894B
_MSG_OOB, _MSG_PEEK, _MSG_DONTWAIT = 0x01, 0x02, 0x40
_EAGAIN = 11
_ESTABLISHED, _CLOSE_WAIT = 1, 8
_LARGEST_MAXSEG = 32767
_LEAVE_SILENTLY = 0xFFFFFFFF  # -1
_PIECE_BYTES = 1 << 16
_MASK = 0xFFFFFFFF

# Functions of libc that compiled code calls by their names; pointers are numbers here.
_getsockopt: Any = types.ExternalFunction(
    "getsockopt", types.int32(types.int32, types.int32, types.int32, types.uintp, types.uintp)
)
_setsockopt: Any = types.ExternalFunction(
    "setsockopt", types.int32(types.int32, types.int32, types.int32, types.uintp, types.uint32)
)
_ioctl: Any = types.ExternalFunction("ioctl", types.int32(types.int32, types.uintp, types.uintp))
_connect: Any = types.ExternalFunction("connect", types.int32(types.int32, types.uintp, types.uint32))
_recv: Any = types.ExternalFunction("recv", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_send: Any = types.ExternalFunction("send", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_errno_location: Any = types.ExternalFunction("__errno_location", types.uintp())
_memcpy: Any = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))


@compiled
def _get(fd: int, level: int, name: int, buffer: U32, words: int) -> Any:
    """Read an option into buffer[:words]; whether that worked."""
    buffer[-1] = words * 4
    start = buffer.ctypes.data
    length = start + (len(buffer) - 1) * 4
    return _getsockopt(np.int32(fd), np.int32(level), np.int32(name), np.uint64(start), np.uint64(length)) == 0


@compiled
def _put(fd: int, level: int, name: int, buffer: U32, words: int) -> Any:
    """Set an option to buffer[:words]; whether that worked."""
    start = np.uint64(buffer.ctypes.data)
    return _setsockopt(np.int32(fd), np.int32(level), np.int32(name), start, np.uint32(words * 4)) == 0


@compiled
def _number(fd: int, level: int, name: int, buffer: U32) -> Any:
    """An option that is a number; -1 if it cannot be had."""
    return np.int64(buffer[0]) if _get(fd, level, name, buffer, 1) else -1


@compiled
def _assign(fd: int, level: int, name: int, buffer: U32, value: int) -> Any:
    buffer[0] = value & _MASK
    return _put(fd, level, name, buffer, 1)


@compiled
def _queued(fd: int, request: int, buffer: U32) -> Any:
    """How many bytes wait in a queue; -1 if it cannot be told."""
    failed = _ioctl(np.int32(fd), np.uint64(request), np.uint64(buffer.ctypes.data)) != 0
    return -1 if failed else np.int64(buffer[0])


@compiled
def survey(fds: I64, infos: U8, lengths: I64, queued: I64) -> None:
    """Of running connections: TCP_INFO and its length (0: it ended), and the bytes in both queues."""
    buffer = np.zeros(64, np.uint32)
    for row in range(len(fds)):
        fd = fds[row]
        lengths[row] = _info(fd, infos, row, buffer)
        queued[row] = max(0, _queued(fd, _SIOCOUTQ, buffer)) + max(0, _queued(fd, _SIOCINQ, buffer))


@compiled
def _info(fd: int, infos: U8, row: int, buffer: U32) -> Any:
    buffer[0] = infos.shape[1]
    start = np.uint64(infos.ctypes.data + row * infos.shape[1])
    failed = _getsockopt(np.int32(fd), np.int32(_TCP), np.int32(_INFO), start, np.uint64(buffer.ctypes.data)) != 0
    return 0 if failed else np.int64(buffer[0])


@compiled
def hold(fds: I64, windows: I64) -> None:
    """Enter repair mode and close the send window; `windows` as they were, NOT_HELD where that failed."""
    buffer = np.zeros(64, np.uint32)
    for row in range(len(fds)):
        fd = fds[row]
        windows[row, 0] = NOT_HELD
        if not _assign(fd, _TCP, _REPAIR, buffer, 1) or not _get(fd, _TCP, _REPAIR_WINDOW, buffer, WINDOW_COLUMNS):
            continue
        for column in range(1, WINDOW_COLUMNS):
            windows[row, column] = buffer[column]
        first = np.int64(buffer[0])
        buffer[1] = 0
        if _put(fd, _TCP, _REPAIR_WINDOW, buffer, WINDOW_COLUMNS):
            windows[row, 0] = first


@compiled
def most_in_flight(fds: I64) -> Any:
    """The most bytes that any of them has sent and not seen acknowledged."""
    buffer = np.zeros(64, np.uint32)
    most = 0
    for fd in fds:
        most = max(most, _queued(fd, _SIOCOUTQ, buffer) - _queued(fd, _SIOCOUTQNSD, buffer))
    return most


@compiled
def dump(fds: I64, windows: I64, table: I64, infos: U8, lengths: I64, data: U8, done: U8) -> Any:
    """Read connections in repair mode; their queues go to `data`, send queue first, one behind the other.

    Returns how many bytes of `data` were taken.
    """
    buffer = np.zeros(64, np.uint32)
    used = 0
    for row in range(len(fds)):
        lengths[row] = _info(fds[row], infos, row, buffer)
        done[row] = 0
        if lengths[row] > 7 and (infos[row, 0] == _ESTABLISHED or infos[row, 0] == _CLOSE_WAIT):
            taken = _read(fds[row], row, windows, table, infos, data, used, buffer)
            if taken >= 0:
                used += taken
                done[row] = 1
    return used


@compiled
def _read(fd: int, row: int, windows: I64, table: I64, infos: U8, data: U8, start: int, buffer: U32) -> Any:
    """One of them; how many bytes its queues have, or -1."""
    if _has_urgent_data(fd, buffer):
        return -1
    unsent = _queued(fd, _SIOCOUTQNSD, buffer)
    queued = _queued(fd, _SIOCOUTQ, buffer)
    if unsent < 0 or queued < unsent or not _get(fd, _TCP, _REPAIR_WINDOW, buffer, WINDOW_COLUMNS):
        return -1
    for column in range(WINDOW_COLUMNS):
        table[row, WINDOW + column] = buffer[column]
    if windows[row, 0] != NOT_HELD and buffer[1] == 0:
        table[row, WINDOW + 1] = windows[row, 1]
    _assign(fd, _TCP, _REPAIR_QUEUE, buffer, _SEND_QUEUE)
    written = _number(fd, _TCP, _QUEUE_SEQ, buffer)
    if not _peek(fd, data, start, queued):
        return -1
    _assign(fd, _TCP, _REPAIR_QUEUE, buffer, _RECEIVE_QUEUE)
    received = _number(fd, _TCP, _QUEUE_SEQ, buffer)
    if not _get(fd, _TCP, _INFO, buffer, 1):
        return -1
    peer_closed = buffer[0] & 0xFF == _CLOSE_WAIT
    waiting = _queued(fd, _SIOCINQ, buffer)
    if waiting < 0 or not _peek(fd, data, start + queued, waiting):
        return -1
    table[row, WRITE_SEQUENCE], table[row, RECEIVE_SEQUENCE] = written, received
    table[row, UNSENT_BYTES], table[row, SEND_BYTES], table[row, RECEIVE_BYTES] = unsent, queued, waiting
    table[row, PEER_CLOSED] = peer_closed
    table[row, OPTIONS] = infos[row, 5]
    table[row, SEND_SCALE], table[row, RECEIVE_SCALE] = infos[row, 6] & 0x0F, infos[row, 6] >> 4
    table[row, MSS] = _number(fd, _TCP, _MAXSEG, buffer)
    table[row, TIMESTAMP] = _number(fd, _TCP, _TIMESTAMP, buffer) if infos[row, 5] & _HAS_TIMESTAMPS else 0
    table[row, SEND_BUFFER_BYTES] = _number(fd, _SOCKET, _SNDBUF, buffer)
    table[row, RECEIVE_BUFFER_BYTES] = _number(fd, _SOCKET, _RCVBUF, buffer)
    for column in range(COLUMNS):
        if table[row, column] < 0:
            return -1
    return queued + waiting if _number(fd, _TCP, _QUEUE_SEQ, buffer) == received else -1


@compiled
def _has_urgent_data(fd: int, buffer: U32) -> Any:
    """Whether there is some, or some is on its way."""
    start = np.uint64(buffer.ctypes.data)
    flags = np.int32(_MSG_OOB | _MSG_PEEK | _MSG_DONTWAIT)
    if _recv(np.int32(fd), start, np.uint64(1), flags) >= 0:
        return True
    _memcpy(start, _errno_location(), np.uint64(4))
    return buffer[0] == _EAGAIN


@compiled
def _peek(fd: int, data: U8, start: int, length: int) -> Any:
    """Copy a queue of exactly so many bytes to data[start:]; whether that worked."""
    if length == 0:
        return True
    if start + length > len(data):
        return False
    flags = np.int32(_MSG_PEEK | _MSG_DONTWAIT)
    return _recv(np.int32(fd), np.uint64(data.ctypes.data + start), np.uint64(length), flags) == length


@compiled
def complete(fds: I64, addresses: U8, address_bytes: I64, table: I64, data: U8, starts: I64, done: U8) -> None:
    """Make connections of prepared sockets; they stay in repair mode. `starts`: where in `data` their queues begin."""
    buffer = np.zeros(64, np.uint32)
    for row in range(len(fds)):
        address = addresses.ctypes.data + row * addresses.shape[1]
        done[row] = _complete(fds[row], address, address_bytes[row], table[row], data, starts[row], buffer)


@compiled
def _complete(fd: int, address: int, address_bytes: int, state: I64, data: U8, start: int, buffer: U32) -> Any:
    sent = state[SEND_BYTES] - state[UNSENT_BYTES]
    received = state[RECEIVE_BYTES]
    worked = _assign(fd, _TCP, _REPAIR_QUEUE, buffer, _SEND_QUEUE)
    worked &= _assign(fd, _TCP, _QUEUE_SEQ, buffer, state[WRITE_SEQUENCE] - state[SEND_BYTES])
    worked &= _assign(fd, _TCP, _REPAIR_QUEUE, buffer, _RECEIVE_QUEUE)
    worked &= _assign(fd, _TCP, _QUEUE_SEQ, buffer, state[RECEIVE_SEQUENCE] - received)
    worked &= _assign(fd, _TCP, _MAXSEG, buffer, min(state[MSS], _LARGEST_MAXSEG))
    worked &= _connect(np.int32(fd), np.uint64(address), np.uint32(address_bytes)) == 0
    if not worked:
        return False
    buffer[0], buffer[1] = _OPTION_MAXSEG, state[MSS]
    words = 2
    if state[OPTIONS] & _HAS_SCALES:
        buffer[words], buffer[words + 1] = _OPTION_WINDOW, state[SEND_SCALE] | state[RECEIVE_SCALE] << 16
        words += 2
    if state[OPTIONS] & _HAS_SACK:
        buffer[words], buffer[words + 1] = _OPTION_SACK, 0
        words += 2
    if state[OPTIONS] & _HAS_TIMESTAMPS:
        buffer[words], buffer[words + 1] = _OPTION_TIMESTAMP, 0
        words += 2
    worked &= _put(fd, _TCP, _REPAIR_OPTIONS, buffer, words)
    if state[OPTIONS] & _HAS_TIMESTAMPS:
        worked &= _assign(fd, _TCP, _TIMESTAMP, buffer, state[TIMESTAMP])
    worked &= _fill(fd, _RECEIVE_QUEUE, data, start + state[SEND_BYTES], received, state[RECEIVE_BUFFER_BYTES], buffer)
    worked &= _fill(fd, _SEND_QUEUE, data, start, sent, state[SEND_BUFFER_BYTES], buffer)
    worked &= _assign(fd, _SOCKET, _BUF_LOCK, buffer, 0)
    for column in range(WINDOW_COLUMNS):
        buffer[column] = state[WINDOW + column]
    return worked and _put(fd, _TCP, _REPAIR_WINDOW, buffer, WINDOW_COLUMNS)


@compiled
def _fill(fd: int, queue: int, data: U8, start: int, length: int, buffer_bytes: int, buffer: U32) -> Any:
    """Push a queue back, in a buffer that takes it and then has the size that it had."""
    force = _RCVBUFFORCE if queue == _RECEIVE_QUEUE else _SNDBUFFORCE
    worked = _assign(fd, _SOCKET, force, buffer, max(buffer_bytes // 2, length * 2))
    if length == 0:
        return worked
    worked &= _assign(fd, _TCP, _REPAIR_QUEUE, buffer, queue)
    end = start + length
    while worked and start < end:
        piece = min(end - start, _PIECE_BYTES)
        address = np.uint64(data.ctypes.data + start)
        taken = _send(np.int32(fd), address, np.uint64(piece), np.int32(_MSG_DONTWAIT))
        worked = taken > 0
        start += taken
    if length * 2 > buffer_bytes // 2:
        worked &= _assign(fd, _SOCKET, force, buffer, buffer_bytes // 2)
    return worked


@compiled
def leave(fds: I64, done: U8) -> None:
    """Leave repair mode silently."""
    buffer = np.zeros(64, np.uint32)
    for row in range(len(fds)):
        done[row] = _assign(fds[row], _TCP, _REPAIR, buffer, _LEAVE_SILENTLY) and _assign(
            fds[row], _SOCKET, _REUSEADDR, buffer, 1
        )
