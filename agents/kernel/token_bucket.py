"""The queueing discipline of one device (include/uapi/linux/pkt_sched.h, gen_stats.h).

A token bucket at a rate of one byte per second is a plug: what comes waits in its one queue, in order, up to a limit
in bytes. Given a rate it will never reach, it lets everything through, what waited first.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from typing import ClassVar

from unnoticed.rtnetlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Rtnetlink,
    attribute,
    attributes,
    dump_request,
    message,
)

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_ROOT = 0xFFFFFFFF  # TC_H_ROOT
_BUCKET_HANDLE = 0x00010000
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2 = 1, 2, 7
_TCA_STATS_QUEUE = 3
_TCA_TBF_PARMS, _TCA_TBF_BURST = 1, 6
_LINKLAYER_ETHERNET = 1  # else the kernel wants a table of rates

_TCMSG = struct.Struct("=BxxxiIII")  # struct tcmsg
_RATE = struct.Struct("=BBHhHI")  # struct tc_ratespec
_QUEUE = struct.Struct("=IIIII")  # struct gnet_stats_queue

OPEN_BYTES_PER_S = 0xFFFF_FFFF
_OPEN_BURST_BYTES = 1 << 30


@dataclass(frozen=True)
class QueueStatistics:
    """What waits in a queue, and what it has ever refused."""

    frames: int
    bytes: int
    drops: int


class TokenBucket:
    """The root queueing discipline of a device, which it replaces: a token bucket, open at first.

    To be made before traffic flows: the kernel drops what passes while a device's root is exchanged.
    """

    # It must take the largest frame whole (64 KiB of payload, and headers counted for each of its segments).
    burst_bytes: ClassVar[int] = 70_500

    def __init__(self, index: int, *, limit_bytes: int) -> None:
        """Put it on the device of this index in the network namespace of the calling thread. Raises OSError."""
        self._index = index
        self._netlink = Rtnetlink()
        root = _TCMSG.pack(0, index, 0, _ROOT, 0)
        with contextlib.suppress(OSError):  # an agent that has died left one, with what it held: there may be none
            self._netlink.request(message(_RTM_DELQDISC, root), what="removing a token bucket")
        self._set(
            rate=OPEN_BYTES_PER_S,
            burst=_OPEN_BURST_BYTES,
            limit_bytes=limit_bytes,
            flags=NLM_F_CREATE | NLM_F_REPLACE,
        )
        self._limit_bytes = limit_bytes
        self._opening = self._message(rate=OPEN_BYTES_PER_S, burst=_OPEN_BURST_BYTES, limit_bytes=limit_bytes)

    def throttle(self, *, limit_bytes: int) -> None:
        """Nothing passes any more once `burst_bytes` have; beyond `limit_bytes` nothing is kept. Raises OSError."""
        self._opening = self._message(rate=OPEN_BYTES_PER_S, burst=_OPEN_BURST_BYTES, limit_bytes=limit_bytes)
        self._set(rate=1, burst=self.burst_bytes, limit_bytes=limit_bytes, flags=0)

    def open(self) -> None:
        """Let everything pass; what waits does with the next frame that comes. Raises OSError."""
        self._netlink.request(self._opening, what="opening a token bucket")

    def statistics(self) -> QueueStatistics:
        """Raises OSError."""
        request = dump_request(_RTM_GETQDISC, _TCMSG.pack(0, self._index, 0, 0, 0))
        for body in self._netlink.dump(request, what="reading a token bucket"):
            _, index, _, parent, _ = _TCMSG.unpack_from(body)
            if (index, parent) != (self._index, _ROOT):
                continue
            for kind, data in attributes(body[_TCMSG.size :]):
                if kind == _TCA_STATS2:
                    queue = next(inner for number, inner in attributes(data) if number == _TCA_STATS_QUEUE)
                    frames, waiting, drops, _, _ = _QUEUE.unpack_from(queue)
                    return QueueStatistics(frames, waiting, drops)
        raise OSError(2, "the device has no token bucket any more")

    def close(self) -> None:
        """Let go of it; it stays on the device, as it is."""
        self._netlink.close()

    def _set(self, *, rate: int, burst: int, limit_bytes: int, flags: int) -> None:
        data = self._message(rate=rate, burst=burst, limit_bytes=limit_bytes, flags=flags)
        self._netlink.request(data, what="setting a token bucket (sch_tbf)")

    def _message(self, *, rate: int, burst: int, limit_bytes: int, flags: int = 0) -> bytes:
        no_peak = bytes(_RATE.size)
        parameters = (
            _RATE.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, rate) + no_peak + struct.pack("=III", limit_bytes, 0, 0)
        )
        options = attribute(_TCA_TBF_PARMS, parameters) + attribute(_TCA_TBF_BURST, struct.pack("=I", burst))
        body = (
            _TCMSG.pack(0, self._index, _BUCKET_HANDLE, _ROOT, 0)
            + attribute(_TCA_KIND, b"tbf\0")
            + attribute(_TCA_OPTIONS, options, nested=True)
        )
        return message(_RTM_NEWQDISC, body, flags=flags)
