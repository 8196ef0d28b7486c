"""Whether every place that talks to another can: ICMP echoes between all of them at once, from this one process.

It also fills what a network that has been running for a while has filled: the neighbour tables of the places and the
tables of the switches.
"""

from __future__ import annotations

import functools
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping, Sequence

from unnoticed.checksum import checksum
from unnoticed.endpoints import family_of
from unnoticed.errors import FabricError
from unnoticed.topology.namespaces import run_inside

_ECHO = struct.Struct(">BBHHH")  # type, code, checksum, identifier, sequence (RFC 792, RFC 4443)
_ECHO_REQUEST: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY: dict[int, int] = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL: dict[int, int] = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_REPEAT_S = 0.25
_PAIRS_NAMED = 8
_WINDOW = 16  # first echoes need ARP or NDP, whose every request goes to every port: all at once overflow the queues


def echo_request(identifier: int, sequence: int, family: int = socket.AF_INET) -> bytes:
    """An echo request without payload; the kernel puts in ICMPv6's checksum, which covers addresses."""
    unsummed = _ECHO.pack(_ECHO_REQUEST[family], 0, 0, identifier, sequence)
    if family == socket.AF_INET6:
        return unsummed
    return _ECHO.pack(_ECHO_REQUEST[family], 0, checksum(unsummed), identifier, sequence)


def answered_sequence(packet: bytes, identifier: int, family: int = socket.AF_INET) -> int | None:
    """The sequence number that a packet answers, or None if it is no answer to `identifier`.

    As raw sockets give it: of IPv4 with the IP header, of IPv6 without (raw(7), RFC 3542).
    """
    header = (packet[0] & 0x0F) * 4 if packet and family == socket.AF_INET else 0
    if len(packet) < header + _ECHO.size:
        return None
    kind: int
    answered: int
    sequence: int
    kind, _, _, answered, sequence = _ECHO.unpack_from(packet, header)
    return sequence if kind == _ECHO_REPLY[family] and answered == identifier else None


def check_reachability(
    pids: Mapping[str, int], addresses: Mapping[str, str], pairs: Sequence[tuple[str, str]], *, timeout_s: float = 5.0
) -> float:
    """Send an echo over each pair (from, to) and wait for all answers. Returns how long that took, in seconds.

    `pids` and `addresses`, which are all of one family, are by name of place. Raises FabricError naming the pairs
    without an answer.
    """
    senders = sorted({sender for sender, _ in pairs})
    family = family_of(next(iter(addresses.values())))
    opened = run_inside([(pids[sender], functools.partial(_icmp_socket, family)) for sender in senders])
    sockets = dict(zip(senders, opened, strict=True))
    try:
        return _exchange(sockets, addresses, pairs, timeout_s=timeout_s)
    finally:
        for each in opened:
            each.close()


def _icmp_socket(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _PROTOCOL[family])


def _exchange(
    sockets: Mapping[str, socket.socket],
    addresses: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    *,
    timeout_s: float,
) -> float:
    identifier = os.getpid() & 0xFFFF
    poll = select.poll()
    for each in sockets.values():
        poll.register(each, select.POLLIN)
    by_descriptor = {each.fileno(): each for each in sockets.values()}
    waiting = deque(enumerate(pairs))
    sent: dict[int, tuple[str, str]] = {}
    start = time.monotonic()
    repeat_at = start
    while waiting or sent:
        if time.monotonic() > start + timeout_s:
            raise FabricError(_sentence([*sent.values(), *(pair for _, pair in waiting)], timeout_s=timeout_s))
        fresh = [waiting.popleft() for _ in range(min(_WINDOW - len(sent), len(waiting)))]
        sent.update(fresh)
        repeat = time.monotonic() >= repeat_at
        if repeat:
            repeat_at = time.monotonic() + _REPEAT_S
        for sequence, (sender, receiver) in sent.items() if repeat else fresh:
            to = sockets[sender]
            to.sendto(echo_request(identifier, sequence, to.family), (addresses[receiver], 0))
        for descriptor, _ in poll.poll(max(0.0, repeat_at - time.monotonic()) * 1000):
            answering = by_descriptor[descriptor]
            answered = answered_sequence(answering.recv(2048), identifier, answering.family)
            if answered is not None:
                sent.pop(answered, None)
    return time.monotonic() - start


def _sentence(silent: Sequence[tuple[str, str]], *, timeout_s: float) -> str:
    named = ", ".join(f"{receiver} from {sender}" for sender, receiver in silent[:_PAIRS_NAMED])
    more = f" and {len(silent) - _PAIRS_NAMED} more" if len(silent) > _PAIRS_NAMED else ""
    return f"The fabric is up, but within {timeout_s:g} s nothing reached {named}{more}."
