"""The relay's work, compiled: take frames out of rings, hold each for its delay, send it. And the rules of that, pure.

A frame's due time is reckoned from the kernel's stamp of its arrival, so that nobody has to wake up when it arrives:
while frames wait, the relay sleeps until the first is due, or for the shortest delay, within which nothing new can be.
Frames wait in a line per direction (`admit`), in order; a frame that is reordered passes it by. The words are netem's.

Arrays, one row per direction, times in ns of CLOCK_MONOTONIC: `asked` (columns INLET ...), `state` (FIRST ...),
`counts` (TAKEN ...), `luck` (a generator's state), `line` (the bytes of what waits), and `queue`, shape (rows, entries,
3): when each frame that waits is due, where in the line it is, and its length. `rings` are bytes, `words` the same
memory as 32-bit words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.core.types.misc import CPointer

from unnoticed.compiled import compiled

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]

INLET, OUTLET, DELAY, JITTER, LOSS, REORDER, DUPLICATE = range(7)  # columns of `asked`; the first two are ports
FIRST, WAITING, END, LAST_DUE, ENTRY, SLOT = range(6)  # of `state`: of the line, of `queue`, of the inlet's ring
TAKEN, SENT, LOST, REPEATED, OVERFLOWED, OVERSIZED, REFUSED, CUT, LATE, LATEST = range(10)  # of `counts`
ASKED_COLUMNS, STATE_COLUMNS, COUNT_COLUMNS = 7, 6, 10

LATE_NS = 300_000  # later than this and a frame is counted as late
_FOREVER_NS = 1 << 62
_MOST_SLEEP_NS = 5_000_000  # while frames wait; or the rings would have to be larger
_WHOLE_PPM = 1_000_000
_RUN = 64  # frames taken of one ring before the others have their turn

_STATUS_USER = 1
_CLOCK_REALTIME, _CLOCK_MONOTONIC = 0, 1
_POLLIN, _POLLERR = 1, 8
_MSG_DONTWAIT = 0x40
_ENETDOWN = 100  # include/uapi/asm-generic/errno.h

# Functions of libc that compiled code calls by their names; pointers are numbers here.
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))
_ppoll: Any = types.ExternalFunction("ppoll", types.int32(types.uintp, types.uintp, types.uintp, types.uintp))
_errno: Any = types.ExternalFunction("__errno_location", CPointer(types.int32)())
_send: Any = types.ExternalFunction("send", types.intp(types.int32, types.uintp, types.uintp, types.int32))


@compiled
def draw(luck: U64, row: int) -> Any:
    """The next number from 0 to 2^32 - 1 of a row's generator (xorshift64*; S. Vigna, 2016)."""
    x = luck[row]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    luck[row] = x
    return np.int64((x * np.uint64(2685821657736338717)) >> np.uint64(32))


@compiled
def happens(luck: U64, row: int, ppm: int) -> Any:
    """Whether what befalls `ppm` of a million frames befalls this one."""
    return ppm > 0 and draw(luck, row) * _WHOLE_PPM < ppm << 32


@compiled
def held_ns(asked: I64, luck: U64, row: int) -> Any:
    """For how long a frame is held: the delay, give or take the jitter, evenly spread; 0 for one that is reordered."""
    if happens(luck, row, asked[row, REORDER]):
        return 0
    jitter = asked[row, JITTER]
    if jitter == 0:
        return asked[row, DELAY]
    return asked[row, DELAY] - jitter + (draw(luck, row) * (2 * jitter + 1) >> 32)


@compiled
def admit(state: I64, row: int, size: int, entries: int, capacity: int) -> Any:
    """Where in a line of `capacity` bytes a frame of `size` can be put behind the others; -1 where it does not fit.

    A frame lies in one piece: what is left at the end of the line stays empty when the next one does not fit there.
    """
    waiting, end = state[row, WAITING], state[row, END]
    if waiting == 0:
        return 0 if size <= capacity else -1
    if waiting == entries:
        return -1
    first = state[row, FIRST]
    if end > first:
        if capacity - end >= size:
            return end
        return 0 if first >= size else -1
    return end if first - end >= size else -1


@compiled
def _now_ns(clock: int, clock_buffer: I64) -> Any:
    _clock_gettime(np.int32(clock), clock_buffer.ctypes.data)
    return clock_buffer[0] * 1_000_000_000 + clock_buffer[1]


@compiled
def _dispatch(descriptor: int, address: int, size: int, counts: I64, row: int) -> None:
    if _send(np.int32(descriptor), np.uint64(address), np.uint64(size), np.int32(_MSG_DONTWAIT)) == size:
        counts[row, SENT] += 1
    elif _errno()[0] == _ENETDOWN:  # the link is cut: it is lost, as what is in a cable would be
        counts[row, CUT] += 1
    else:
        counts[row, REFUSED] += 1


@compiled
def _take(
    row: int,
    real_to_monotonic_ns: int,
    descriptors: I64,
    rings: U8,
    words: U32,
    slot_bytes: int,
    asked: I64,
    state: I64,
    counts: I64,
    luck: U64,
    queue: I64,
    line: U8,
) -> int:
    """Take up to _RUN frames of one direction out of its inlet's ring; how many there were."""
    inlet, outlet = asked[row, INLET], asked[row, OUTLET]
    slots = rings.shape[1] // slot_bytes
    entries, capacity = queue.shape[1], line.shape[1]
    for taken in range(_RUN):
        slot = state[row, SLOT]
        word = slot * slot_bytes // 4
        if words[inlet, word] & _STATUS_USER == 0:
            return taken
        # struct tpacket2_hdr: status, len, snaplen, mac and net (16 bits each), sec, nsec
        wire, size = np.int64(words[inlet, word + 1]), np.int64(words[inlet, word + 2])
        start = slot * slot_bytes + np.int64(words[inlet, word + 3] & 0xFFFF)
        arrived = np.int64(words[inlet, word + 4]) * 1_000_000_000 + np.int64(words[inlet, word + 5])
        arrived += real_to_monotonic_ns
        counts[row, TAKEN] += 1
        copies = 1
        if wire > size:
            counts[row, OVERSIZED] += 1
            copies = 0
        elif happens(luck, row, asked[row, LOSS]):
            counts[row, LOST] += 1
            copies = 0
        elif happens(luck, row, asked[row, DUPLICATE]):
            counts[row, REPEATED] += 1
            copies = 2
        for _ in range(copies):
            held = held_ns(asked, luck, row)
            if held == 0 and (asked[row, DELAY] > 0 or state[row, WAITING] == 0):
                _dispatch(descriptors[outlet], rings.ctypes.data + inlet * rings.shape[1] + start, size, counts, row)
                continue
            place = admit(state, row, size, entries, capacity)
            if place < 0:
                counts[row, OVERFLOWED] += 1
                continue
            due = max(arrived + held, state[row, LAST_DUE])
            state[row, LAST_DUE] = due
            line[row, place : place + size] = rings[inlet, start : start + size]
            if state[row, WAITING] == 0:
                state[row, FIRST] = place
            entry = (state[row, ENTRY] + state[row, WAITING]) % entries
            queue[row, entry, 0], queue[row, entry, 1], queue[row, entry, 2] = due, place, size
            state[row, WAITING] += 1
            state[row, END] = place + size
        words[inlet, word] = 0
        state[row, SLOT] = (slot + 1) % slots
    return _RUN


@compiled
def relay(
    descriptors: I64,
    control: int,
    rings: U8,
    words: U32,
    slot_bytes: int,
    asked: I64,
    state: I64,
    counts: I64,
    luck: U64,
    queue: I64,
    line: U8,
    until_ns: int,
) -> int:
    """Relay until the descriptor `control` is readable (1), a port needs a look (2), or it is `until_ns` (0)."""
    rows, ports = len(asked), len(descriptors)
    polled = np.zeros((ports + 1, 2), np.int32)  # struct pollfd: fd, then events and revents of 16 bits each
    timeout = np.zeros(2, np.int64)
    clock = np.zeros(2, np.int64)
    entries = queue.shape[1]
    while True:
        more = False
        offset = _now_ns(_CLOCK_MONOTONIC, clock) - _now_ns(_CLOCK_REALTIME, clock)
        for row in range(rows):
            more |= (
                _take(row, offset, descriptors, rings, words, slot_bytes, asked, state, counts, luck, queue, line)
                == _RUN
            )
        next_ns, shortest = _FOREVER_NS, _MOST_SLEEP_NS
        now = _now_ns(_CLOCK_MONOTONIC, clock)
        for row in range(rows):
            base = line.ctypes.data + row * line.shape[1]
            while state[row, WAITING] > 0:
                entry = state[row, ENTRY]
                due, place, size = queue[row, entry, 0], queue[row, entry, 1], queue[row, entry, 2]
                if due > now:
                    now = _now_ns(_CLOCK_MONOTONIC, clock)  # some are due by now, after all that was sent
                if due > now:
                    next_ns = min(next_ns, due)
                    break
                _dispatch(descriptors[asked[row, OUTLET]], base + place, size, counts, row)
                counts[row, LATEST] = max(counts[row, LATEST], now - due)
                counts[row, LATE] += now - due > LATE_NS
                state[row, ENTRY] = (entry + 1) % entries
                state[row, WAITING] -= 1
                if state[row, WAITING] > 0:
                    state[row, FIRST] = queue[row, state[row, ENTRY], 1]
            unheld = asked[row, REORDER] > 0 or asked[row, DELAY] == 0
            shortest = min(shortest, 0 if unheld else asked[row, DELAY] - asked[row, JITTER])
        if now >= until_ns:
            return 0
        # Whoever must not be late for a frame that has not arrived waits for frames; else the clock alone will do.
        listening = next_ns == _FOREVER_NS or shortest < LATE_NS
        wake_ns = min(next_ns, until_ns) if listening else min(next_ns, now + shortest, until_ns)
        wait = 0 if more else max(0, wake_ns - now)
        polled[0, 0], polled[0, 1] = control, _POLLIN
        for port in range(ports):
            polled[port + 1, 0], polled[port + 1, 1] = descriptors[port], _POLLIN if listening else 0
        timeout[0], timeout[1] = wait // 1_000_000_000, wait % 1_000_000_000
        _ppoll(polled.ctypes.data, np.uint64(ports + 1), timeout.ctypes.data, np.uint64(0))
        if polled[0, 1] >> 16 != 0:
            return 1
        for port in range(ports):
            if (polled[port + 1, 1] >> 16) & _POLLERR:
                return 2
