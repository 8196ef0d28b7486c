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
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unnoticed.agents.kernel.packet_socket import Injector as Sender
from unnoticed.agents.kernel.tap import Tap
from unnoticed.clock import now_ns
from unnoticed.control import Command, Control, ParentGoneError
from unnoticed.events import EventLog
from unnoticed.experiments.calibration.injections import CUTS, LATE_NS, Injection, Truth
from unnoticed.probes.realtime import become_realtime, sleep_until
from unnoticed.topology.gate import WAYS, Gate

_PHASES_NS = 10_000_000  # an outage begins at any phase of whatever has a period of up to this
_LEAD_NS = 2_000_000
_STOP_TIMEOUT_NS = 100_000_000
_MOST_LATE_FRAMES = 1024
_LATE_TICK_NS = 200_000


class Injector:
    """Obeys `inject` (an Injection, and the guest's pid) until `stop`."""

    def __init__(self, *, interface: str, control: Control, events: EventLog, seed: int) -> None:
        self._gate = Gate(interface)
        self._late = _LateFrames(interface, gate=self._gate)
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
            self._late.close()
            self._gate.close()

    def _inject(self, command: Command) -> None:
        injection = Injection(**command["injection"])
        dropped, dropped_udp = self._gate.dropped, self._gate.dropped_udp
        late, late_udp = self._late.count, self._late.count_udp
        begin_ns = now_ns() + _LEAD_NS + self._random.randrange(_PHASES_NS)
        end_ns = begin_ns + injection.duration_ns
        if injection.kind == "freeze":
            begin, end = self._freeze(begin_ns, end_ns, pid=command["guest_pid"])
        elif injection.kind == "reordering":
            begin = _stamped(begin_ns, lambda: self._late.some(injection.share))
            self._late.send_until(end_ns)
            end = _stamped(end_ns, lambda: self._late.some(0.0))
            self._late.send_until(end_ns + 2 * LATE_NS)
        elif injection.kind == "zero-window":
            guest = self._gate.valves["from-guest"]
            begin = _stamped(begin_ns, lambda: guest.close_window(True))
            end = _stamped(end_ns, lambda: guest.close_window(False))
        else:
            share = 1.0 if injection.kind in CUTS else injection.share
            ways = CUTS.get(injection.kind, WAYS)
            begin = _stamped(begin_ns, lambda: self._gate.drop(share, ways=ways))
            end = _stamped(end_ns, lambda: self._gate.drop(0.0, ways=ways))
        truth = Truth(
            injection=injection,
            begin_low_ns=begin[0],
            begin_high_ns=begin[1],
            end_low_ns=end[0],
            end_high_ns=end[1],
            dropped=self._gate.dropped - dropped,
            dropped_udp=self._gate.dropped_udp - dropped_udp,
            late=self._late.count - late,
            late_udp=self._late.count_udp - late_udp,
        )
        fields: dict[str, Any] = {name: getattr(truth, name) for name in Truth.__dataclass_fields__}
        self._events.write("injected", **{**fields, "injection": injection.document()})
        self._control.reply("injected")

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


class _LateFrames:
    """Frames to the guest that others overtake: the gate puts some aside, and they are sent some time later."""

    def __init__(self, interface: str, *, gate: Gate) -> None:
        """None is late yet. Raises OSError."""
        self._valve = gate.valves["to-guest"]
        self._tap = Tap("late%d", most_frames=_MOST_LATE_FRAMES)
        self._sender = Sender(interface)  # past the gate, which does not see them twice
        self._waiting: deque[tuple[int, bytes]] = deque()

    def some(self, share: float) -> None:
        """From now on this share of the frames."""
        self._valve.put_aside(share, index=self._tap.index)

    def send_until(self, end_ns: int) -> None:
        """Take what was put aside, and send it when it is late enough, until `end_ns`."""
        while (time_ns := now_ns()) < end_ns:
            self._waiting.extend((time_ns + LATE_NS, frame) for frame in self._tap.read())
            while self._waiting and self._waiting[0][0] <= time_ns:
                self._sender.send([self._waiting.popleft()[1]])
            sleep_until(min(time_ns + _LATE_TICK_NS, end_ns))

    @property
    def count(self) -> int:
        """How many were late so far."""
        return self._valve.aside

    @property
    def count_udp(self) -> int:
        """Those of them that were probes."""
        return self._valve.aside_udp

    def close(self) -> None:
        """None is late any more."""
        self.some(0.0)
        self._tap.close()
        self._sender.close()


def _stamped(at_ns: int, act: Callable[[], None]) -> tuple[int, int]:
    """Act at an instant; the clock just before, and just after."""
    sleep_until(at_ns)
    before_ns = now_ns()
    act()
    return before_ns, now_ns()


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
