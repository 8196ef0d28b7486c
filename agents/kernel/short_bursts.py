"""Paced TCP streams that leave in bursts of a millisecond, and no longer ones (Documentation/networking/ip-sysctl.rst).

To a peer that is near Linux adds up to 64 KiB to that (tcp_tso_autosize of net/ipv4/tcp_output.c), which on a slow link
is a long time for what comes behind it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_SYSCTL = Path("/proc/sys/net/ipv4/tcp_tso_rtt_log")


class ShortBursts:
    """From `begin` to `end`, of all streams in the network namespace of the caller, where the kernel can be told so."""

    def __init__(self) -> None:
        self._before: str | None = None

    def begin(self) -> None:
        """Again: in vain."""
        if self._before is None:
            with contextlib.suppress(OSError):  # before Linux 5.18 they are no longer than that
                before = _SYSCTL.read_text(encoding="ascii")
                _SYSCTL.write_text("0", encoding="ascii")
                self._before = before

    def end(self) -> None:
        """Again: in vain."""
        if self._before is not None:
            with contextlib.suppress(OSError):
                _SYSCTL.write_text(self._before, encoding="ascii")
            self._before = None
