"""A port of which every frame is taken and at which frames are sent: AF_PACKET sockets with TPACKET_V2 rings.

Source: include/uapi/linux/if_packet.h, Documentation/networking/packet_mmap.rst, net/packet/af_packet.c. The rings of
several ports are mapped side by side, so that compiled code sees them as one matrix.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unnoticed.errors import FabricError, MachineError

SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
TPACKET_V2 = 1
ETH_P_ALL = 3
SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h

SLOT_BYTES = 2048  # holds a frame of 1518 bytes and the 66 of the slot's header
BLOCK_BYTES = 1 << 18
_SEND_BUFFER_BYTES = 4 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_PROT_READ_WRITE, _MAP_SHARED, _MAP_FIXED, _MAP_FAILED = 3, 1, 0x10, ctypes.c_void_p(-1).value  # mman-common.h


class PacketPorts:
    """One socket for each interface of the calling thread's namespace. `rings`: uint8, (ports, ring's bytes)."""

    def __init__(self, interfaces: Sequence[str], *, slots: int) -> None:
        """Frames are taken from here on; `slots`, of each port, are rounded up to whole blocks.

        Raises MachineError without the privilege or the memory for the rings, FabricError without such an interface.
        """
        blocks = -(-slots * SLOT_BYTES // BLOCK_BYTES)
        self.slots = blocks * BLOCK_BYTES // SLOT_BYTES
        self.interfaces = tuple(interfaces)
        self.sockets: list[socket.socket] = []
        self._drops = [0] * len(interfaces)
        ring_bytes = blocks * BLOCK_BYTES
        # One anonymous mapping reserves the addresses; the rings are then laid over it.
        self._memory = mmap.mmap(-1, max(1, len(interfaces)) * ring_bytes)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for number, interface in enumerate(interfaces):
            self.sockets.append(_open(interface, blocks=blocks, slots=self.slots))
            self._lay(self.sockets[-1], base + number * ring_bytes, ring_bytes)
        matrix = np.frombuffer(self._memory, np.uint8)[: len(interfaces) * ring_bytes]
        self.rings: npt.NDArray[np.uint8] = matrix.reshape(len(interfaces), ring_bytes)

    @staticmethod
    def _lay(one: socket.socket, address: int, length: int) -> None:
        got = _libc.mmap(address, length, _PROT_READ_WRITE, _MAP_SHARED | _MAP_FIXED, one.fileno(), 0)
        if got == _MAP_FAILED:
            raise MachineError(f"A packet ring could not be mapped: {os.strerror(ctypes.get_errno())}.")

    @property
    def descriptors(self) -> npt.NDArray[np.int64]:
        """The sockets' file descriptors, in the order of the interfaces."""
        return np.array([one.fileno() for one in self.sockets], np.int64)

    def drops(self) -> list[int]:
        """How many frames the kernel found no slot for, so far, by port."""
        for number, one in enumerate(self.sockets):
            _, drops = struct.unpack("=2I", one.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            self._drops[number] += drops  # the kernel starts anew at each look
        return list(self._drops)

    def clear_errors(self) -> None:
        """Take note of what makes a socket readable without a frame: its interface went down."""
        for one in self.sockets:
            one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _open(interface: str, *, blocks: int, slots: int) -> socket.socket:
    try:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except PermissionError as error:
        raise MachineError(f"Relaying frames needs the capability CAP_NET_RAW ({error}); run as root.") from error
    try:
        one.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        one.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        one.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        one.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)
        try:
            one.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("=4I", BLOCK_BYTES, blocks, SLOT_BYTES, slots))
        except OSError as error:
            size = blocks * BLOCK_BYTES >> 20
            raise MachineError(f"A packet ring of {size} MiB for {interface} was refused: {error}.") from error
        try:
            one.bind((interface, ETH_P_ALL))
        except OSError as error:
            raise FabricError(f"Frames cannot be relayed at {interface}: {error}.") from error
    except BaseException:
        one.close()
        raise
    return one
