"""The control server's echo: `python -m unnoticed.probes.echo SETTINGS` (JSON: ip, port, realtime, events, who).

It returns every datagram to where it came from, at once. It never migrates: an answer that it owes is a stall of the
machine, or of the network that all share.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from pathlib import Path
from typing import Any

from unnoticed.control import Control, ParentGoneError
from unnoticed.endpoints import family_of
from unnoticed.events import EventLog
from unnoticed.probes.realtime import become_realtime
from unnoticed.workload import PROBE_PORT

_BATCH = 64  # datagrams between two looks at the control channel
_RECEIVE_BUFFER_BYTES = 1 << 20


class Echo:
    """Echoes from the moment it is ready until "stop" ("start" changes nothing)."""

    def __init__(self, *, address: tuple[str, int], control: Control) -> None:
        """Bind the port. Raises OSError."""
        self._control = control
        self._socket = socket.socket(
            family_of(address[0]), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._socket.bind(address)
        self._echoed = 0
        self._errors = 0

    def run(self) -> None:
        """Serve until stopped. Raises ParentGoneError."""
        address, port, *_ = self._socket.getsockname()
        self._control.reply("ready", ip=address, port=port)
        ready = select.poll()
        ready.register(self._control.fileno(), select.POLLIN)
        ready.register(self._socket.fileno(), select.POLLIN)
        while True:
            for fd, _ in ready.poll():
                if fd == self._socket.fileno():
                    self._echo()
                elif any(command["command"] == "stop" for command in self._control.receive()):
                    self._control.reply("done", echoed=self._echoed, errors=self._errors)
                    return

    def _echo(self) -> None:
        buffer = bytearray(2048)
        view = memoryview(buffer)
        for _ in range(_BATCH):
            try:
                length, sender = self._socket.recvfrom_into(buffer)
                self._socket.sendto(view[:length], sender)
                self._echoed += 1
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier echo, or no route: this echo is lost, as a client will see
                self._errors += 1


def main() -> int:
    """Run as a child process; 1 if the parent went away."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    control = Control()
    if settings.get("realtime", True):
        refused = become_realtime()
        if refused and settings.get("events"):
            events = EventLog(Path(settings["events"]), who=settings.get("who", "echo"))
            for each in refused:
                events.write("not-realtime", detail=each)
            events.close()
    try:
        Echo(address=(settings.get("ip", "0.0.0.0"), settings.get("port", PROBE_PORT)), control=control).run()
    except ParentGoneError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
