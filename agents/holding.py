"""Hold and forward: what a host needs so that no frame of the guest is lost in a cutover, but late at most.

The frames go to where the guest will be before it leaves. At the destination a plug holds them; the guest is announced;
and the source, which sees that announcement come in, knows by it that no later frame will come its way, since links and
bridges keep the order. Meanwhile the guest runs on at the source, and its frames leave under another address, or the
first of them would turn the switches back. New connections wait aside from a moment before, so that none is half open
when the guest stands still. What comes to the source after all travels to the destination with the guest, or behind it.

A client whose frames are held hears nothing, and may begin to repeat itself. If that is wanted it is answered in the
guest's name; see `unnoticed.agents.zero_window`.

If the migration fails the frames go the same way back: a plug at the source, an announcement from there, and the
destination, which sees it, returns what it held.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable

from unnoticed.agents import wire
from unnoticed.agents.answers import Answers
from unnoticed.agents.channel import Channel
from unnoticed.agents.diversion import Diversion, FromGuest, ToGuest
from unnoticed.agents.helper import Nursery
from unnoticed.agents.kernel.bridge_fdb import PinnedAddress
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.no_route import NoRoute
from unnoticed.agents.kernel.packet_socket import VIRTIO_HEADER_BYTES, Lookout
from unnoticed.agents.plug import Held, Plug
from unnoticed.errors import MachineError, MigrationError, PeerError

LIMIT_BYTES = 32 << 20  # of a plug that nobody gave a limit
_ANNOUNCEMENT_S = 1.0  # an announcement that is not seen by then is not seen at all
# Frames that another processor has in hand when the announcement is seen: no two of them are so far apart.
_OVERTAKING_S = 0.01
_OVERTAKING_MOST_S = 0.2
_POLL_S = 0.002
_STRAGGLERS_S = 2.0  # a source that says nothing for so long does not hang up any more
_NO_FRAMES = Held(0, 0, 0)


class Holding:
    """The plug, the diversion and the lookout of one host. Made before the guest's link is in use."""

    def __init__(
        self,
        *,
        port: str,
        guest: tuple[NetworkNamespace, str],
        uplinks: list[str],
        mac: bytes,
        nursery: Nursery | None = None,
    ) -> None:
        """In the host's network namespace: `port` leads to the guest, `uplinks` to the rest. Raises MachineError.

        `guest` is the guest's end of the link: its namespace, and its interface there. `nursery`: where who
        answers clients meanwhile comes from; None: nobody does.
        """
        self._mac = mac
        self._answers: Answers | None = None
        self._no_route: NoRoute | None = None
        try:
            self._plug = Plug(port, guest=guest, limit_bytes=LIMIT_BYTES)
            self._diversion = Diversion(port, mac=mac)
            self._pin = PinnedAddress(port, mac=mac)
            self._lookouts = [Lookout(uplink) for uplink in uplinks]
        except OSError as error:
            raise MachineError(
                f"Frames cannot be held on this machine: {error}. It takes sch_tbf, sch_ingress, cls_bpf and tun; "
                'without them use gap = "drop".'
            ) from error
        if nursery is not None:
            self._answers = Answers(nursery, guest, copies_fd=self._diversion.fileno())
            with guest[0].entered():
                self._no_route = NoRoute()

    # -- at the source -------------------------------------------------------------------------------------------------

    def put_attempts_aside(self) -> None:
        """From here on no new connection begins here."""
        self._diversion.set(to_guest=ToGuest.ATTEMPTS_ASIDE)

    def put_back(self) -> None:
        """It was too early: what was put aside goes to the guest."""
        self._diversion.set(to_guest=ToGuest.PASS)
        self._plug.inject(self._diversion.take())

    def hide(self) -> None:
        """The bridge here keeps the guest where it is, and the switches do not learn from it any more."""
        self._pin.pin()
        self._diversion.set(from_guest=FromGuest.RENAMED)
        self._watch()

    def await_announcement(self, channel: Channel) -> bool:
        """Until the guest's announcement has come in from elsewhere; False if it does not. Raises PeerError.

        Then some switch may go on sending the guest's frames here, and they have to be sent after it.
        """
        watched = [channel.socket.fileno(), *(lookout.fileno() for lookout in self._lookouts)]
        ready, _, _ = select.select(watched, [], [], _ANNOUNCEMENT_S)
        if channel.socket.fileno() in ready:
            channel.expect(wire.Abort)  # which raises: it has nothing else to say now
        return bool(ready)

    def close_in(self) -> None:
        """From here on no frame reaches the guest."""
        self._diversion.set(to_guest=ToGuest.ASIDE)

    def close_out(self) -> None:
        """From here on no frame leaves it."""
        self._diversion.set(from_guest=FromGuest.DROP)

    def quiesce(self) -> None:
        """The guest's kernel has paused as well: from here on its timers send nothing. Raises OSError."""
        if self._no_route is not None:
            self._no_route.begin()

    def _wake(self) -> None:
        if self._no_route is not None:
            self._no_route.end()

    def take_late(self) -> list[bytes]:
        """What was put aside so far, in order."""
        return self._diversion.take()

    def follow(self, channel: Channel) -> None:
        """The guest runs elsewhere: send after it what still comes here. Raises PeerError."""
        begun = last = time.monotonic()
        while (now := time.monotonic()) - last < _OVERTAKING_S and now - begun < _OVERTAKING_MOST_S:
            if frames := self._diversion.take():
                last = now
                for part in wire.split_frames(frames):
                    channel.send(wire.Late(part))
            time.sleep(_POLL_S)

    def forget(self) -> None:
        """The guest has left, and the gate is closed: as before it came."""
        self._wake()
        self._diversion.set(to_guest=ToGuest.PASS, from_guest=FromGuest.PASS)
        self._diversion.take()
        self._pin.unpin()
        for lookout in self._lookouts:
            lookout.forget()

    def turn_back(self, *, limit_bytes: int) -> None:
        """The guest stays: its frames may leave as its own, and those that come here wait until `go_on`."""
        self._plug.arm(limit_bytes=limit_bytes)
        self._pin.unpin()
        self._wake()
        self._diversion.set(to_guest=ToGuest.PASS, from_guest=FromGuest.PASS)

    def go_on(self, *, taken: list[bytes], returned: list[bytes]) -> None:
        """Give the guest what was put aside (`taken` before), what the destination held, then what came here since."""
        self._plug.release(taken + self._diversion.take() + returned)
        for lookout in self._lookouts:
            lookout.forget()

    # -- at the destination --------------------------------------------------------------------------------------------

    def hold(self, *, limit_bytes: int) -> None:
        """From here on frames for the guest wait here, if they come."""
        self._plug.arm(limit_bytes=limit_bytes)
        if self._answers is not None:
            self._answers.forget()
        copied = None if self._answers is None else ToGuest.COPIED
        self._diversion.set(to_guest=copied, from_guest=FromGuest.WITHOUT_RESETS)
        self._watch()

    def answer(self, positions: bytes, *, limit_bytes: int) -> None:
        """Answer what is held for these connections (`Position.pack`), and what will be. Raises MigrationError."""
        if self._answers is None:
            raise MigrationError("The agent of the destination was not started to answer for its guest.")
        self._answers.begin(positions, limit_bytes=limit_bytes)

    @property
    def held(self) -> Held:
        """What waits here; nothing if it cannot be told."""
        try:
            return self._plug.held()
        except OSError:
            return _NO_FRAMES

    def forward(self, late: list[bytes]) -> None:
        """Give the guest what came late to the source, then what is held here, then whatever comes. Raises OSError.

        What is answered after that the guest answers as well: an older acknowledgement closes no window that a newer
        one has opened.
        """
        self._diversion.set(to_guest=ToGuest.PASS)
        self._plug.release(late)

    def forward_stragglers(self, channel: Channel) -> int:
        """Give the guest what comes to the source later still, until that hangs up; how many frames. Raises OSError."""
        count = 0
        with contextlib.suppress(PeerError), channel.patience(_STRAGGLERS_S):
            while True:
                frames = list(channel.expect(wire.Late).frames)
                self._plug.inject(frames)
                count += len(frames)
        return count

    def settle(self) -> None:
        """The guest has had all that was held: as if it had always been here."""
        self._diversion.set(to_guest=ToGuest.PASS, from_guest=FromGuest.PASS)
        for lookout in self._lookouts:
            lookout.forget()

    def stop_answering(self) -> None:
        """From here on nobody is answered. Raises MigrationError."""
        if self._answers is None:
            return
        self._diversion.set(to_guest=ToGuest.PASS)
        self._answers.end()
        self._diversion.take()

    @property
    def answers(self) -> int:
        """How often somebody was answered in the migration at hand, once that is over."""
        return 0 if self._answers is None else self._answers.given

    def give_back(self, *, close_gate: Callable[[], None]) -> list[bytes]:
        """The migration has failed, and the source announces the guest: all that came here before. Raises OSError."""
        select.select(self._lookouts, [], [], _ANNOUNCEMENT_S)
        self._await_stillness()
        close_gate()
        with contextlib.suppress(MigrationError):  # who has gone answers nobody either
            self.stop_answering()
        own = slice(VIRTIO_HEADER_BYTES + 6, VIRTIO_HEADER_BYTES + 12)  # the source's announcement came here as well
        frames = [frame for frame in self._plug.empty() if frame[own] != self._mac]
        self.settle()
        return frames

    def _await_stillness(self) -> None:
        """Until nothing comes to the plug any more."""
        begun = last = time.monotonic()
        before = self.held
        while (now := time.monotonic()) - last < _OVERTAKING_S and now - begun < _OVERTAKING_MOST_S:
            time.sleep(_POLL_S)
            if (found := self.held) != before:
                before, last = found, now

    def _watch(self) -> None:
        for lookout in self._lookouts:
            lookout.watch(self._mac)


class TimeLimit:
    """Closes the gate when frames have been held for too long: what comes later is dropped, what waits is not."""

    def __init__(self, limit_s: float, close_gate: Callable[[], None]) -> None:
        """It counts from here on."""
        self._close_gate = close_gate
        self._lock = threading.Lock()
        self._is_over = False
        self.was_reached = False
        self._timer = threading.Timer(limit_s, self._reach)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """From here on the gate is left alone."""
        with self._lock:
            self._is_over = True
        self._timer.cancel()

    def _reach(self) -> None:
        with self._lock:
            if not self._is_over:
                self._close_gate()
                self.was_reached = True
