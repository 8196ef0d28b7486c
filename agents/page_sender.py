"""The page sender: runs of pages, packed, and the messages among them, into the channel of one migration; counted."""

from __future__ import annotations

import numpy as np

from unnoticed.agents import wire
from unnoticed.agents.channel import Channel
from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.kernel.pagemap import Runs
from unnoticed.agents.packing import Packer
from unnoticed.agents.page_runs import NO_RUNS
from unnoticed.agents.ram import Ram
from unnoticed.clock import now_ns
from unnoticed.errors import MigrationError

_LIMITED_PAGES = 1024  # in one PAGES frame that may come too late: between two looks at the clock


class PageSender:
    """Sends over one channel. `bytes_sent`: of messages and pages that it sent, as on the wire."""

    def __init__(self, channel: Channel, guest: GuestProcess, *, content: Ram, codec: str) -> None:
        """`content`: where the guest's pages are read. Raises ValueError for a codec that is not known."""
        self.channel = channel
        self.bytes_sent = 0
        self._guest, self._content = guest, content
        self._packer = Packer(codec, content)

    def send(self, message: wire.Message, *, more: bool = False) -> None:
        """Send a message. `more` if something follows at once. Raises PeerError."""
        self.bytes_sent += self.channel.send(message, more=more)

    def send_pages(self, runs: Runs, *, end_ns: int | None = None) -> Runs:
        """Send the pages of the runs, in as many PAGES frames as it takes, while there is a guest they belong to.

        Returns those that were not sent by `end_ns`; all are, if there is no such time. Raises MigrationError where the
        guest has ended, PeerError.
        """
        packer = self._packer
        unsent: list[Runs] = []
        packer.begin()
        for message in wire.split(runs, most_pages=packer.piece_pages if end_ns is None else _LIMITED_PAGES):
            if not self._guest.is_alive:
                raise MigrationError("There is nothing to migrate any more.")
            if end_ns is not None and now_ns() >= end_ns:
                unsent.append(message.runs)
            else:
                waiting_bytes = tcp_repair.unacknowledged_bytes(self.channel.socket)
                packer.note(sent_bytes=self.bytes_sent, waiting_bytes=waiting_bytes, time_ns=now_ns())
                for packed in packer.pack(message.runs):
                    self.bytes_sent += self.channel.send_packed(packed, self._content)
        return np.concatenate(unsent) if unsent else NO_RUNS

    def send_owed(self, runs: Runs) -> None:
        """Name pages that come after the guest. Raises PeerError."""
        for message in wire.split_owed(runs):
            self.send(message, more=True)

    def take_counts(self) -> dict[str, list[int]]:
        """Pages, and the bytes that followed their messages, by encoding, since the last time."""
        return self._packer.take_counts()

    def close(self) -> None:
        """End the threads that code pages."""
        self._packer.close()
