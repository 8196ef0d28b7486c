"""Answers to clients while their frames are held, by a process of their own: `unnoticed.agents.answerer`."""

from __future__ import annotations

import os

from unnoticed.agents.helper import Helper, Nursery
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.packet_socket import Injector


class Answers:
    """Of one guest, on one host."""

    def __init__(self, nursery: Nursery, guest: tuple[NetworkNamespace, str], *, copies_fd: int) -> None:
        """`guest` is the guest's end of its link; `copies_fd` is where copies of frames are read. Raises OSError."""
        namespace, interface = guest
        with namespace.entered():
            self._injector = Injector(interface)
        fds = {"copies_fd": copies_fd, "injector_fd": self._injector.fileno()}
        self._helper = Helper(nursery, "answerer", fds=fds)
        self._is_on = False
        self.given = 0  # of the migration at hand, once they have ended

    def forget(self) -> None:
        """Another migration begins."""
        self.given = 0

    def begin(self, positions: bytes, *, limit_bytes: int) -> None:
        """Answer, until `end`. Raises MigrationError."""
        fd = os.memfd_create("positions", os.MFD_CLOEXEC)
        try:
            os.write(fd, positions)
            self._helper.tell("answer", fds=[fd], limit_bytes=limit_bytes)
        finally:
            os.close(fd)
        self._is_on = True

    def end(self) -> None:
        """No more of them. Raises MigrationError."""
        if not self._is_on:
            return
        self._is_on = False
        self._helper.tell("stop")
        self.given += self._helper.expect("stopped")["answers"]
