"""The plug: it stands between a host's bridge and the guest's vNIC, and keeps frames back while no guest is behind it.

It is a token bucket on the host's end of the guest's link. Armed, its rate is a byte per second: frames wait in its one
queue, in their order, and what does not fit is dropped. Opened, it lets them go before anything newer.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.packet_socket import VIRTIO_HEADER_BYTES, Collector, Filler, Injector
from unnoticed.agents.kernel.token_bucket import TokenBucket

FILLING_ETHER_TYPE = 0x88B5  # IEEE 802, local experimental: what no guest takes for its own
_FILLING_BYTES = 1500
_SMALLEST_BYTES = 60
_BUFFER_FACTOR, _SPARE_BYTES = 4, 1 << 20  # what frames take of a socket's buffer, in their lengths
_GSO_TYPE_AT = 1  # in struct virtio_net_hdr
_PIECES_S = 0.001
_SILENCE_S = 1.0  # a frame that has not come by then is lost: a busy machine takes its time, and what is due is counted


@dataclass(frozen=True)
class Held:
    """What waits behind a plug, and what it had to refuse since it was armed."""

    frames: int
    bytes: int
    refused: int


class Plug:
    """The plug on one host, open when it is made. It has to be made before the guest's link is in use."""

    def __init__(self, interface: str, *, guest: tuple[NetworkNamespace, str], limit_bytes: int) -> None:
        """On this interface of the calling thread's network namespace; `guest` is its other end. Raises OSError."""
        namespace, guest_interface = guest
        with namespace.entered():
            self._collector = Collector(guest_interface)
        self._bucket = TokenBucket(socket.if_nametoindex(interface), limit_bytes=limit_bytes)
        self._filler = Filler(interface, ether_type=FILLING_ETHER_TYPE)
        self._injector = Injector(interface)
        self._limit_bytes = limit_bytes
        self._refused_before = 0
        self.is_armed = False

    def arm(self, *, limit_bytes: int) -> None:
        """Hold what comes from now on, up to so many bytes. Raises OSError."""
        self._limit_bytes = limit_bytes
        self._bucket.throttle(limit_bytes=limit_bytes)
        self.is_armed = True
        # The bucket starts full. Frames that nobody takes empty it to the last byte.
        self._filler.send(frames=self._bucket.burst_bytes // _FILLING_BYTES, length=_FILLING_BYTES)
        self._refused_before = self._bucket.statistics().drops

    def held(self) -> Held:
        """Raises OSError."""
        found = self._bucket.statistics()
        return Held(found.frames, found.bytes, found.drops - self._refused_before)

    def release(self, first: list[bytes]) -> None:
        """Let `first` through, then what is held, then whatever comes. Raises OSError."""
        try:
            self._inject_and_wait(first)
        finally:
            self._bucket.open()
            self.is_armed = False
            # A frame that comes is what sets the queue in motion, also one that finds no room in it.
            try:
                self._filler.send(frames=1, length=_SMALLEST_BYTES)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def inject(self, frames: list[bytes]) -> None:
        """Send frames to the guest past the plug. Raises OSError."""
        self._injector.send(frames)

    def _inject_and_wait(self, frames: list[bytes]) -> None:
        """The same, until the guest's end has them.

        The kernel keeps the order of a flow by a hash that injected frames have not got: another processor may handle
        them than those behind them, which overtake them then.
        """
        if not frames:
            return
        self._collector.watch(buffer_bytes=_BUFFER_FACTOR * sum(map(len, frames)) + _SPARE_BYTES)
        try:
            self._injector.send(frames)
            for _ in frames:
                if self._collector.receive(patience_s=_SILENCE_S) is None:
                    return
            if any(frame[_GSO_TYPE_AT] for frame in frames):  # it comes in pieces, nobody knows how many
                while self._collector.receive(patience_s=_PIECES_S) is not None:
                    pass
        finally:
            self._collector.forget()

    def empty(self) -> list[bytes]:
        """Open the plug and take what it held: out of the guest's end of the link, which nobody listens at.

        Nothing new may come any more, and what the guest's end says in answer must go nowhere. Raises OSError.
        """
        left = self.held().frames + 1  # the last one sets the queue in motion, if there is room for it
        self._collector.watch(buffer_bytes=_BUFFER_FACTOR * self._limit_bytes + _SPARE_BYTES)
        try:
            self.release([])
            frames: list[bytes] = []
            while left and (frame := self._collector.receive(patience_s=_SILENCE_S)) is not None:
                left -= 1
                ether_type = frame[VIRTIO_HEADER_BYTES + 12 : VIRTIO_HEADER_BYTES + 14]
                if ether_type != FILLING_ETHER_TYPE.to_bytes(2, "big"):
                    frames.append(frame)
            return frames
        finally:
            self._collector.forget()

    def close(self) -> None:
        """Let go of it; it stays in place."""
        for each in (self._collector, self._bucket, self._filler, self._injector):
            each.close()
