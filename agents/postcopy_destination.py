"""The destination's part of a post-copy: two helpers that put the guest's pages in place while it runs already."""

from __future__ import annotations

import os
import select
import socket
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unnoticed.agents import faults
from unnoticed.agents.helper import Helper, Nursery
from unnoticed.agents.kernel import userfaultfd
from unnoticed.agents.kernel.idle_latency import Awake
from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.page_channel import PageChannel
from unnoticed.agents.page_wire import FRAME_BYTES, Frame, Kind, PageWire, Type, channel_key
from unnoticed.agents.wire import Role
from unnoticed.errors import MigrationError, PeerError
from unnoticed.events import EventLog
from unnoticed.patience import patient

_JOIN_S = patient(10.0)
_FAULTS_PER_EVENT = 1000
_MOST_VISITORS = 64  # who knock while the source's two channels are waited for
_PIECEMEAL_S = 0.001  # between two looks at somebody who has said half a frame
_HELPERS = {Kind.DEMAND: "pager", Kind.PUSH: "page_receiver"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrived:
    """What became of the pages that were owed. `faults`: shape (n, 2), start and latency in ns."""

    pushed_pages: int
    demanded_pages: int
    twice_pages: int
    faults: npt.NDArray[np.uint64]

    def report(self, events: EventLog, *, migration: int, time_ns: int) -> None:
        """Log what came, and each page that was waited for. `time_ns`: when the last page was in place."""
        events.write(
            "pages",
            time_ns=time_ns,
            migration=migration,
            pushed_pages=self.pushed_pages,
            demanded_pages=self.demanded_pages,
            twice_pages=self.twice_pages,
        )
        for start in range(0, len(self.faults), _FAULTS_PER_EVENT):
            part = self.faults[start : start + _FAULTS_PER_EVENT]
            events.write("faults", migration=migration, start_ns=part[:, 0].tolist(), latency_ns=part[:, 1].tolist())


class PageArrival:
    """Receives the pages of one guest's RAM."""

    def __init__(self, nursery: Nursery, *, memory_bytes: int) -> None:
        """Start the helpers, for a RAM of this size."""
        self._memory_bytes = memory_bytes
        self._log_fd = faults.create_log()
        self._helpers: dict[Kind, Helper] = {}
        self._channels: dict[Kind, PageChannel] = {}
        self._fault_fd: int | None = None
        self._address = 0
        self._awake = Awake()  # while the guest waits for pages
        try:
            for kind, module in _HELPERS.items():
                fds = {"faults_fd": self._log_fd}
                self._helpers[kind] = Helper(nursery, module, fds=fds, memory_bytes=memory_bytes)
        except BaseException:
            self.close()
            raise

    def join(self, listener: socket.socket, *, session_key: bytes) -> None:
        """Accept the source's two channels. Raises PeerError."""
        self._channels = accept_channels(listener, session_key=session_key, pages=self._memory_bytes // PAGE_BYTES)

    def prepare(self, *, fault_fd: int, address: int, session_key: bytes) -> None:
        """Have the guest wait for pages that are missing, and the helpers stand by.

        `fault_fd` is a userfaultfd of the guest's process, which has mapped the RAM at `address`. Raises OSError,
        PeerError, MigrationError.
        """
        userfaultfd.register_missing(fault_fd, start=address, length=self._memory_bytes)
        self._fault_fd, self._address = fault_fd, address
        for kind, channel in self._channels.items():
            helper = self._helpers[kind]
            fds = [fault_fd, channel.socket.fileno()]
            helper.tell("serve", fds=fds, key=channel_key(session_key, kind).hex(), address=address)
            channel.send(Frame(Type.JOINED))

    def wait(self, guest: int, *, owed_pages: int) -> Arrived:
        """Until all pages that were owed are in place. `guest`: a descriptor that is readable when its process ended.

        Raises MigrationError, PeerError: pages are lost then, and the guest with them.
        """
        poller = select.poll()
        pager, receiver = self._helpers[Kind.DEMAND], self._helpers[Kind.PUSH]
        receiver.tell("begin")
        self._awake.begin()
        for fd in (guest, pager.fileno(), receiver.fileno()):
            poller.register(fd, select.POLLIN)
        pushed: dict[str, int] | None = None
        while True:
            for fd, _ in poller.poll():
                if fd == guest:
                    raise MigrationError("The guest's process has ended.")
                if fd == receiver.fileno():
                    pushed = receiver.expect("done")
                    poller.unregister(fd)
                    pager.tell("finish")
                elif fd == pager.fileno():
                    demanded = pager.expect("done")
                    return self._account(pushed, demanded, owed_pages)

    def _account(self, pushed: dict[str, int] | None, demanded: dict[str, int], owed_pages: int) -> Arrived:
        assert pushed is not None, "the pager is told to finish after that"
        found = faults.read_log(self._log_fd)
        if pushed["pages"] + demanded["pages"] != owed_pages:
            raise MigrationError(
                f"Of {owed_pages} pages that were owed, {pushed['pages']} were pushed and {demanded['pages']} sent on "
                f"demand: the rest is nowhere."
            )
        return Arrived(
            pushed_pages=pushed["pages"],
            demanded_pages=demanded["pages"],
            twice_pages=pushed["received"] - pushed["pages"] + len(found) - demanded["pages"],
            faults=found,
        )

    def finish(self) -> None:
        """All pages are there: the guest waits for none any more."""
        assert self._fault_fd is not None
        userfaultfd.unregister(self._fault_fd, start=self._address, length=self._memory_bytes)
        self.close()

    def close(self) -> None:
        """End the helpers and close the channels. A guest that has not got all its pages must have ended before."""
        self._awake.end()
        for helper in self._helpers.values():
            helper.close()
        for channel in self._channels.values():
            channel.close()
        os.close(self._log_fd)


def accept_channels(listener: socket.socket, *, session_key: bytes, pages: int) -> dict[Kind, PageChannel]:
    """The two page channels of a migration, as the source opens them. Whoever else knocks meanwhile is sent away.

    Raises PeerError when the source does not open both in time.
    """
    channels: dict[Kind, PageChannel] = {}
    deadline = time.monotonic() + _JOIN_S
    waiting: list[socket.socket] = []
    visitors = 0
    try:
        while len(channels) < len(Kind):
            left = deadline - time.monotonic()
            if left <= 0 or visitors > _MOST_VISITORS:
                raise PeerError(f"The source did not open its page channels within {_JOIN_S:g} s.")
            for ready in select.select([listener, *waiting], [], [], left)[0]:
                if ready is listener:
                    waiting.append(listener.accept()[0])
                    visitors += 1
                elif _has_said_enough(ready):
                    waiting.remove(ready)
                    channel = _introduced(ready, session_key, pages, set(Kind) - set(channels))
                    if channel is None:
                        ready.close()
                    else:
                        channels[channel[0]] = channel[1]
                else:
                    time.sleep(_PIECEMEAL_S)
    except BaseException:
        for opened in channels.values():
            opened.close()
        raise
    finally:
        for stranger in waiting:
            stranger.close()
    return channels


def _has_said_enough(connection: socket.socket) -> bool:
    """Whether a whole frame can be read, or no more will come."""
    try:
        return len(connection.recv(FRAME_BYTES, socket.MSG_PEEK)) in {0, FRAME_BYTES}
    except OSError:
        return True


def _introduced(
    connection: socket.socket, session_key: bytes, pages: int, missing: set[Kind]
) -> tuple[Kind, PageChannel] | None:
    """The channel that a connection is, if its first frame proves it to be one that is missing."""
    try:
        data = connection.recv(FRAME_BYTES)
    except OSError:
        return None
    for kind in missing:
        wire = PageWire(Role.DESTINATION, kind, key=channel_key(session_key, kind), pages=pages)
        try:
            wire.receive(data)
        except PeerError:
            continue
        return kind, PageChannel(connection, wire, kind)
    return None
