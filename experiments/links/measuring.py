"""Measuring the links of a fabric that is up: numbered frames through each direction, then as many as it takes.

Probe frames are sent at one end of a link, before its queue, and stamped by the kernel on arrival at the other. Rates
are measured one after another, by the receiving interface's count of bytes; what the link loses as asked is added.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from unnoticed.errors import FabricError
from unnoticed.experiments.links.judging import LEAST_PERIOD_NS, Measured, differences, early_below_ns
from unnoticed.probes.frame_sender import ETHERTYPE, NUMBER_AT, SMALL_BYTES, FrameSender
from unnoticed.probes.namespace import inside_network_of
from unnoticed.probes.packet_ring import PACKET_OUTGOING, STATUS_USER, PacketRing
from unnoticed.topology.emulator import LinkWay
from unnoticed.topology.namespaces import read_device

PROBES = 2000
_GRACE_NS = 200_000_000
_SHARE_OF_RATE = 4  # probes take at most this part of a slow link
_SNAP = 64
_BUFFER_BYTES = 1 << 18
_PRIORITY = 10
_RAMP_S, _WINDOW_S = 0.2, 0.6
_RATE_FRAMES = 200  # so many large frames at least, or the window is longer


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One direction of a link: what it is asked to be and by what means, and what was measured.

    `before`: what was measured at first, where that was not as asked.
    """

    way: LinkWay
    measured: Measured
    before: Measured | None = None


def verify(
    ways: Sequence[LinkWay], *, probes: int = PROBES, progress: Callable[[str], None] = lambda _: None
) -> list[Verified]:
    """Measure all ways, and once more those that are not as asked; a fault is what shows again. Raises FabricError.

    Of a hundred losses that are right one lies outside of its bounds, and a machine that stands still harms a rate.
    """
    found = measure(ways, probes=probes, progress=progress)
    wrong = [number for number, one in enumerate(found) if differences(one.way.asked, one.measured)]
    if wrong:
        progress("once more what was not as asked")
        again = measure([ways[number] for number in wrong], probes=probes, progress=progress)
        for number, one in zip(wrong, again, strict=True):
            found[number] = replace(one, before=found[number].measured)
    return found


def measure(
    ways: Sequence[LinkWay],
    *,
    probes: int = PROBES,
    rates: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Verified]:
    """Measure delay, loss and order of all ways at once, then the rate of each that has one. Raises FabricError."""
    progress(f"{probes} frames through each of {len(ways)} directions")
    found = _probe(ways, probes=probes)
    result = []
    for way, measured in zip(ways, found, strict=True):
        rate = None
        if rates and way.asked.rate_bit_per_s is not None:
            progress(f"the rate of {way.name}")
            arrived = measured.sent - measured.lost
            rate = _rate(way) * (measured.sent / arrived if arrived else 1) / (1 + measured.repeated / max(1, arrived))
        result.append(Verified(way=way, measured=replace(measured, rate_bit_per_s=rate)))
    return result


def _probe(ways: Sequence[LinkWay], *, probes: int) -> list[Measured]:
    sent = np.zeros((len(ways), probes), np.int64)
    slowest = min((way.asked.rate_bit_per_s or 1 << 40 for way in ways), default=1)
    period_ns = max(LEAST_PERIOD_NS, SMALL_BYTES * 8 * _SHARE_OF_RATE * 1_000_000_000 // slowest)
    with ExitStack() as at_end:
        rings, senders = [], []
        for way in ways:
            with inside_network_of(way.receiver.pid):
                ring = PacketRing(way.receiver.interface, slots=4 * probes + 1000, snap=_SNAP)
            at_end.callback(ring.close)
            rings.append(ring)
            with inside_network_of(way.sender.pid):
                sender = FrameSender(way.sender.interface, buffer_bytes=_BUFFER_BYTES)
            at_end.callback(sender.close)
            senders.append(sender)
        due = time.monotonic_ns()
        for number in range(probes):
            due += period_ns
            while (wait := due - time.monotonic_ns()) > 0:
                time.sleep(wait / 1e9)
            for row, sender in enumerate(senders):
                sent[row, number] = time.clock_gettime_ns(time.CLOCK_REALTIME)
                sender.send(number)
        longest = max((way.asked.delay_ns + way.asked.jitter_ns for way in ways), default=0)
        time.sleep((longest + _GRACE_NS) / 1e9)
        found = []
        for way, ring, times in zip(ways, rings, sent, strict=True):
            _, drops = ring.statistics()
            if drops:
                raise FabricError(f"{drops} frames at {way.receiver.interface} were missed: nothing was measured.")
            found.append(account(*_arrivals(ring), sent_ns=times, early_below_ns=early_below_ns(way.asked)))
        return found


def _arrivals(ring: PacketRing) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers and arrival times of our frames, in order of arrival."""
    headers, slots = ring.headers, ring.slots
    taken = int(np.argmax(np.append(headers["status"] & STATUS_USER == 0, True)))
    headers, slots = headers[:taken], slots[:taken]
    rows, start = np.arange(taken), headers["mac"].astype(np.int64)
    kind = slots[rows, start + 12].astype(np.int64) << 8 | slots[rows, start + 13]
    ours = np.flatnonzero((kind == ETHERTYPE) & (headers["pkttype"] != PACKET_OUTGOING))
    at = start[ours, None] + NUMBER_AT + np.arange(8)
    numbers = np.ascontiguousarray(slots[ours[:, None], at]).view(np.int64).reshape(-1)
    times = headers["sec"][ours].astype(np.int64) * 1_000_000_000 + headers["nsec"][ours]
    return numbers, times


def account(
    numbers: npt.NDArray[np.int64],
    arrived_ns: npt.NDArray[np.int64],
    *,
    sent_ns: npt.NDArray[np.int64],
    early_below_ns: int = 0,
) -> Measured:
    """What became of frames 0, 1, ... that were sent at `sent_ns`: those that arrived, in order of arrival."""
    _, first = np.unique(numbers, return_index=True)
    once = np.sort(first)  # each frame's first arrival, in order
    took = np.sort(arrived_ns[once] - sent_ns[numbers[once]])
    early = int(np.searchsorted(took, early_below_ns)) if early_below_ns else 0
    took = took[early:]
    overtaken = int((numbers[once] < np.maximum.accumulate(numbers[once])).sum()) if len(once) else 0
    return Measured(
        sent=len(sent_ns),
        lost=len(sent_ns) - len(once),
        repeated=len(numbers) - len(once),
        overtaken=overtaken,
        early=early,
        delay_ns=int(np.median(took)) if len(took) else None,
        least_ns=int(took[0]) if len(took) else None,
        most_ns=int(took[int(0.99 * (len(took) - 1))]) if len(took) else None,
    )


def _rate(way: LinkWay) -> float:
    """The rate at which large frames arrive, in bit/s, while there are always some to send."""
    asked = way.asked.rate_bit_per_s or 0
    shaping = way.asked.shaping
    assert shaping is not None
    with inside_network_of(way.sender.pid):  # as much as the queue holds: nothing overflows, and it never runs dry
        sender = FrameSender(way.sender.interface, buffer_bytes=shaping.limit_bytes)
    stop = threading.Event()

    def flood() -> None:
        with suppress(OSError):  # without the privilege it is only more easily disturbed
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))  # of this thread alone
        while not stop.is_set():
            sender.flood()

    thread = threading.Thread(target=flood, name="flood", daemon=True)
    thread.start()
    try:
        time.sleep(_RAMP_S + way.asked.delay_ns / 1e9 + shaping.burst_bytes * 8 / asked)
        window_s = max(_WINDOW_S, _RATE_FRAMES * 1514 * 8 / asked)
        begin, before = time.monotonic_ns(), _received_bytes(way)
        time.sleep(window_s)
        end, after = time.monotonic_ns(), _received_bytes(way)
    finally:
        stop.set()
        thread.join()
        sender.close()
    time.sleep((way.asked.queue_ns + way.asked.delay_ns) / 1e9)  # let what was sent pass, before others are measured
    return (after - before) * 8e9 / (end - begin)


def _received_bytes(way: LinkWay) -> int:
    return int(read_device(way.receiver.pid, way.receiver.interface, "statistics/rx_bytes"))
