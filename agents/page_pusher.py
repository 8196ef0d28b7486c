"""A helper at the source of a post-copy: sends all pages that are owed, those behind a demanded one first.

Orders: `serve` (with the push channel; its key in hex, the most bytes per second), `begin`. It says "paced" when it has
found out what the path takes, and "done" when all was sent.
"""

from __future__ import annotations

import time
from typing import Any

from unnoticed.agents.helper import Duty, Orders
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.owed import OwedPages
from unnoticed.agents.pace import Pace
from unnoticed.agents.page_channel import PageChannel
from unnoticed.agents.page_wire import FRAME_BYTES, Frame, Kind, Type
from unnoticed.agents.wire import Role
from unnoticed.clock import now_ns
from unnoticed.tcpinfo import read_tcp_info

_LOOK_NS = 2_000_000  # how often the connection is looked at
_MOST_FILL_BYTES, _LEAST_FILL_BYTES = 1 << 16, 1 << 10  # at once
_PROBE_NS = 300_000_000  # at most: on a path that takes longer the push finds its pace as it goes on
_DRAIN_NS = 200_000_000  # at most, until what the path was filled with has gone
_PAGE_BYTES = FRAME_BYTES + PAGE_BYTES


class _PacedChannel:
    """The push channel, kept at its pace."""

    def __init__(self, channel: PageChannel, owed: OwedPages, *, limit_bytes_per_s: int) -> None:
        self.channel = channel
        self._owed = owed
        self.pace = Pace(limit_bytes_per_s=limit_bytes_per_s)
        self._looked_ns = 0
        self.sent_bytes = 0
        channel.pace(self.pace.bytes_per_s)

    def note(self, sent_bytes: int) -> None:
        """So much was sent; take a look now and then."""
        self.sent_bytes += sent_bytes
        now = now_ns()
        if now - self._looked_ns < _LOOK_NS:
            return
        self._looked_ns = now
        info = read_tcp_info(self.channel.socket)
        if self.pace.look(
            now,
            acked_bytes=info.bytes_acked,
            demanded_bytes=self._owed.demanded * _PAGE_BYTES,
            delivery_bytes_per_s=info.delivery_bytes_per_s,
            rtt_us=info.rtt_us,
            min_rtt_us=info.min_rtt_us,
            is_starting=info.is_starting,
        ):
            self.channel.pace(self.pace.bytes_per_s)

    def begin(self) -> None:
        """The guest has gone, and may wait for pages."""
        self.pace.begin(now_ns())
        self.channel.pace(self.pace.bytes_per_s)

    def probe(self) -> None:
        """Find out what the path takes, and leave nothing on it."""
        begun_ns = now_ns()
        while not self.pace.is_found and now_ns() - begun_ns < _PROBE_NS:
            length = self.pace.bytes_per_s * _LOOK_NS // 10**9
            self.note(self.channel.fill(min(max(length, _LEAST_FILL_BYTES), _MOST_FILL_BYTES)))
        begun_ns = now_ns()
        while self.channel.unacknowledged and now_ns() - begun_ns < _DRAIN_NS:
            time.sleep(_LOOK_NS / 1e9)


def push(orders: Orders, settings: dict[str, Any]) -> None:
    """Push until nothing is owed any more."""
    owed = OwedPages(settings["owed_fd"], pages=settings["memory_bytes"] // PAGE_BYTES)
    order, (fd,) = orders.receive()
    key = bytes.fromhex(order["key"])
    channel = PageChannel.from_parts(Role.SOURCE, Kind.PUSH, fd=fd, key=key, pages=owed.pages)
    paced = _PacedChannel(channel, owed, limit_bytes_per_s=order["rate_bytes_per_s"])
    paced.probe()
    orders.say("paced")
    orders.receive()  # begin
    paced.begin()
    pushed = 0
    while (window := owed.take()) is not None:
        paced.note(channel.send_pages(*window, settings["ram_fd"]))
        pushed += window[1].bit_count()
    channel.send(Frame(Type.END, total=pushed))
    orders.say("done", pages=pushed, bytes=paced.sent_bytes)
    orders.receive()  # the end: closing now could destroy what is under way


DUTY = Duty(push, is_urgent=False)
