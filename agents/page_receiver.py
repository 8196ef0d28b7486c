"""A helper at the destination of a post-copy: puts in place what the source pushes.

Orders: `serve` (with the userfaultfd and the push channel; its key in hex, the address of the RAM in the guest),
`begin` (the guest runs here: from now on the source must say something). It says "done" when the source has pushed all,
with how many pages found their place empty.
"""

from __future__ import annotations

import ctypes
import mmap
import select
from collections.abc import Sequence
from typing import Any

from unnoticed.agents.helper import Duty, Orders
from unnoticed.agents.kernel import userfaultfd
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.owed import runs_in
from unnoticed.agents.page_channel import PageChannel
from unnoticed.agents.page_wire import MOST_FILL_BYTES, WINDOW_PAGES, Kind, Type
from unnoticed.agents.wire import Role
from unnoticed.errors import MachineError, PeerError


def receive(orders: Orders, settings: dict[str, Any]) -> None:
    """Receive PAGES up to END."""
    order, (fault_fd, fd) = orders.receive()
    pages, address = settings["memory_bytes"] // PAGE_BYTES, order["address"]
    channel = PageChannel.from_parts(Role.DESTINATION, Kind.PUSH, fd=fd, key=bytes.fromhex(order["key"]), pages=pages)
    is_told = False
    buffer = mmap.mmap(-1, max(MOST_FILL_BYTES, WINDOW_PAGES * PAGE_BYTES))
    view, source = memoryview(buffer), ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    placed = received = 0
    while True:
        # As long as the guest runs at the source rounds may take their time. The order is read in any case: from a
        # helper that ends with something unread nothing is heard any more.
        if not is_told:
            is_told = _is_told(orders, select.select([orders.fileno(), fd], [], [])[0])
        frame = channel.receive()
        if frame is None:
            raise PeerError("The source hung up before it had pushed all of the guest's pages.")
        if frame.type == Type.END:
            break
        if frame.type == Type.FILL:
            channel.receive_contents(view[: frame.total])
            continue
        count = frame.mask.bit_count()
        channel.receive_contents(view[: count * PAGE_BYTES])
        received += count
        offset = 0
        for first, run in runs_in(frame.first, frame.mask):
            length = run * PAGE_BYTES
            try:
                placed += userfaultfd.place(
                    fault_fd,
                    to=address + first * PAGE_BYTES,
                    source=source + offset,
                    length=length,
                    page_bytes=PAGE_BYTES,
                )
            except ProcessLookupError:
                raise MachineError("The guest's process has ended.") from None
            offset += length
    orders.say("done", pages=placed, received=received)
    orders.receive()
    channel.close()


def _is_told(orders: Orders, ready: Sequence[int]) -> bool:
    """Take the order to begin, if it is there."""
    if orders.fileno() not in ready:
        return False
    orders.receive()
    return True


DUTY = Duty(receive, is_urgent=False)
