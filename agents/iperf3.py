"""The server's side of `iperf3 -u`: a control connection over TCP, and a stream of datagrams that are counted.

Pure. What a test has got to is a few words that the caller keeps, in the guest's RAM: a guest that has moved goes on
with the same test. One stream from the client, and nothing omitted at its beginning; what asks for more is refused.

By iperf 3.12 and 3.18, client against server with `--debug`; numbers are in network byte order:

    client                                     server
    cookie: 36 characters and a zero byte
                                               PARAM_EXCHANGE
    length (4 bytes), parameters as JSON
                                               CREATE_STREAMS
    a datagram "9876"
                                               a datagram "6789"; TEST_START, TEST_RUNNING
    datagrams: seconds, microseconds, number
    TEST_END
                                               EXCHANGE_RESULTS
    length, its results as JSON
                                               length, results as JSON; DISPLAY_RESULTS
    IPERF_DONE

Lost is what iperf3's server calls so: numbers that an arrival has skipped, less arrivals whose number is not above all
before. What is lost after the last arrival is not seen.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Protocol

COOKIE_BYTES = 37
_COOKIE = frozenset(b"abcdefghijklmnopqrstuvwxyz234567")
_LENGTH = struct.Struct("!I")
_MOST_JSON_BYTES = 1000
_HEADER = struct.Struct("!III")
_CONNECT, _CONNECTED = b"9876", b"6789"
_MASK = (1 << 64) - 1


class Message(IntEnum):
    """What either side says over the control connection, one byte each; also how far a test is."""

    TEST_START = 1
    TEST_RUNNING = 2
    TEST_END = 4
    PARAM_EXCHANGE = 9
    CREATE_STREAMS = 10
    EXCHANGE_RESULTS = 13
    DISPLAY_RESULTS = 14
    IPERF_DONE = 16
    ACCESS_DENIED = 255


class Word(IntEnum):
    """The words of a test, all zero before it begins."""

    STATE = 0  # the server's last Message
    PORT = 1  # the client's, of its datagrams
    HIGHEST = 2  # number so far; the first is 1
    LOST = 3
    BYTES = 4
    BEGAN_NS = 5
    ENDED_NS = 6
    TRANSIT_NS = 7  # of the last datagram: when it came less when it was sent, by clocks that need not agree
    JITTER_PS = 8  # RFC 1889, section 6.3.1


class Words(Protocol):
    """Unsigned 64-bit integers, as many as there are in Word."""

    def __getitem__(self, word: int, /) -> int: ...
    def __setitem__(self, word: int, value: int, /) -> None: ...


def is_cookie(data: bytes) -> bool:
    """Whether a connection that begins so is one of iperf3's; no other client's begins so."""
    return bool(data) and _COOKIE.issuperset(data[: COOKIE_BYTES - 1]) and data[COOKIE_BYTES - 1 :][:1] in {b"", b"\0"}


def answer(test: Words, data: bytes, *, now_ns: int) -> tuple[bytes, int]:
    """The answers to what is complete at the beginning of `data`, and how many bytes that is.

    Raises ValueError for what is not expected now, or asks for what is not served.
    """
    answers, position = b"", 0
    while position < len(data):
        length, answered = _one(test, data[position:], now_ns)
        if not length:
            break
        answers += answered
        position += length
    return answers, position


def _one(test: Words, data: bytes, now_ns: int) -> tuple[int, bytes]:
    """Length of the first message, and the answer to it; 0 if it is incomplete."""
    state = test[Word.STATE]
    if not state:
        if not is_cookie(data):
            raise ValueError(f"not iperf3's cookie: {data[:COOKIE_BYTES]!r}")
        return _enter(test, Message.PARAM_EXCHANGE, COOKIE_BYTES) if len(data) >= COOKIE_BYTES else (0, b"")
    if state in {Message.PARAM_EXCHANGE, Message.EXCHANGE_RESULTS}:
        body = _json(data)
        if body is None:
            return 0, b""
        length = _LENGTH.size + len(body)
        if state == Message.PARAM_EXCHANGE:
            _check(body)
            return _enter(test, Message.CREATE_STREAMS, length)
        return _enter(test, Message.DISPLAY_RESULTS, length, before=_results(test))
    if state == Message.TEST_RUNNING and data[0] == Message.TEST_END:
        test[Word.ENDED_NS] = now_ns
        return _enter(test, Message.EXCHANGE_RESULTS, 1)
    if state == Message.DISPLAY_RESULTS and data[0] == Message.IPERF_DONE:
        return 1, b""
    raise ValueError(f"not expected in state {state}: {data[:1]!r}")


def _enter(test: Words, state: Message, length: int, *, before: bytes = b"") -> tuple[int, bytes]:
    test[Word.STATE] = state
    return length, before + bytes([state])


def _json(data: bytes) -> bytes | None:
    """The text behind its length; None if it is incomplete. Raises ValueError where it is too long."""
    if len(data) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(data)
    if length > _MOST_JSON_BYTES:
        raise ValueError(f"{length} bytes of JSON are too many")
    body = data[_LENGTH.size : _LENGTH.size + length]
    return body if len(body) == length else None


def _check(body: bytes) -> None:
    """Raises ValueError unless it is a plain test over UDP."""
    parameters = json.loads(body)
    if not isinstance(parameters, dict) or parameters.get("udp") is not True or parameters.get("parallel", 1) != 1:
        raise ValueError("not one stream of UDP")
    for unserved in ("omit", "reverse", "bidirectional", "udp_counters_64bit"):
        if parameters.get(unserved):
            raise ValueError(f"{unserved} is not served")


def _results(test: Words) -> bytes:
    """What the server counted, as its client reads it (a jitter and times in seconds)."""
    stream = {
        "id": 1,
        "bytes": test[Word.BYTES],
        "retransmits": -1,
        "jitter": test[Word.JITTER_PS] / 1e12,
        "errors": test[Word.LOST],
        "omitted_errors": 0,
        "packets": test[Word.HIGHEST],
        "omitted_packets": 0,
        "start_time": 0,
        "end_time": (test[Word.ENDED_NS] - test[Word.BEGAN_NS]) / 1e9,
    }
    used = {"cpu_util_total": 0, "cpu_util_user": 0, "cpu_util_system": 0, "sender_has_retransmits": -1}
    body = json.dumps({**used, "streams": [stream]}).encode()
    return _LENGTH.pack(len(body)) + body


def take(test: Words, datagram: bytes, *, port: int, now_ns: int) -> tuple[bytes, bytes]:
    """Take a datagram that came from the client's `port`; the answer to it, and what to say over the connection."""
    if datagram == _CONNECT:
        if test[Word.STATE] == Message.CREATE_STREAMS:
            test[Word.PORT], test[Word.BEGAN_NS] = port, now_ns
            test[Word.STATE] = Message.TEST_RUNNING
            return _CONNECTED, bytes([Message.TEST_START, Message.TEST_RUNNING])
        return (_CONNECTED if port == test[Word.PORT] else b""), b""
    if test[Word.STATE] == Message.TEST_RUNNING and port == test[Word.PORT] and len(datagram) >= _HEADER.size:
        _count(test, datagram, now_ns)
    return b"", b""


def _count(test: Words, datagram: bytes, now_ns: int) -> None:
    seconds, microseconds, number = _HEADER.unpack_from(datagram)
    is_first = not test[Word.BYTES]
    test[Word.BYTES] += len(datagram)
    if number > test[Word.HIGHEST]:
        test[Word.LOST] += number - test[Word.HIGHEST] - 1
        test[Word.HIGHEST] = number
    elif test[Word.LOST]:
        test[Word.LOST] -= 1
    transit_ns = now_ns - seconds * 1_000_000_000 - microseconds * 1000
    if not is_first:
        before_ns = _signed(test[Word.TRANSIT_NS])
        jitter_ps = test[Word.JITTER_PS]
        changed_ps = jitter_ps + (abs(transit_ns - before_ns) * 1000 - jitter_ps) // 16
        test[Word.JITTER_PS] = min(changed_ps, _MASK)  # whatever the datagram says of its time
    test[Word.TRANSIT_NS] = transit_ns & _MASK


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
