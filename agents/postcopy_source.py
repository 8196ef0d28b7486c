"""The source's part of a post-copy: two helpers that send the guest's pages after it, until the destination has all."""

from __future__ import annotations

import select
import socket

import numpy as np

from unnoticed.agents import wire
from unnoticed.agents.channel import Channel
from unnoticed.agents.helper import Helper, Nursery
from unnoticed.agents.kernel.idle_latency import Awake
from unnoticed.agents.kernel.pagemap import PAGE_BYTES, Runs
from unnoticed.agents.kernel.short_bursts import ShortBursts
from unnoticed.agents.owed import OwedPages
from unnoticed.agents.page_channel import SILENCE_S, PageChannel
from unnoticed.agents.page_runs import cut, pages_in, runs_of, single_pages
from unnoticed.agents.page_sender import PageSender
from unnoticed.agents.page_wire import FRAME_BYTES, Frame, Kind, PageWire, Type, channel_key
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, Ram
from unnoticed.errors import MigrationError, PeerError
from unnoticed.patience import patient

_CONNECT_S = patient(5.0)
_VERDICT_S = 2 * SILENCE_S  # the destination gives up earlier than that, and says so
_HELPERS = {Kind.DEMAND: "page_server", Kind.PUSH: "page_pusher"}


class PageService:
    """Serves the pages of one guest's RAM, which must not change from `begin` on.

    The RAM's head (superblock and slots) is never owed: the destination needs it before the guest resumes.
    """

    def __init__(self, nursery: Nursery, ram: Ram, *, rate_bytes_per_s: int = 0) -> None:
        """Start the helpers. `rate_bytes_per_s`: push no faster; 0: as fast as the path takes."""
        self._rate = rate_bytes_per_s
        self._ram = ram
        self._owed = OwedPages.create(pages=ram.pages)
        self._helpers: dict[Kind, Helper] = {}
        self._channels: dict[Kind, PageChannel] = {}
        self._bytes_pushed = 0
        self.bytes_sent = 0  # on both channels; known once the destination has all pages
        self.owed_pages = 0
        self._is_closed = False
        self._awake = Awake()  # while the guest waits for pages
        self._short_bursts = ShortBursts()  # from when the path is measured
        fds = {"owed_fd": self._owed.fd, "ram_fd": ram.fd}
        try:
            for kind, module in _HELPERS.items():
                self._helpers[kind] = Helper(nursery, module, fds=fds, memory_bytes=ram.memory_bytes)
        except BaseException:
            self.close()
            raise

    def join(self, address: tuple[str, int], *, session_key: bytes) -> None:
        """Open both channels and introduce them. Raises PeerError."""
        for kind in Kind:
            try:
                connection = socket.create_connection(address, timeout=_CONNECT_S)
            except OSError as error:
                raise PeerError(
                    f"No {kind.value} channel to {address[0]}:{address[1]} can be opened: {error}."
                ) from error
            key = channel_key(session_key, kind)
            channel = PageChannel(connection, PageWire(wire.Role.SOURCE, kind, key=key, pages=self._ram.pages), kind)
            self._channels[kind] = channel
            channel.send(Frame(Type.JOIN))

    def prepare(self, *, session_key: bytes) -> None:
        """Wait for the destination's ends and hand the channels to the helpers, until the push has found its pace.

        Raises PeerError, MigrationError.
        """
        self._short_bursts.begin()
        for kind, channel in self._channels.items():
            if channel.receive() is None:
                raise PeerError(f"The destination did not take the {kind.value} channel.")
            helper = self._helpers[kind]
            key = channel_key(session_key, kind).hex()
            helper.tell("serve", fds=[channel.socket.fileno()], key=key, rate_bytes_per_s=self._rate)
        self._helpers[Kind.PUSH].expect("paced")

    def owe(self, runs: Runs) -> None:
        """The destination has not got these pages, which it was not owed before."""
        self._owed.owe(runs)
        self.owed_pages += pages_in(runs)

    def owe_early(self, runs: Runs, sender: PageSender, *, round_number: int) -> None:
        """Owe those of the pages that can come after the guest, and name them while it still runs.

        To forget what it has of them takes the destination time. Raises PeerError.
        """
        owed = cut(runs, FIRST_DIRTIER_PAGE)[1]
        sender.send(wire.RoundStart(round_number), more=True)
        self.owe(owed)
        sender.send_owed(owed)
        sender.send(wire.RoundEnd(0))
        sender.channel.expect(wire.RoundAck)

    def head(self) -> Runs:
        """What must be sent before the guest resumes, where nothing was before: the destination's RAM is all zero."""
        return runs_of(np.any(self._ram.words[:FIRST_DIRTIER_PAGE] != 0, axis=1))

    def divide(self, runs: Runs) -> tuple[Runs, Runs]:
        """What of the pages must be sent before the guest resumes, and the others, unless they were owed before.

        From here on those are owed, too.
        """
        head, rest = cut(runs, FIRST_DIRTIER_PAGE)
        owed = self._owed.not_owed(single_pages(rest))
        self.owe(owed)
        return head, owed

    def begin(self) -> None:
        """Push: the guest is the destination's. Raises MigrationError."""
        self._awake.begin()
        self._helpers[Kind.PUSH].tell("begin")

    def serve(self, channel: Channel) -> int:
        """Serve until the destination has all pages; returns when it had, CLOCK_MONOTONIC ns.

        `channel`: the migration's own. Raises PeerError where pages are lost, and the guest with them, or may be.
        """
        if channel.wire.state is not wire.State.RESUMED:
            raise PeerError("The guest had gone before its pages did, and they cannot follow it.")
        trouble = ""
        try:
            self.wait(channel.socket)
        except MigrationError as error:  # what has become of the guest is for the destination to say
            trouble = f" At the source: {error}"
            self.close()
        try:
            message = channel.receive()
        except PeerError as error:
            raise PeerError(f"Whether the guest has all its pages is not known: {error}{trouble}") from error
        if isinstance(message, wire.Lost):
            raise PeerError(f"{message.reason}{trouble}")
        assert isinstance(message, wire.Complete), "the protocol's states say so"
        self.bytes_sent = self._bytes_pushed + message.demanded_pages * (FRAME_BYTES + PAGE_BYTES)
        return message.time_ns

    def wait(self, main: socket.socket) -> None:
        """Serve until the destination says something on the main channel.

        Raises MigrationError when a helper fails, or when all was pushed and the destination stays silent.
        """
        poller = select.poll()
        watched = {main.fileno(): None} | {helper.fileno(): kind for kind, helper in self._helpers.items()}
        for fd in watched:
            poller.register(fd, select.POLLIN)
        patience_ms: float | None = None
        while True:
            ready = poller.poll(patience_ms)
            if not ready:
                raise MigrationError(f"The destination did not say within {_VERDICT_S:g} s whether it has all pages.")
            for fd, _ in ready:
                kind = watched[fd]
                if kind is None:
                    return
                said = self._helpers[kind].expect("done")
                if kind is Kind.PUSH:
                    self._bytes_pushed = said["bytes"]
                    patience_ms = _VERDICT_S * 1000
                poller.unregister(fd)

    def close(self) -> None:
        """End the helpers and close the channels."""
        if self._is_closed:
            return
        self._is_closed = True
        self._awake.end()
        self._short_bursts.end()
        for helper in self._helpers.values():
            helper.close()
        for channel in self._channels.values():
            channel.close()
        self._owed.close()
