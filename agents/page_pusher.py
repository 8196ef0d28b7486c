"""A helper at the source of a post-copy: sends all pages that are owed, those behind a demanded one first.

Orders: `serve` (with the push channel; its key in hex, the most bytes per second), `begin`. It says "done" when all
was sent.
"""

from __future__ import annotations

from typing import Any

from unnoticed.agents.helper import Orders, help_out
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.owed import OwedPages
from unnoticed.agents.pace import Pace
from unnoticed.agents.page_channel import PageChannel
from unnoticed.agents.page_wire import Frame, Kind, Type
from unnoticed.agents.wire import Role
from unnoticed.clock import now_ns
from unnoticed.tcpinfo import read_tcp_info

_LOOK_NS = 2_000_000  # how often the connection is looked at


def push(orders: Orders, settings: dict[str, Any]) -> None:
    """Push until nothing is owed any more."""
    pages = settings["memory_bytes"] // PAGE_BYTES
    owed = OwedPages(settings["owed_fd"], pages=pages)
    order, (fd,) = orders.receive()
    channel = PageChannel.from_parts(Role.SOURCE, Kind.PUSH, fd=fd, key=bytes.fromhex(order["key"]), pages=pages)
    pace = Pace(limit_bytes_per_s=order["rate_bytes_per_s"])
    channel.pace(pace.bytes_per_s)
    orders.receive()  # begin
    ram_fd, pushed, sent_bytes, looked_ns = settings["ram_fd"], 0, 0, 0
    while (window := owed.take()) is not None:
        sent_bytes += channel.send_pages(*window, ram_fd)
        pushed += window[1].bit_count()
        now = now_ns()
        if now - looked_ns >= _LOOK_NS:
            looked_ns = now
            info = read_tcp_info(channel.socket)
            if pace.look(
                now,
                acked_bytes=info.bytes_acked,
                delivery_bytes_per_s=info.delivery_bytes_per_s,
                rtt_us=info.rtt_us,
                min_rtt_us=info.min_rtt_us,
            ):
                channel.pace(pace.bytes_per_s)
    channel.send(Frame(Type.END, total=pushed))
    orders.say("done", pages=pushed, bytes=sent_bytes)
    orders.receive()  # the end: closing now could destroy what is under way


if __name__ == "__main__":
    help_out(push, urgent=False)
