"""A helper at the destination of a post-copy: has the source send each page that the guest touches and has not got yet.

It is not the guest, since a thread that waits for a page holds Python's lock, and not the agent, which has other things
to do. Orders: `serve` (with the userfaultfd and the demand channel; its key in hex, the address of the RAM in the
guest), `finish`. It says "done" once nothing is wanted any more after that, with how many pages it put in place.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from unnoticed.agents.helper import Duty, Orders
from unnoticed.agents.kernel import page_loops
from unnoticed.agents.kernel.page_loops import Keyring, Reason, Waiting
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.page_channel import SILENCE_S, PageChannel
from unnoticed.agents.page_wire import FRAME_BYTES, Kind, PageWire
from unnoticed.agents.wire import Role
from unnoticed.clock import now_ns
from unnoticed.errors import MachineError, PeerError

_LOOK_MS = 1000


class Pager:
    """Faults in, pages out."""

    def __init__(self, fd: int, wire: PageWire, *, fault_fd: int, address: int, log_fd: int) -> None:
        """On a channel; `address` is that of the RAM in the guest, `log_fd` of the log of `faults`."""
        self._wire, self._address = wire, address
        self._fds = np.array([fault_fd, fd, -1, log_fd])
        self._waiting, self._keyring = Waiting.none(pages=wire.pages), Keyring.of(wire)
        # The second page is for one, and the end of the first for its frame.
        self._answer = np.frombuffer(mmap.mmap(-1, 2 * PAGE_BYTES), np.uint8)[PAGE_BYTES - FRAME_BYTES :]

    @property
    def placed(self) -> int:
        """How many pages found their place empty."""
        return int(self._waiting.ends[2])

    def attend(self, orders_fd: int, *, is_last: bool) -> bool:
        """Until there is an order (true), or with `is_last` until nothing is waited for.

        Raises MachineError, PeerError: also when a page does not come within SILENCE_S.
        """
        self._fds[2] = orders_fd
        while True:
            reason, number = page_loops.attend(
                self._fds, self._address, self._answer, _LOOK_MS, is_last, self._waiting, self._keyring
            )
            if reason == Reason.SILENCE:
                self._check_patience()
            elif reason in {Reason.DONE, Reason.ORDER}:
                return bool(reason == Reason.ORDER)
            elif reason == Reason.GONE:
                raise MachineError("The guest's process has ended.")
            elif reason == Reason.FRAME:
                self._refuse(number)
            elif reason == Reason.CROWD:
                raise PeerError("More threads of the guest wait for pages than can be served.")
            else:
                raise PeerError(f"The {self._wire.role.peer.value} stopped sending pages: {os.strerror(number)}.")

    def _refuse(self, length: int) -> None:
        """What came is not what was due. Raises PeerError."""
        self._wire.catch_up(self._keyring.counts.tolist(), self._waiting.wanted)
        if 0 < length < len(self._answer):
            raise PeerError(f"The {self._wire.role.peer.value} stopped sending pages in the midst of one.")
        self._wire.receive(self._answer[: min(length, FRAME_BYTES)].tobytes())
        raise PeerError(f"The {self._wire.role.peer.value} sent a frame that is not understood.")

    def _check_patience(self) -> None:
        oldest_ns = self._waiting.oldest_ns
        if oldest_ns is not None and now_ns() - oldest_ns > SILENCE_S * 1e9:
            raise PeerError(f"The source did not send a page that the guest waits for within {SILENCE_S:g} s.")


def serve(orders: Orders, settings: dict[str, Any]) -> None:
    """Serve the guest's faults until told to finish, and every page that is wanted has come."""
    order, (fault_fd, fd) = orders.receive()
    pages, key = settings["memory_bytes"] // PAGE_BYTES, bytes.fromhex(order["key"])
    channel = PageChannel.from_parts(Role.DESTINATION, Kind.DEMAND, fd=fd, key=key, pages=pages)
    pager = Pager(fd, channel.wire, fault_fd=fault_fd, address=order["address"], log_fd=settings["faults_fd"])
    is_last = False
    while pager.attend(orders.fileno(), is_last=is_last):
        orders.receive()
        is_last = True
    orders.say("done", pages=pager.placed)
    orders.receive()


DUTY = Duty(serve, is_urgent=True, make_ready=page_loops.make_ready)
