"""A helper at the destination of a post-copy: has the source send each page that the guest touches and has not got yet.

It is not the guest, since a thread that waits for a page holds Python's lock, and not the agent, which has other things
to do. Orders: `serve` (with the userfaultfd and the demand channel; its key in hex, the address of the RAM in the
guest), `finish`. It says "done" once nothing is wanted any more after that, with how many pages it put in place.
"""

from __future__ import annotations

import ctypes
import mmap
import select
from typing import Any

from unnoticed.agents.faults import FaultLog
from unnoticed.agents.helper import Orders, help_out
from unnoticed.agents.kernel import userfaultfd
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.page_channel import SILENCE_S, PageChannel
from unnoticed.agents.page_wire import FRAME_BYTES, Frame, Kind, Type
from unnoticed.agents.wire import Role
from unnoticed.clock import now_ns
from unnoticed.errors import MachineError, PeerError

_LOOK_MS = 1000


class Pager:
    """Faults in, pages out."""

    def __init__(self, channel: PageChannel, *, fault_fd: int, address: int, log: FaultLog) -> None:
        self._channel, self._fault_fd, self._address, self._log = channel, fault_fd, address, log
        self._since_ns: dict[int, int] = {}  # page to when it was found to be waited for
        buffer = mmap.mmap(-1, 2 * PAGE_BYTES)  # the second page is for one, and the end of the first for its frame
        self._answer = memoryview(buffer)[PAGE_BYTES - FRAME_BYTES :]
        self._source = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) + PAGE_BYTES
        self.placed = 0

    @property
    def is_idle(self) -> bool:
        return not self._since_ns

    def want(self) -> None:
        """Ask for each page that is waited for, once."""
        for fault in userfaultfd.read_faults(self._fault_fd):
            page = (fault - self._address) // PAGE_BYTES
            if page not in self._since_ns:
                self._since_ns[page] = now_ns()
                self._channel.send(Frame(Type.WANT, page))

    def put(self) -> None:
        """Receive a page and put it in place. Raises PeerError."""
        frame = self._channel.receive_page(self._answer)
        self.placed += userfaultfd.place(
            self._fault_fd,
            to=self._address + frame.first * PAGE_BYTES,
            source=self._source,
            length=PAGE_BYTES,
            page_bytes=PAGE_BYTES,
        )
        since_ns = self._since_ns.pop(frame.first)
        self._log.add(since_ns, now_ns() - since_ns)

    def check_patience(self) -> None:
        """Raises PeerError when a page has been waited for too long."""
        oldest_ns = min(self._since_ns.values(), default=None)
        if oldest_ns is not None and now_ns() - oldest_ns > SILENCE_S * 1e9:
            raise PeerError(f"The source did not send a page that the guest waits for within {SILENCE_S:g} s.")


def serve(orders: Orders, settings: dict[str, Any]) -> None:
    """Serve the guest's faults until told to finish, and every page that is wanted has come."""
    order, (fault_fd, fd) = orders.receive()
    pages = settings["memory_bytes"] // PAGE_BYTES
    channel = PageChannel.from_parts(Role.DESTINATION, Kind.DEMAND, fd=fd, key=bytes.fromhex(order["key"]), pages=pages)
    pager = Pager(channel, fault_fd=fault_fd, address=order["address"], log=FaultLog(settings["faults_fd"]))
    poller = select.poll()
    for each in (fault_fd, fd, orders.fileno()):
        poller.register(each, select.POLLIN)
    is_last = False
    while not (is_last and pager.is_idle):
        ready = {number for number, _ in poller.poll(_LOOK_MS)}
        try:
            if fault_fd in ready:
                pager.want()
            if fd in ready:
                pager.put()
        except ProcessLookupError:
            raise MachineError("The guest's process has ended.") from None
        if orders.fileno() in ready:
            orders.receive()
            is_last = True
        if not ready:
            pager.check_patience()
    orders.say("done", pages=pager.placed)
    orders.receive()


if __name__ == "__main__":
    help_out(serve, urgent=True)
