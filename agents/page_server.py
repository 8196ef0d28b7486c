"""A helper at the source of a post-copy: sends the pages that the guest, which runs at the destination, waits for.

Orders: `serve` (with the demand channel; its key in hex). It says "done" when the destination hangs up.
"""

from __future__ import annotations

from typing import Any

from unnoticed.agents.helper import Orders, help_out
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.owed import OwedPages
from unnoticed.agents.page_channel import PageChannel
from unnoticed.agents.page_wire import Kind
from unnoticed.agents.wire import Role


def serve(orders: Orders, settings: dict[str, Any]) -> None:
    """Answer each WANT with its page."""
    pages = settings["memory_bytes"] // PAGE_BYTES
    owed = OwedPages(settings["owed_fd"], pages=pages)
    order, (fd,) = orders.receive()
    channel = PageChannel.from_parts(
        Role.SOURCE, Kind.DEMAND, fd=fd, key=bytes.fromhex(order["key"]), pages=pages, is_patient=True
    )
    ram_fd = settings["ram_fd"]
    served = 0
    while (frame := channel.receive()) is not None:
        owed.demand(frame.first)
        channel.send_page(frame.first, ram_fd)
        served += 1
    orders.say("done", pages=served)


if __name__ == "__main__":
    help_out(serve, urgent=True)
