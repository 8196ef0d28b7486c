"""What a device leaves to hardware that a veth pair does not have: check sums, and cutting into frames.

Source: include/uapi/linux/ethtool.h, include/uapi/linux/sockios.h, net/ethtool/ioctl.c; ethtool(8).
"""

from __future__ import annotations

import ctypes
import fcntl
import re
import socket
import struct
import subprocess

from unnoticed.errors import FabricError, MachineError

_SIOCETHTOOL = 0x8946
_GTXCSUM, _STXCSUM = 0x16, 0x17
_SEGMENTATION = ("tcp-segmentation-offload", "tx-udp-segmentation")  # of all that `ethtool -k` shows
_TIMEOUT_S = 30.0


def send_single_frames(devices: list[str], *, where: str) -> None:
    """Let the kernel cut what TCP hands over into frames before they leave by these devices, and read that back.

    Else up to 64 KiB leave at once, and what is lost, delayed or repeated would be a burst of frames. In the calling
    thread's namespace. Raises FabricError or MachineError.
    """
    for device in devices:
        _ethtool("-K", device, "tso", "off", "tx-udp-segmentation", "off")
        shown = dict(re.findall(r"^([a-z0-9-]+): (on|off)", _ethtool("-k", device), re.MULTILINE))
        wrong = [name for name in _SEGMENTATION if shown.get(name, "off") != "off"]
        if wrong:
            raise FabricError(f"{device} of {where} should send single frames, but has {' and '.join(wrong)} on.")


def _ethtool(*arguments: str) -> str:
    try:
        done = subprocess.run(["ethtool", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise MachineError("There is no ethtool on this machine: install Debian's package ethtool.") from None
    except subprocess.TimeoutExpired as error:
        raise FabricError(f"ethtool did not answer within {_TIMEOUT_S:g} s.") from error
    if done.returncode != 0:
        raise FabricError(f"`ethtool {' '.join(arguments)}` failed: {' '.join(done.stderr.split())}")
    return done.stdout


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
