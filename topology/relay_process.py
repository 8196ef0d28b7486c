"""The relay's process: `python -m unnoticed.topology.relay_process SETTINGS`, in the emulator's namespace.

Replies `loaded` once it could start at once, and then obeys: `open` (the ports are there; reply `ready`), `set` (a
direction is asked to be something else; reply `set`), `counts` (reply `counts`). It ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unnoticed.control import Control, ParentGoneError
from unnoticed.topology.packet_port import SLOT_BYTES, PacketPorts

PRIORITY = 45  # above every process that measures, since it is the network they measure; below the kernel's own
COUNTS = ("taken", "sent", "lost", "repeated", "overflowed", "oversized", "refused", "cut", "late", "latest_ns")
FOREVER_NS = 1 << 62
_PREPARED_BYTES = 64 << 20  # of the lines: touched beforehand, so that no frame waits for memory


@dataclass(frozen=True, kw_only=True)
class Held:
    """One direction as the relay is told of it: its ports, and what befalls its frames (see Direction)."""

    inlet: str
    outlet: str
    delay_ns: int
    jitter_ns: int
    loss_ppm: int
    reorder_ppm: int
    duplicate_ppm: int


@dataclass(frozen=True, kw_only=True)
class RelaySettings:
    """What the process is started with. `slots`: of each port's ring; `line_bytes`, `entries`: of each direction."""

    held: list[Held]
    slots: int
    line_bytes: int
    entries: int
    seed: int

    def text(self) -> str:
        """As one argument of the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> RelaySettings:
        """The inverse of `text`."""
        given = json.loads(text)
        return cls(**{**given, "held": [Held(**each) for each in given["held"]]})


class RelayProcess:
    """The arrays of the compiled loop, and what commands do to them."""

    def __init__(self, settings: RelaySettings) -> None:
        from unnoticed.topology import relaying

        self._relaying = relaying
        self._settings = settings
        rows = len(settings.held)
        self.asked = np.zeros((rows, relaying.ASKED_COLUMNS), np.int64)
        self.state = np.zeros((rows, relaying.STATE_COLUMNS), np.int64)
        self.counts = np.zeros((rows, relaying.COUNT_COLUMNS), np.int64)
        self.luck = np.random.default_rng(settings.seed).integers(1, 1 << 63, rows, np.uint64)
        self.queue = np.zeros((rows, settings.entries, 3), np.int64)
        self.line = np.zeros((rows, settings.line_bytes), np.uint8)
        self._ports: PacketPorts | None = None
        interfaces = [each.inlet for each in settings.held]
        for row, each in enumerate(settings.held):
            self.ask(row, asdict(each))
            self.asked[row, relaying.INLET] = interfaces.index(each.inlet)
            self.asked[row, relaying.OUTLET] = interfaces.index(each.outlet)
        nothing = np.zeros((0, SLOT_BYTES), np.uint8)
        self._run(np.zeros(0, np.int64), 0, nothing, rows=0, until_ns=0)  # compiles it, or loads what was compiled
        prepared = _PREPARED_BYTES // max(1, rows)
        self.line[:, :prepared] = 1
        self.queue[:, : prepared // 1024] = 1

    def ask(self, row: int, values: dict[str, Any]) -> None:
        """Let what befalls frames of a direction be this from now on; frames that wait keep their due times."""
        for name in ("delay", "jitter", "loss", "reorder", "duplicate"):
            unit = "ns" if name in {"delay", "jitter"} else "ppm"
            self.asked[row, getattr(self._relaying, name.upper())] = values[f"{name}_{unit}"]

    def open(self) -> None:
        """Take frames from now on."""
        self._ports = PacketPorts([each.inlet for each in self._settings.held], slots=self._settings.slots)

    def relay(self, control: int, *, until_ns: int = FOREVER_NS) -> None:
        """Relay until the control channel is readable."""
        ports = self._ports
        while True:
            if ports is None:
                ended = self._run(np.zeros(0, np.int64), control, self.line[:0], rows=0, until_ns=until_ns)
            else:
                ended = self._run(ports.descriptors, control, ports.rings, rows=len(self.asked), until_ns=until_ns)
            if ended != 2:
                return
            assert ports is not None
            ports.clear_errors()

    def document(self) -> list[dict[str, int]]:
        """The counts of each direction; `missed` are frames that the kernel found no room for in the ring."""
        missed = self._ports.drops() if self._ports else [0] * len(self.asked)
        counts = [dict(zip(COUNTS, row.tolist(), strict=True)) for row in self.counts]
        return [{**each, "missed": missed[number]} for number, each in enumerate(counts)]

    def _run(self, descriptors: Any, control: int, rings: Any, *, rows: int, until_ns: int) -> int:
        ended: int = self._relaying.relay(
            descriptors, control, rings, rings.view(np.uint32), SLOT_BYTES, self.asked[:rows], self.state[:rows],
            self.counts[:rows], self.luck[:rows], self.queue[:rows], self.line[:rows], until_ns,
        )  # fmt: skip
        return ended


def main(argv: list[str]) -> None:
    """Obey until the parent is gone."""
    control = Control()
    process = RelayProcess(RelaySettings.parse(argv[1]))
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        realtime = True
    except OSError:
        realtime = False
    control.reply("loaded", realtime=realtime, monotonic_ns=time.monotonic_ns())
    while True:
        for command in control.receive():
            match command["command"]:
                case "open":
                    process.open()
                    control.reply("ready")
                case "set":
                    process.ask(command["row"], command)
                    control.reply("set", asked=process.asked[command["row"]].tolist())
                case "counts":
                    control.reply("counts", counts=process.document())
        process.relay(control.fileno())


if __name__ == "__main__":
    try:
        main(sys.argv)
    except (ParentGoneError, BrokenPipeError):
        sys.exit(0)
