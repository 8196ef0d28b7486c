"""Answers to the tools of others: just enough HTTP, RESP and sockperf's ping-pong to be measured by them.

Pure, and without a memory: each request is answered from itself alone, so a guest that has moved goes on in the middle
of a conversation. Requests may come in pieces as long as what is unfinished fits the connection's page; pipelining
beyond that is not for this guest.
"""

from __future__ import annotations

_HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nup\n"
_PONG, _NO_SUCH = b"+PONG\r\n", b"-ERR this is a guest that only answers PING\r\n"
_FIRST = (b"GET ", b"*", b"PING")
_MOST_WORDS = 16
# sockperf: 64-bit sequence number, 16-bit flags (bit 0: from the client), 32-bit length, all in network byte order.
_SOCKPERF_HEADER_BYTES, _SOCKPERF_FLAGS, _FROM_CLIENT = 14, 9, 1


def is_foreign(data: bytes) -> bool:
    """Whether a connection that begins so is one of theirs; no Hello begins so."""
    return any(data.startswith(first[: len(data)]) for first in _FIRST) if data else False


def answer(data: bytes) -> tuple[bytes, int]:
    """The answers to the complete requests at the beginning of `data`, and how many bytes those are.

    Raises ValueError for what is no request.
    """
    answers, position = b"", 0
    while position < len(data):
        length, answered = _one(data[position:])
        if not length:
            break
        answers += answered
        position += length
    return answers, position


def _one(data: bytes) -> tuple[int, bytes]:
    """Length and answer of the first request; 0 if it is incomplete."""
    if data.startswith(b"*"):
        return _resp(data)
    if data.startswith(b"GET "):
        head, found, _ = data.partition(b"\r\n\r\n")
        return (len(head) + len(found), _HTTP) if found else (0, b"")
    line, found, _ = data.partition(b"\r\n")
    if not is_foreign(data):
        raise ValueError(f"not a request: {data[:20]!r}")
    return (len(line) + 2, _PONG if line.upper() == b"PING" else _NO_SUCH) if found else (0, b"")


def _resp(data: bytes) -> tuple[int, bytes]:
    """An array of bulk strings, as clients of Redis send commands (redis.io, RESP)."""
    words: list[bytes] = []
    head, found, _ = data.partition(b"\r\n")
    position = len(head) + 2
    if not found:
        return 0, b""
    count = int(head[1:])
    if not 0 < count <= _MOST_WORDS:
        raise ValueError(f"not a command of 1 to {_MOST_WORDS} words: {head[:20]!r}")
    for _ in range(count):
        size, found, _ = data[position:].partition(b"\r\n")
        if not found:
            return 0, b""
        if not (size.startswith(b"$") and size[1:].isdigit()):
            raise ValueError(f"not a bulk string: {size[:20]!r}")
        start = position + len(size) + 2
        position = start + int(size[1:]) + 2
        if position > len(data):
            return 0, b""
        words.append(data[start : position - 2])
    return position, _PONG if [word.upper() for word in words] == [b"PING"] else _NO_SUCH


def sockperf_answer(datagram: bytes) -> bytes | None:
    """The datagram with the mark of the client taken off, which makes it the server's; None for one that is none."""
    if len(datagram) < _SOCKPERF_HEADER_BYTES or not datagram[_SOCKPERF_FLAGS] & _FROM_CLIENT:
        return None
    answered = bytearray(datagram)
    answered[_SOCKPERF_FLAGS] &= ~_FROM_CLIENT
    return bytes(answered)
