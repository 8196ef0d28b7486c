"""A helper at the source of a post-copy: sends the pages that the guest, which runs at the destination, waits for.

Orders: `serve` (with the demand channel; its key in hex). It says "done" when the destination hangs up.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from unnoticed.agents.helper import Duty, Orders
from unnoticed.agents.kernel import page_loops
from unnoticed.agents.kernel.page_loops import Keyring, Reason
from unnoticed.agents.owed import OwedPages
from unnoticed.agents.page_channel import PageChannel
from unnoticed.agents.page_wire import FRAME_BYTES, Kind, PageWire
from unnoticed.agents.ram import Ram
from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError


class PageServer:
    """Answers each WANT with its page."""

    def __init__(self, owed: OwedPages, ram: Ram) -> None:
        self._owed, self._demand = owed.views()
        self._ram = ram
        self._frame = np.zeros(FRAME_BYTES // 8, np.uint64)

    def serve(self, fd: int, wire: PageWire) -> int:
        """On a channel, until the peer hangs up; how many pages were sent. Raises PeerError."""
        keyring = Keyring.of(wire)
        reason, number = page_loops.serve(fd, self._ram.address, self._owed, self._demand, self._frame, keyring)
        wire.catch_up(keyring.counts.tolist(), ())
        if reason == Reason.FRAME:
            wire.receive(self._frame.tobytes()[:number])
        if reason != Reason.DONE:
            raise PeerError(f"The {wire.role.peer.value} stopped taking pages: {os.strerror(number)}.")
        return wire.counts[1] - 1


def serve(orders: Orders, settings: dict[str, Any]) -> None:
    """Serve one channel."""
    ram = Ram(settings["ram_fd"], memory_bytes=settings["memory_bytes"], populate=False)  # that would take too long now
    server = PageServer(OwedPages(settings["owed_fd"], pages=ram.pages), ram)
    order, (fd,) = orders.receive()
    key = bytes.fromhex(order["key"])
    channel = PageChannel.from_parts(Role.SOURCE, Kind.DEMAND, fd=fd, key=key, pages=ram.pages, is_patient=True)
    orders.say("done", pages=server.serve(channel.socket.fileno(), channel.wire))


DUTY = Duty(serve, is_urgent=True, make_ready=page_loops.make_ready)
