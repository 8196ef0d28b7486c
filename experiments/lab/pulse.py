"""The pulse: a few probes per second from each client to the guest, for the eye; the trial's own prober measures.

A thread sends numbered datagrams at a fixed rate and keeps when each was answered, by the kernel's stamp. What a reader
asks for is computed from the last seconds of it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from unnoticed.clock import now_ns, realtime_offset_ns
from unnoticed.probes.stamped_datagrams import receive_stamped

PERIOD_S = 0.005
_KEPT = 12_000  # probes of each client: a minute
_PAYLOAD = 32  # bytes; as short a frame as the prober's


@dataclass(slots=True)
class Beat:
    """One probe. `answered_ns` is 0 as long as no answer has come."""

    sent_ns: int
    answered_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Felt:
    """What one client felt within a span of time."""

    sent: int
    answered: int
    median_ns: int | None  # time to the answer, of those that were answered
    slowest_ns: int | None
    longest_silence_ns: int  # the longest time for which no answer came to what was asked


class Pulse:
    """Probes from all clients, from `start` to `stop`. The sockets are owned from now on."""

    def __init__(self, sockets: Mapping[str, socket.socket]) -> None:
        """`sockets`: for each client a socket of `open_stamped` in its namespace, connected to the guest's echo."""
        self._sockets = dict(sockets)
        self._beats: dict[str, deque[Beat]] = {client: deque(maxlen=_KEPT) for client in sockets}
        self._by_number: dict[str, dict[int, Beat]] = {client: {} for client in sockets}
        self._buffer = bytearray(_PAYLOAD)
        self._realtime_offset_ns = realtime_offset_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    @property
    def clients(self) -> tuple[str, ...]:
        return tuple(self._sockets)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the sockets."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for one in self._sockets.values():
            one.close()

    def beats(self, client: str, *, from_ns: int, to_ns: int) -> list[Beat]:
        """The probes that a client sent within [from_ns, to_ns), in order."""
        return [beat for beat in tuple(self._beats[client]) if from_ns <= beat.sent_ns < to_ns]

    def _run(self) -> None:
        poll = select.poll()
        by_descriptor = {one.fileno(): client for client, one in self._sockets.items()}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            left_s = due - time.monotonic()
            if left_s <= 0:
                self._send(number)
                number += 1
                due = max(due + PERIOD_S, time.monotonic() - PERIOD_S)
                continue
            for descriptor, _ in poll.poll(left_s * 1000):
                self._receive(by_descriptor[descriptor])

    def _send(self, number: int) -> None:
        payload = number.to_bytes(8, "big") + bytes(_PAYLOAD - 8)
        for client, one in self._sockets.items():
            beat, waiting = Beat(now_ns()), self._by_number[client]
            with contextlib.suppress(OSError):  # a link that is down: the probe is lost
                one.send(payload)
            self._beats[client].append(beat)
            waiting[number] = beat
            waiting.pop(number - _KEPT, None)

    def _receive(self, client: str) -> None:
        with contextlib.suppress(OSError):  # nothing more, or an ICMP error said of one that was sent
            while True:
                _, arrived_ns = receive_stamped(self._sockets[client], self._buffer)
                beat = self._by_number[client].pop(int.from_bytes(self._buffer[:8], "big"), None)
                if beat is not None:
                    beat.answered_ns = arrived_ns - self._realtime_offset_ns


def felt(beats: list[Beat], *, to_ns: int) -> Felt:
    """What the probes sent until `to_ns` tell. A silence that has not ended by then lasts until then."""
    took = sorted(beat.answered_ns - beat.sent_ns for beat in beats if beat.answered_ns)
    return Felt(
        sent=len(beats),
        answered=len(took),
        median_ns=took[len(took) // 2] if took else None,
        slowest_ns=took[-1] if took else None,
        longest_silence_ns=_longest_silence_ns(beats, to_ns=to_ns),
    )


def _longest_silence_ns(beats: list[Beat], *, to_ns: int) -> int:
    """From the first probe sent after an answer to the next answer: that nothing was asked is no silence."""
    longest, asked_ns = 0, 0
    moments = [(beat.sent_ns, False) for beat in beats]
    moments += [(beat.answered_ns, True) for beat in beats if beat.answered_ns]
    for moment, is_answer in [*sorted(moments), (to_ns, True)]:
        if is_answer and asked_ns:
            longest, asked_ns = max(longest, moment - asked_ns), 0
        elif not is_answer and not asked_ns:
            asked_ns = moment
    return longest
