"""The relay: a process of ours that delays frames where the kernel has no netem. This is its handle.

What it is told is read back from it, and it counts every frame: those taken are those sent, lost as asked or in a link
that was `cut`, and dropped, each for a reason of its own (`overflowed`, `oversized`, `refused`, `missed`), but for
those that still wait.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from unnoticed.errors import FabricError
from unnoticed.topology.direction import Direction
from unnoticed.topology.relay_process import Held, RelaySettings

MOST_BIT_PER_S = 1_000_000_000  # of one link: up to there it was measured to keep its time
_START_S = 60.0  # where nothing is compiled yet, on a busy machine
_ANSWER_S = 10.0
_SLACK_NS = 100_000_000  # more than the delay that a line can hold
_UNSHAPED_BIT_PER_S = 1_000_000_000
_RING_NS = 50_000_000  # of the smallest frames that a ring can hold
_TYPICAL_FRAME_BYTES = 256
_SLOTS_LEAST, _SLOTS_MOST = 512, 8192
_LINE_MOST_BYTES = 1 << 28
_DROPS = ("overflowed", "oversized", "refused", "missed")


def held(direction: Direction, *, inlet: str, outlet: str) -> Held:
    """What the relay is told of a direction."""
    return Held(
        inlet=inlet,
        outlet=outlet,
        delay_ns=direction.delay_ns,
        jitter_ns=direction.jitter_ns,
        loss_ppm=direction.loss_ppm,
        reorder_ppm=direction.reorder_ppm,
        duplicate_ppm=direction.duplicate_ppm,
    )


def settings(asked: Sequence[tuple[Held, Sequence[Direction]]], *, seed: int) -> RelaySettings:
    """The sizes of rings and lines that hold what the links' rates let pass within their delays.

    `asked`: each direction as it is at first, and all that it is known to become.
    """
    line = entries = slots = 0
    for state in (state for _, states in asked for state in states):
        rate = state.rate_bit_per_s or _UNSHAPED_BIT_PER_S
        held_bytes = rate * (state.delay_ns + state.jitter_ns + _SLACK_NS) // 8_000_000_000
        line = max(line, held_bytes * (2 if state.duplicate_ppm else 1))
        entries = max(entries, held_bytes // 64)
        slots = max(slots, rate * _RING_NS // (8_000_000_000 * _TYPICAL_FRAME_BYTES))
    return RelaySettings(
        held=[each for each, _ in asked],
        slots=min(_SLOTS_MOST, max(_SLOTS_LEAST, slots)),
        line_bytes=min(_LINE_MOST_BYTES, line + (1 << 16)),
        entries=min(_LINE_MOST_BYTES // 512, entries + 1024),
        seed=seed,
    )


class Relay:
    """The process, from its start to `close`. Its directions are in the order of the settings."""

    def __init__(self, pid: int, given: RelaySettings, *, environment: Mapping[str, str]) -> None:
        """Start it in the network namespace of `pid`; it is not yet ready. The environment carries the run's marks."""
        self._held = list(given.held)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        argv = ["mnexec", "-a", str(pid), sys.executable, "-m", "unnoticed.topology.relay_process", given.text()]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env={**os.environ, **environment},
            process_group=0,
        )  # fmt: skip
        self._partial = b""
        self._lock = threading.Lock()  # a question and its answer belong together
        self.realtime = False

    def open(self) -> None:
        """Let it take frames, now that the ports are there. Raises FabricError if it cannot."""
        self.realtime = bool(self._wait("loaded", _START_S)["realtime"])
        self._ask("open", "ready")

    def ask(self, row: int, direction: Direction) -> None:
        """Let a direction be something else from now on, and read that back. Raises FabricError."""
        before = self._held[row]
        now = held(direction, inlet=before.inlet, outlet=before.outlet)
        answer = self._ask("set", "set", row=row, **vars(now))["asked"]
        asked = [now.delay_ns, now.jitter_ns, now.loss_ppm, now.reorder_ppm, now.duplicate_ppm]
        if answer[2:] != asked:
            raise FabricError(f"The relay was asked for {asked} from {now.inlet}, but has {answer[2:]}.")
        self._held[row] = now

    def counts(self) -> list[dict[str, int]]:
        """What it did so far, by direction. Raises FabricError."""
        counts: list[dict[str, int]] = self._ask("counts", "counts")["counts"]
        return counts

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def _ask(self, command: str, reply: str, **fields: Any) -> dict[str, Any]:
        with self._lock:
            self._command(command, **fields)
            return self._wait(reply, _ANSWER_S)

    def _command(self, command: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"command": command, **fields}) + "\n").encode())
            self._process.stdin.flush()
        except OSError as error:
            raise FabricError(f"The relay of the links with a delay is gone: {self._said() or error}") from error

    def _wait(self, reply: str, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._partial:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise FabricError(f"The relay of the links with a delay did not answer within {timeout_s:g} s.")
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise FabricError(f"The relay of the links with a delay ended: {self._said() or 'it said nothing'}.")
            self._partial += data
        line, _, self._partial = self._partial.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if answer["reply"] != reply:
            raise FabricError(f"The relay answered {answer['reply']!r} where {reply!r} was due.")
        return answer

    def _said(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def dropped(counts: Mapping[str, int]) -> int:
    """How many frames of a direction were dropped though nobody asked for it."""
    return sum(counts[name] for name in _DROPS)
