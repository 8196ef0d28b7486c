"""The throttle: keeps a running guest from running for a share of the time, so that it writes fewer pages.

What QEMU's auto-converge does to the processors of a machine (softmmu/cpu-throttle.c) is done here to the guest's
process: it is stopped and let go on in short periods, by signals. Whatever the guest does waits meanwhile, its clients'
answers as well; and the dirtier does not catch up on what it could not write, like a program that writes whenever it
runs.
"""

from __future__ import annotations

import threading

from unnoticed.agents.guest_process import GuestProcess
from unnoticed.agents.ram import Super
from unnoticed.clock import now_ns

_PERIOD_S = 0.01
_WHOLE_PPM = 1_000_000


class Throttle:
    """Of one guest, from its making until `end`; at first it lets the guest run."""

    def __init__(self, guest: GuestProcess) -> None:
        self._guest = guest
        self._share_ppm = 0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped_ns = 0

    @property
    def stopped_ns(self) -> int:
        """For how long the guest has been kept from running, in all."""
        return self._stopped_ns

    def set(self, share_ppm: int) -> None:
        """Keep the guest from running for this share of the time, in ppm, from now on; below the whole."""
        if not 0 <= share_ppm < _WHOLE_PPM:
            raise ValueError(f"a guest cannot be throttled by {share_ppm} ppm")
        self._share_ppm = share_ppm
        if share_ppm and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="throttle", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let the guest run, for good; returns when it does."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            stopped_s = _PERIOD_S * self._share_ppm / _WHOLE_PPM
            if stopped_s:
                self._stop(stopped_s)
            self._ending.wait(_PERIOD_S - stopped_s)

    def _stop(self, for_s: float) -> None:
        with self._guest.frozen():
            start_ns = now_ns()
            self._ending.wait(for_s)
            took_ns = now_ns() - start_ns
            self._guest.ram.quads[Super.THROTTLED_NS] += took_ns  # the guest only reads it, and stands still
        self._stopped_ns += took_ns
