"""The injector: `python -m unnoticed.experiments.calibration.injector SETTINGS` (JSON: interface, events, seed).

It stands in the namespace of the guest's host and causes outages on command, each stamped before and after the store or
the system call that begins it, and that ends it; so what it says of an outage is not measured by what is to be judged.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
from pathlib import Path
from typing import Any

from unnoticed.clock import now_ns
from unnoticed.control import Command, Control, ParentGoneError
from unnoticed.events import EventLog
from unnoticed.experiments.calibration.injections import CUTS, Injection, Truth
from unnoticed.probes.realtime import become_realtime, sleep_until
from unnoticed.topology.gate import WAYS, Gate

_PHASES_NS = 10_000_000  # an outage begins at any phase of whatever has a period of up to this
_LEAD_NS = 2_000_000
_STOP_TIMEOUT_NS = 100_000_000


class Injector:
    """Obeys `inject` (an Injection, and the guest's pid) until `stop`."""

    def __init__(self, *, interface: str, control: Control, events: EventLog, seed: int) -> None:
        self._gate = Gate(interface)
        self._control = control
        self._events = events
        self._random = random.Random(seed)

    def run(self) -> None:
        """Serve. Raises ParentGoneError; the gate is open then."""
        self._control.reply("ready")
        try:
            while True:
                select.select([self._control.fileno()], [], [])
                for command in self._control.receive():
                    if command["command"] == "stop":
                        self._control.reply("done")
                        return
                    self._inject(command)
        finally:
            self._gate.drop(0)
            self._gate.close()

    def _inject(self, command: Command) -> None:
        injection = Injection(**command["injection"])
        dropped, dropped_udp = self._gate.dropped, self._gate.dropped_udp
        begin_ns = now_ns() + _LEAD_NS + self._random.randrange(_PHASES_NS)
        if injection.kind == "freeze":
            begin, end = self._freeze(begin_ns, begin_ns + injection.duration_ns, pid=command["guest_pid"])
        else:
            share = 1.0 if injection.kind in CUTS else injection.share
            ways = CUTS.get(injection.kind, WAYS)
            begin = self._drop(begin_ns, share, ways)
            end = self._drop(begin_ns + injection.duration_ns, 0.0, ways)
        truth = Truth(
            injection=injection,
            begin_low_ns=begin[0],
            begin_high_ns=begin[1],
            end_low_ns=end[0],
            end_high_ns=end[1],
            dropped=self._gate.dropped - dropped,
            dropped_udp=self._gate.dropped_udp - dropped_udp,
        )
        fields: dict[str, Any] = {name: getattr(truth, name) for name in Truth.__dataclass_fields__}
        self._events.write("injected", **{**fields, "injection": injection.document()})
        self._control.reply("injected")

    def _drop(self, at_ns: int, share: float, ways: tuple[str, ...]) -> tuple[int, int]:
        sleep_until(at_ns)
        before_ns = now_ns()
        self._gate.drop(share, ways=ways)
        return before_ns, now_ns()

    def _freeze(self, begin_ns: int, end_ns: int, *, pid: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Stop a process, and let it go on."""
        process = os.pidfd_open(pid)
        try:
            with Path(f"/proc/{pid}/stat").open("rb", buffering=0) as state:
                sleep_until(begin_ns)
                before_ns = now_ns()
                signal.pidfd_send_signal(process, signal.SIGSTOP)
                try:
                    begin = before_ns, _stopped_ns(state, pid)
                    sleep_until(end_ns)
                finally:
                    before_ns = now_ns()
                    signal.pidfd_send_signal(process, signal.SIGCONT)
                    end = before_ns, now_ns()
        finally:
            os.close(process)
        return begin, end


def _stopped_ns(state: Any, pid: int) -> int:
    """When a process that was sent SIGSTOP was first seen stopped (proc_pid_stat(5): state T)."""
    deadline_ns = now_ns() + _STOP_TIMEOUT_NS
    while True:
        state.seek(0)
        stopped = state.read().rpartition(b")")[2].split()[0] == b"T"
        seen_ns = now_ns()
        if stopped:
            return seen_ns
        if seen_ns > deadline_ns:
            raise TimeoutError(f"process {pid} was not stopped by SIGSTOP within {_STOP_TIMEOUT_NS / 1e6:g} ms")
        sleep_until(seen_ns + 20_000)


def main() -> int:
    """Run as a child process; 1 if the parent went away."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    control = Control()
    events = EventLog(Path(settings["events"]), who="injector")
    injector = Injector(interface=settings["interface"], control=control, events=events, seed=settings["seed"])
    for refused in become_realtime(priority=45):  # it must not wait for those whose measurement it judges
        events.write("not-realtime", detail=refused)
    try:
        injector.run()
    except ParentGoneError:
        return 1
    except (OSError, TimeoutError) as error:
        control.reply("error", message=str(error))
        return 1
    finally:
        events.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
