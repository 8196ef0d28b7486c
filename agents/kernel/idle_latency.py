"""Processors that stay awake while they idle (Documentation/power/pm_qos_interface.rst).

A processor that sleeps takes some ten microseconds to wake, in a virtual machine several times that. A page that is
waited for is a handful of such wake-ups, one behind the other.
"""

from __future__ import annotations

import contextlib
import os

_DEVICE = "/dev/cpu_dma_latency"
_NO_LATENCY_US = (0).to_bytes(4, "little")


class Awake:
    """From `begin` to `end` no processor of this machine sleeps; where that cannot be asked for they do."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def begin(self) -> None:
        """Again: in vain."""
        if self._fd is not None:
            return
        with contextlib.suppress(OSError):  # not in this container, or not permitted
            self._fd = os.open(_DEVICE, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._fd, _NO_LATENCY_US)

    def end(self) -> None:
        """Again: in vain."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
