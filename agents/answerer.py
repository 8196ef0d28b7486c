"""A helper at the destination of a migration that holds frames: answers the guest's clients while it runs nowhere.

It is handed copies of what is held, and a socket that sends as if from the guest. Orders: `answer` (with the positions
of the connections in a memfd, and the plug's limit), `stop`; it says "stopped", with how many answers there were. Any
number of times.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Any

from unnoticed.agents.helper import Duty, Orders
from unnoticed.agents.kernel.tcp_repair import Position
from unnoticed.agents.zero_window import ZeroWindow

_LARGEST_FRAME_BYTES = 1 << 17


def answer(orders: Orders, settings: dict[str, Any]) -> None:
    """Obey orders for as long as there is an agent."""
    copies_fd = settings["copies_fd"]
    injector = socket.socket(fileno=settings["injector_fd"])
    while True:
        order, (positions_fd,) = orders.receive()
        positions = Position.unpack_all(os.pread(positions_fd, os.fstat(positions_fd).st_size, 0))
        os.close(positions_fd)
        window = ZeroWindow(positions, limit_bytes=order["limit_bytes"])
        _answer(window, orders.fileno(), copies_fd, injector)
        orders.receive()  # stop
        orders.say("stopped", answers=window.answered)


def _answer(window: ZeroWindow, orders_fd: int, copies_fd: int, injector: socket.socket) -> None:
    """Until there is an order."""
    while True:
        ready, _, _ = select.select([orders_fd, copies_fd], [], [])
        if orders_fd in ready:
            return
        try:
            while True:
                window.take(os.read(copies_fd, _LARGEST_FRAME_BYTES))
        except BlockingIOError:
            pass
        for frame in window.answers():
            injector.send(frame)


DUTY = Duty(answer, is_urgent=True)
