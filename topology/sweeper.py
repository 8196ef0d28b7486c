"""The sweeper: lets switches forget what a change of the spanning tree made wrong, as soon as they know of the change.

IEEE 802.1D (7.9.2) has a bridge forget addresses after one forward delay while the tree changes. The Linux bridge calls
them stale by then, but forwards by them until it next sweeps its table, which it planned when its ageing time still
held: minutes later. Whoever sets the ageing time has the table swept at once (net/bridge/br_stp.c, br_set_ageing_time),
and while the change lasts the sweeps repeat by themselves; so it is set to what it is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from unnoticed.errors import FabricError
from unnoticed.topology.bridge import topology_changes
from unnoticed.topology.namespaces import device_folder
from unnoticed.topology.switch import BRIDGE

_PERIOD_S = 0.1


class Sweeper:
    """Watches the bridges in the namespaces of `pids`, from `start` to `stop`, in a thread of this process."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._changing = dict.fromkeys(pids, False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Before the bridges go."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            try:
                for pid, known in self._changing.items():
                    self._changing[pid] = topology_changes(pid)
                    if self._changing[pid] and not known:
                        _sweep(pid)
            except (FabricError, OSError):  # the switch is gone; whoever ended it knows why
                return


def _sweep(pid: int) -> None:
    file = device_folder(pid, BRIDGE) / "bridge/ageing_time"
    file.write_text(file.read_text())
