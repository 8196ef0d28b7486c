"""A helper at the source of a post-copy: sends the pages that the guest, which runs at the destination, waits for.

Orders: `serve` (with the demand channel; its key in hex). It says "done" when the destination hangs up.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from unnoticed.agents.helper import Orders, help_out
from unnoticed.agents.kernel import page_loops
from unnoticed.agents.kernel.page_loops import Keyring, Reason
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.owed import OwedPages
from unnoticed.agents.page_channel import PageChannel
from unnoticed.agents.page_wire import Kind, PageWire
from unnoticed.agents.wire import Role
from unnoticed.errors import PeerError


class PageServer:
    """Answers each WANT with its page."""

    def __init__(self, owed: OwedPages, *, ram_fd: int) -> None:
        self._flags, self._pivot = owed.views()
        self._ram_fd = ram_fd
        self._answer = np.zeros(page_loops.ANSWER_WORDS, np.uint64)

    def serve(self, fd: int, wire: PageWire) -> int:
        """On a channel, until the peer hangs up; how many pages were sent. Raises PeerError."""
        keyring = Keyring.of(wire)
        reason, number = page_loops.serve(fd, self._ram_fd, self._flags, self._pivot, self._answer, keyring)
        wire.catch_up(keyring.counts.tolist(), ())
        if reason == Reason.FRAME:
            wire.receive(self._answer.tobytes()[:number])
        if reason != Reason.DONE:
            raise PeerError(f"The {wire.role.peer.value} stopped taking pages: {os.strerror(number)}.")
        return wire.counts[1] - 1


def serve(orders: Orders, settings: dict[str, Any]) -> None:
    """Serve one channel."""
    pages = settings["memory_bytes"] // PAGE_BYTES
    server = PageServer(OwedPages(settings["owed_fd"], pages=pages), ram_fd=settings["ram_fd"])
    order, (fd,) = orders.receive()
    key = bytes.fromhex(order["key"])
    channel = PageChannel.from_parts(Role.SOURCE, Kind.DEMAND, fd=fd, key=key, pages=pages, is_patient=True)
    orders.say("done", pages=server.serve(channel.socket.fileno(), channel.wire))


if __name__ == "__main__":
    help_out(serve, urgent=True, make_ready=page_loops.make_ready)
