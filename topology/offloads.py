"""What a device leaves to the hardware that a veth pair does not have: check sums. By ioctl SIOCETHTOOL.

Source: include/uapi/linux/ethtool.h, include/uapi/linux/sockios.h, net/ethtool/ioctl.c.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from unnoticed.errors import FabricError

_SIOCETHTOOL = 0x8946
_GTXCSUM, _STXCSUM = 0x16, 0x17


def compute_checksums(devices: list[str], *, where: str) -> None:
    """Let the kernel compute check sums before frames leave by these devices, and read that back.

    Else a frame that goes out of the kernel and in again has none. In the calling thread's namespace. Raises
    FabricError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for device in devices:
            try:
                _ask(any_socket, device, _STXCSUM, 0)
                now = _ask(any_socket, device, _GTXCSUM, 0)
            except OSError as error:
                raise FabricError(f"Cannot set the check sums of {device} at {where}: {error.strerror}.") from error
            if now:
                raise FabricError(f"The kernel still leaves the check sums of {device} at {where} to the device.")


def _ask(any_socket: socket.socket, device: str, command: int, value: int) -> int:
    argument = ctypes.create_string_buffer(struct.pack("=II", command, value))
    fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(argument)))
    answer: int = struct.unpack_from("=I", argument.raw, 4)[0]
    return answer
