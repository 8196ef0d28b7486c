"""The agent's handle on a guest process: start it, boot it, pause it, hand it connections, resume it, discard it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unnoticed.agents.dirtier import UNCOMPRESSIBLE, Contents
from unnoticed.agents.kernel import libc
from unnoticed.agents.ram import Ram, Slot, slot_base
from unnoticed.agents.tachometer import Tachometer
from unnoticed.agents.wire import Copying
from unnoticed.errors import MigrationError
from unnoticed.events import EventLog
from unnoticed.patience import patient

_TIMEOUT_S = patient(20.0)
_FDS_PER_MESSAGE = 250  # SCM_MAX_FD is 253
_SLOTS_PER_MESSAGE = 1024


@dataclass(frozen=True, kw_only=True)
class GuestSettings:
    """What a guest process is started with."""

    addresses: tuple[str, ...]  # of IPv4 and IPv6
    interface: str
    congestion: str
    events: str
    who: str


class GuestProcess:
    """A guest, or the empty shell of one, in its network namespace. It dies with its agent."""

    def __init__(
        self, settings: GuestSettings, *, ram: Ram, namespace: libc.NetworkNamespace, copying: Copying = Copying.BEFORE
    ) -> None:
        """Start the process; `wait_ready` returns when it can be booted or resumed.

        `copying`: when the pages of its RAM come; it must not touch those that come after it.
        """
        self.ram = ram
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_TIMEOUT_S)
        arguments = {
            "control_fd": theirs.fileno(),
            "ram_fd": ram.fd,
            "memory_bytes": ram.memory_bytes,
            "addresses": settings.addresses,
            "events": settings.events,
            "who": settings.who,
            "congestion": settings.congestion,
            "copying": copying,
        }
        try:
            with theirs, namespace.entered():
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "unnoticed.agents.guest", json.dumps(arguments)],
                    pass_fds=(theirs.fileno(), ram.fd),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
        except BaseException:
            self._control.close()
            raise
        self._pidfd = os.pidfd_open(self._process.pid)
        self._events = EventLog(Path(settings.events), who=settings.who)
        self._tachometer = Tachometer(ram, self._events)
        self.tracker_fd: int | None = None
        self.fault_fd: int | None = None  # a userfaultfd for missing pages, where some come after the guest
        self.address = 0
        self.listeners: list[socket.socket] = []  # duplicates of the guest's, once it is ready
        self._freezing = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def await_end(self, patience_s: float) -> None:
        """Wait until the process has ended, for so long at most."""
        select.select([self._pidfd], [], [], patience_s)

    def fileno(self) -> int:
        """Readable when the process has ended."""
        return self._pidfd

    def how_it_ended(self) -> str:
        """How the process, which has ended, did so."""
        status = self._process.wait()
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def wait_ready(self) -> None:
        """Wait for the process to have mapped the RAM and bound its ports. Raises MigrationError."""
        hello, descriptors = self._receive()
        self.address = hello["address"]
        if hello["waits"]:
            self.fault_fd = descriptors.pop()
        self.tracker_fd = descriptors[0] if descriptors else None
        for fd in hello["listener_fds"]:
            self.listeners.append(socket.socket(fileno=libc.pidfd_getfd(self._pidfd, fd)))

    def boot(
        self, *, working_set_bytes: int, dirty_bytes_per_s: int, pattern: str, contents: Contents = UNCOMPRESSIBLE
    ) -> None:
        """Fill the RAM. The guest runs only after `resume`."""
        self._send(
            message="boot",
            working_set_bytes=working_set_bytes,
            dirty_bytes_per_s=dirty_bytes_per_s,
            pattern=pattern,
            contents=asdict(contents),
        )
        self._answer("booted")

    def hand_over(self, connections: Mapping[int, socket.socket]) -> None:
        """Give the guest connections, by slot, for when it is resumed; one that it has there is replaced."""
        slots = list(connections)
        for start in range(0, len(slots), _FDS_PER_MESSAGE):
            part = slots[start : start + _FDS_PER_MESSAGE]
            data = json.dumps({"message": "adopt", "slots": part}).encode()
            socket.send_fds(self._control, [data], [connections[slot].fileno() for slot in part])

    def take_back(self, slots: Sequence[int]) -> None:
        """Have the guest let go of connections that it was given too early."""
        for start in range(0, len(slots), _SLOTS_PER_MESSAGE):
            self._send(message="let go", slots=slots[start : start + _SLOTS_PER_MESSAGE])

    def resume(self, *, moved: bool) -> int:
        """Let it run; `moved` if it was handed connections. Returns when it did, CLOCK_MONOTONIC ns."""
        self._send(message="resume", moved=moved)
        resumed_ns = int(self._answer("resumed")["time_ns"])
        self._tachometer.start()
        return resumed_ns

    def pause(self) -> int:
        """Stop it at its safe point; returns when it stood still. Its whole state is in the RAM then."""
        self._send(message="pause")
        return int(self._answer("paused")["time_ns"])

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The process stands still within the block, wherever it is; one that has ended does so by itself.

        Unlike a paused guest it does not know of it: for a look at what it does, not for moving it. Who wants it
        frozen while it is waits for the end of that.
        """
        with self._freezing:
            yield from self._frozen()

    def _frozen(self) -> Iterator[None]:
        stop = os.WSTOPPED | os.WEXITED
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)
            # WNOWAIT: how it ended, if it did, is for others to ask. A stop is asked for twice, to be forgotten.
            seen = os.waitid(os.P_PIDFD, self._pidfd, stop | os.WNOWAIT)
            if seen is not None and seen.si_code == os.CLD_STOPPED:
                os.waitid(os.P_PIDFD, self._pidfd, os.WSTOPPED)
        except (ProcessLookupError, ChildProcessError):
            pass
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def duplicate(self, slot: int) -> socket.socket | None:
        """A duplicate of the socket in a slot; None if there is none, as happens to a guest that is running."""
        fd = None
        try:
            fd = libc.pidfd_getfd(self._pidfd, self.ram.quads[slot_base(slot) + Slot.DESCRIPTOR])
            return socket.socket(fileno=fd)
        except OSError:
            if fd is not None:
                os.close(fd)
            return None

    def kill(self) -> None:
        """End the process and release what belonged to it, except the RAM."""
        self._process.kill()
        self._process.wait()
        self._tachometer.stop()
        self._events.close()
        self._control.close()
        os.close(self._pidfd)
        for listener in self.listeners:
            listener.close()
        for fd in (self.tracker_fd, self.fault_fd):
            if fd is not None:
                os.close(fd)

    def _answer(self, message: str) -> dict[str, Any]:
        """The guest's answer of this name; one that comes late to a question given up before it is skipped."""
        while True:
            answer, _ = self._receive()
            if answer["message"] == message:
                return answer

    def _send(self, **message: Any) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError as error:
            raise MigrationError(f"The guest process (pid {self.pid}) is gone: {error}.") from error

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 4)
        except OSError as error:
            raise MigrationError(f"The guest process (pid {self.pid}) does not answer: {error}.") from error
        if not data:
            raise MigrationError(f"The guest process (pid {self.pid}) ended; its stderr says why.")
        return json.loads(data), descriptors
