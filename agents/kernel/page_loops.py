"""What a post-copy does for each page that is waited for, as compiled loops over system calls.

A guest stands still for that page, and what the interpreter takes between the system calls it would feel. The loops
know one thing to do with one kind of frame; `unnoticed.agents.page_wire` is the reference for all others: where
anything is out of the ordinary they return, and leave the frame in the buffer, not yet counted. Tests hold the two
together.

Frames are five words of 64 bits, the last two of them the tag.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.page_wire import FRAME_BYTES, MOST_WANTED, Kind, PageWire, Type
from unnoticed.agents.wire import Role
from unnoticed.compiled import compiled

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]

ANSWER_WORDS = (FRAME_BYTES + PAGE_BYTES) // 8

_WORDS, _HEADER_WORDS = FRAME_BYTES // 8, FRAME_BYTES // 8 - 2
_WANT, _PAGES = int(Type.WANT), int(Type.PAGES)
_THEIRS, _OURS = 0, 1
_FAULT_WORDS, _MOST_FAULTS = 4, 16  # of struct uffd_msg, and how many are read at once
_UFFDIO_COPY, _UFFDIO_WAKE, _EVENT_PAGEFAULT = 0xC028AA03, 0x8010AA02, 0x12  # include/uapi/linux/userfaultfd.h
_POLLIN, _MSG_WAITALL, _MSG_NOSIGNAL, _MSG_MORE, _CLOCK_MONOTONIC = 1, 0x100, 0x4000, 0x8000, 1
_ESRCH, _EAGAIN, _EEXIST = 3, 11, 17


class Reason(IntEnum):
    """Why a loop returned; with it comes a number."""

    DONE = 0  # the peer hung up between two frames, or nothing is waited for any more
    FRAME = 1  # this many bytes came that are not the frame which was due
    FAILED = 2  # a system call, with this errno
    GONE = 3  # the guest's process is
    ORDER = 4  # there is one
    SILENCE = 5  # nothing happened for as long as was said
    CROWD = 6  # more is waited for than may be


_DONE, _FRAME, _FAILED, _GONE, _ORDER, _SILENCE, _CROWD = (int(reason) for reason in Reason)


class Keyring(NamedTuple):
    """What the frames of one end of a channel are signed with; of two, the first is the peer's and the second its own.

    `state`: 8 words, BLAKE2b's behind the key. `texts`: two blocks of 16 words, which begin with the sender's name;
    `name_bytes`: how long that is. `counts`: of the frames so far. `tag`: the latest tag, and 22 words to work in.
    """

    state: U64
    texts: U64
    name_bytes: I64
    counts: I64
    tag: U64

    @classmethod
    def of(cls, wire: PageWire) -> Keyring:
        """That of an end that is joined."""
        block = np.zeros(16, np.uint64)
        block.view(np.uint8)[: len(wire.key)] = np.frombuffer(wire.key, np.uint8)
        state = _IV.copy()
        state[0] ^= np.uint64(0x0101_0000 | len(wire.key) << 8 | 16)
        _compress(state, block, _BLOCK_BYTES, False, np.zeros(16, np.uint64))
        texts = np.zeros((2, 16), np.uint64)
        for row, name in enumerate(wire.names):
            texts.view(np.uint8)[row, : len(name)] = np.frombuffer(name, np.uint8)
        name_bytes, counts = np.array([len(name) for name in wire.names], np.int64), np.array(wire.counts, np.int64)
        return cls(state, texts, name_bytes, counts, np.zeros(24, np.uint64))


# BLAKE2b (RFC 7693): initial vector, and the order in which rounds take the message's words.
_IV = np.array(
    [
        *(0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1),
        *(0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179),
    ],
    np.uint64,
)
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.int64,
)
_ROUNDS, _BLOCK_BYTES = 12, 128
_LANES = np.array(
    [
        *([0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]),
        *([0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]),
    ],
    np.int64,
)


@compiled
def _turned(word: Any, bits: int) -> Any:
    """Rotated to the right."""
    return (word >> np.uint64(bits)) | (word << np.uint64(64 - bits))


@compiled
def _compress(state: U64, block: U64, count: int, is_last: bool, v: U64) -> None:
    """One block more; `count` bytes so far. `v`: 16 words to work in."""
    for i in range(8):
        v[i], v[i + 8] = state[i], _IV[i]
    v[12] ^= np.uint64(count)
    if is_last:
        v[14] = ~v[14]
    for number in range(_ROUNDS):
        for lane in range(8):
            a, b, c, d = _LANES[lane, 0], _LANES[lane, 1], _LANES[lane, 2], _LANES[lane, 3]
            v[a] = v[a] + v[b] + block[_SIGMA[number % 10, 2 * lane]]
            v[d] = _turned(v[d] ^ v[a], 32)
            v[c] = v[c] + v[d]
            v[b] = _turned(v[b] ^ v[c], 24)
            v[a] = v[a] + v[b] + block[_SIGMA[number % 10, 2 * lane + 1]]
            v[d] = _turned(v[d] ^ v[a], 16)
            v[c] = v[c] + v[d]
            v[b] = _turned(v[b] ^ v[c], 63)
    for i in range(8):
        state[i] ^= v[i] ^ v[i + 8]


@compiled
def _tag(whose: int, frame: U64, keyring: Keyring) -> None:
    """Have in keyring.tag[:2] what belongs behind a frame's header."""
    text, header = keyring.texts[whose].view(np.uint8), frame.view(np.uint8)
    start, count = keyring.name_bytes[whose], keyring.counts[whose]
    for i in range(8):
        text[start + i] = (count >> (8 * i)) & 0xFF
    for i in range(8 * _HEADER_WORDS):
        text[start + 8 + i] = header[i]
    keyring.tag[:8] = keyring.state
    block, length = keyring.texts[whose], _BLOCK_BYTES + start + 8 + 8 * _HEADER_WORDS
    _compress(keyring.tag[:8], block, length, True, keyring.tag[8:])


@compiled
def _sign(frame: U64, keyring: Keyring) -> None:
    """Give a frame of our own its tag, and count it."""
    _tag(_OURS, frame, keyring)
    frame[_HEADER_WORDS], frame[_HEADER_WORDS + 1] = keyring.tag[0], keyring.tag[1]
    keyring.counts[_OURS] += 1


@compiled
def _is_signed(frame: U64, keyring: Keyring) -> Any:
    """Whether a frame of the peer's has the right tag."""
    _tag(_THEIRS, frame, keyring)
    return (frame[_HEADER_WORDS] ^ keyring.tag[0]) | (frame[_HEADER_WORDS + 1] ^ keyring.tag[1]) == 0


# Functions of libc that compiled code calls by their names; pointers are numbers here.
_recv: Any = types.ExternalFunction("recv", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_send: Any = types.ExternalFunction("send", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_read: Any = types.ExternalFunction("read", types.intp(types.int32, types.uintp, types.uintp))
_write: Any = types.ExternalFunction("write", types.intp(types.int32, types.uintp, types.uintp))
_poll: Any = types.ExternalFunction("poll", types.int32(types.uintp, types.uintp, types.int32))
_ioctl: Any = types.ExternalFunction("ioctl", types.int32(types.int32, types.uintp, types.uintp))
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))
_errno_location: Any = types.ExternalFunction("__errno_location", types.uintp())
_memcpy: Any = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))


@compiled
def _errno(words: U64) -> Any:
    """Of the call that failed just before. `words`: to work in."""
    words[0] = 0
    _memcpy(np.uint64(words.ctypes.data), _errno_location(), np.uint64(4))
    return np.int64(words[0])


@compiled
def _now_ns(words: U64) -> Any:
    """CLOCK_MONOTONIC. `words`: to work in."""
    _clock_gettime(np.int32(_CLOCK_MONOTONIC), np.uint64(words.ctypes.data))
    return np.int64(words[0]) * 1_000_000_000 + np.int64(words[1])


@compiled
def _send_all(fd: int, start: Any, length: int, flags: int) -> Any:
    """Whether all of it was sent. `start`: its address."""
    sent = 0
    while sent < length:
        rest = np.uint64(length - sent)
        taken = _send(np.int32(fd), start + np.uint64(sent), rest, np.int32(_MSG_NOSIGNAL | flags))
        if taken <= 0:
            return False
        sent += taken
    return True


@compiled
def serve(fd: int, ram: int, owed: U8, demand: U64, frame: U64, keyring: Keyring) -> tuple[int, int]:
    """Answer each WANT with its page until the peer hangs up.

    `ram`: its address. `owed`, `demand`: the views of `OwedPages`. `frame`: room for one. Returns a Reason and its
    number.
    """
    work = np.zeros(2, np.uint64)
    start = np.uint64(frame.ctypes.data)
    while True:
        received = _recv(np.int32(fd), start, np.uint64(FRAME_BYTES), np.int32(_MSG_WAITALL))
        if received < 0:
            return _FAILED, _errno(work)
        if received == 0:
            return _DONE, 0
        if received < FRAME_BYTES or not _is_signed(frame, keyring):
            return _FRAME, received
        page = np.int64(frame[0] >> np.uint64(32))
        if frame[0] & np.uint64(0xFFFFFFFF) != _WANT or page >= len(owed):
            return _FRAME, received
        keyring.counts[_THEIRS] += 1
        owed[page] = 0
        frame[0] = np.uint64(_PAGES | page << 32)
        frame[1], frame[2] = 1, 0
        _sign(frame, keyring)
        content = np.uint64(ram + page * PAGE_BYTES)
        if not _send_all(fd, start, FRAME_BYTES, _MSG_MORE) or not _send_all(fd, content, PAGE_BYTES, 0):
            return _FAILED, _errno(work)
        demand[0] = np.uint64(page + 1)  # what lies behind it may be touched next
        demand[1] += np.uint64(1)


class Waiting(NamedTuple):
    """The pages that are waited for, in the order in which they were asked for.

    `pages` and `since_ns`: rings of MOST_WANTED; `flags`: a byte for each of the guest's pages; `ends`: how many have
    come, how many were asked for, and how many of those that came found their place empty.
    """

    pages: I64
    since_ns: I64
    flags: U8
    ends: I64

    @classmethod
    def none(cls, *, pages: int) -> Waiting:
        """For a guest with so many pages."""
        ring = np.zeros(MOST_WANTED, np.int64)
        return cls(ring, ring.copy(), np.zeros(pages, np.uint8), np.zeros(3, np.int64))

    @property
    def wanted(self) -> list[int]:
        """Which pages they are."""
        came, asked, _ = self.ends.tolist()
        return [int(self.pages[number % MOST_WANTED]) for number in range(came, asked)]

    @property
    def oldest_ns(self) -> int | None:
        """Since when the first of them has been waited for."""
        came, asked, _ = self.ends.tolist()
        return None if came == asked else int(self.since_ns[came % MOST_WANTED])


@compiled
def attend(
    fds: I64, address: int, answer: U8, patience_ms: int, is_last: bool, waiting: Waiting, keyring: Keyring
) -> tuple[int, int]:
    """Ask for each page that the guest waits for, and put it in place when it comes.

    `fds`: of the userfaultfd, the channel, the orders, and the log of `unnoticed.agents.faults`. `address`: of the RAM
    in the guest's process. `answer`: room for a frame and a page, which is aligned as pages are; the frame that came
    last stays there. `is_last`: until nothing is waited for. Returns a Reason and its number.
    """
    polled = np.zeros(3, np.uint64)
    while not is_last or waiting.ends[0] != waiting.ends[1]:
        for i in range(3):
            polled[i] = np.uint64(fds[i] | _POLLIN << 32)
        ready = _poll(np.uint64(polled.ctypes.data), np.uint64(3), np.int32(patience_ms))
        if ready < 0:
            return _FAILED, _errno(polled)
        if ready == 0:
            return _SILENCE, 0
        reason, number = _DONE, 0
        if polled[0] >> np.uint64(48):
            reason, number = _ask(fds[0], fds[1], address, waiting, keyring)
        if reason == _DONE and polled[1] >> np.uint64(48):
            reason, number = _put(fds[0], fds[1], fds[3], address, answer, waiting, keyring)
        if reason != _DONE:
            return reason, number
        if polled[2] >> np.uint64(48):
            return _ORDER, 0
    return _DONE, 0


@compiled
def _ask(fault_fd: int, fd: int, address: int, waiting: Waiting, keyring: Keyring) -> tuple[int, int]:
    """Ask for each page that is waited for, once."""
    faults, frame = np.zeros(_MOST_FAULTS * _FAULT_WORDS, np.uint64), np.zeros(_WORDS, np.uint64)
    found = _read(np.int32(fault_fd), np.uint64(faults.ctypes.data), np.uint64(8 * len(faults)))
    if found < 0:
        error = _errno(frame)
        return (_DONE if error == _EAGAIN else _FAILED), error
    for i in range(0, found // 8, _FAULT_WORDS):
        page = (np.int64(faults[i + 2]) - address) // PAGE_BYTES
        if faults[i] & np.uint64(0xFF) != _EVENT_PAGEFAULT or waiting.flags[page]:
            continue
        came, asked = waiting.ends[0], waiting.ends[1]
        if asked - came == MOST_WANTED:
            return _CROWD, 0
        waiting.flags[page] = 1
        waiting.pages[asked % MOST_WANTED], waiting.since_ns[asked % MOST_WANTED] = page, _now_ns(frame)
        waiting.ends[1] += 1
        frame[0], frame[1], frame[2] = np.uint64(_WANT | page << 32), 0, 0
        _sign(frame, keyring)
        if not _send_all(fd, np.uint64(frame.ctypes.data), FRAME_BYTES, 0):
            return _FAILED, _errno(frame)
    return _DONE, 0


@compiled
def _put(
    fault_fd: int, fd: int, log_fd: int, address: int, answer: U8, waiting: Waiting, keyring: Keyring
) -> tuple[int, int]:
    """Receive the page that is due, and put it in place."""
    frame, argument = np.zeros(_WORDS, np.uint64), np.zeros(5, np.uint64)
    start = np.uint64(answer.ctypes.data)
    received = _recv(np.int32(fd), start, np.uint64(len(answer)), np.int32(_MSG_WAITALL))
    if received < 0:
        return _FAILED, _errno(frame)
    _memcpy(np.uint64(frame.ctypes.data), start, np.uint64(FRAME_BYTES))
    came, asked = waiting.ends[0], waiting.ends[1]
    page, since_ns = waiting.pages[came % MOST_WANTED], waiting.since_ns[came % MOST_WANTED]
    is_due = came != asked and frame[0] == np.uint64(_PAGES | page << 32) and frame[1] == 1
    if received < len(answer) or not is_due or not _is_signed(frame, keyring):
        return _FRAME, received
    keyring.counts[_THEIRS] += 1
    argument[0], argument[1] = np.uint64(address + page * PAGE_BYTES), start + np.uint64(FRAME_BYTES)
    argument[2] = PAGE_BYTES
    error = _EAGAIN
    while error == _EAGAIN:
        failed = _ioctl(np.int32(fault_fd), np.uint64(_UFFDIO_COPY), np.uint64(argument.ctypes.data)) < 0
        error = _errno(frame) if failed else 0
    if error == _EEXIST:
        argument[1] = PAGE_BYTES
        _ioctl(np.int32(fault_fd), np.uint64(_UFFDIO_WAKE), np.uint64(argument.ctypes.data))
    elif error:
        return (_GONE if error == _ESRCH else _FAILED), error
    else:
        waiting.ends[2] += 1
    waiting.flags[page] = 0
    waiting.ends[0] += 1
    frame[0], frame[1] = np.uint64(since_ns), np.uint64(_now_ns(argument) - since_ns)
    if _write(np.int32(log_fd), np.uint64(frame.ctypes.data), np.uint64(16)) != 16:
        return _FAILED, _errno(frame)
    return _DONE, 0


def make_ready() -> None:
    """Load the loops, or compile them on the first time on a machine: that takes a while."""
    keyring = Keyring.of(PageWire.joined(Role.SOURCE, Kind.DEMAND, key=bytes(1), pages=1))
    answer = np.zeros(ANSWER_WORDS, np.uint64)
    reason, _ = serve(-1, 0, np.zeros(1, np.uint8), np.zeros(2, np.uint64), answer, keyring)
    assert reason == _FAILED, "there is no channel"
    reason, _ = attend(np.full(4, -1), 0, answer.view(np.uint8), 0, False, Waiting.none(pages=1), keyring)
    assert reason == _SILENCE, "there is nothing to hear"
