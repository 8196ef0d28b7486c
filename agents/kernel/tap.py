"""A tap device as a waiting room for frames (include/uapi/linux/if_tun.h): what is sent out of it is read here."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFTXQLEN = 0x8913, 0x8914, 0x8943  # include/uapi/linux/sockios.h
_IFF_UP = 1
_LARGEST_FRAME_BYTES = 1 << 17


class Tap:
    """A tap device in the network namespace of the calling thread, gone when it is closed."""

    def __init__(self, name: str, *, most_frames: int) -> None:
        """Make it and bring it up; it holds `most_frames`. Raises OSError."""
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            made = fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            self.name = made[:16].rstrip(b"\0").decode()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                request = struct.pack("16si20x", self.name.encode(), most_frames)
                fcntl.ioctl(control.fileno(), _SIOCSIFTXQLEN, request)
                answer = fcntl.ioctl(control.fileno(), _SIOCGIFFLAGS, struct.pack("16sh22x", self.name.encode(), 0))
                state = struct.unpack_from("h", answer, 16)[0] | _IFF_UP
                fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", self.name.encode(), state))
            self.index = socket.if_nametoindex(self.name)
        except BaseException:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """Readable while frames wait."""
        return self._fd

    def read(self) -> list[bytes]:
        """All frames that wait, each behind its struct virtio_net_hdr, in order."""
        frames: list[bytes] = []
        while True:
            try:
                frames.append(os.read(self._fd, _LARGEST_FRAME_BYTES))
            except BlockingIOError:
                return frames

    def close(self) -> None:
        os.close(self._fd)
