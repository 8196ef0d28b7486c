"""AF_PACKET receive rings, TPACKET_V2: the kernel copies the start of each frame into a slot shared with us.

Source: include/uapi/linux/if_packet.h, Documentation/networking/packet_mmap.rst, net/packet/af_packet.c.

Version 2 rather than 3 because its slots have one fixed size, so that a whole run of frames can be read, stored and
parsed as one numpy matrix. Nobody sleeps on the socket: the kernel's wake-up for each frame then costs nothing, and
the ring is emptied by a timer.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from unnoticed.errors import FabricError, MachineError

SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
TPACKET_V2 = 1
ETH_P_ALL = 3
PACKET_OUTGOING = 4
SO_ATTACH_FILTER = 26

STATUS_KERNEL = 0
STATUS_USER = 1 << 0
STATUS_VLAN_VALID = 1 << 4
STATUS_VLAN_TPID_VALID = 1 << 6

# struct tpacket2_hdr, then struct sockaddr_ll at the next multiple of TPACKET_ALIGNMENT (16).
_HEADER: dict[str, tuple[str, int]] = {
    "status": ("=u4", 0),
    "len": ("=u4", 4),  # of the frame on the wire, or of the GSO super-frame
    "snaplen": ("=u4", 8),  # bytes in the slot
    "mac": ("=u2", 12),  # where in the slot the frame starts
    "net": ("=u2", 14),
    "sec": ("=u4", 16),
    "nsec": ("=u4", 20),
    "vlan_tci": ("=u2", 24),
    "vlan_tpid": ("=u2", 26),
    "pkttype": ("u1", 42),
}
USUAL_MAC = 66  # TPACKET_ALIGN(52 + 16) less the 14 bytes of an Ethernet header
_BLOCK_BYTES = 1 << 18


def slot_bytes_for(snap: int) -> int:
    """The smallest power of two that holds the slot's header and `snap` bytes of a frame."""
    return 1 << (USUAL_MAC + 14 + snap - 1).bit_length()


class PacketRing:
    """A socket with a ring, capturing both directions of one interface of the current network namespace.

    `headers` is a structured array of shape (slots,), `slots` a uint8 matrix of shape (slots, slot_bytes); both are
    views of the shared memory. A slot with STATUS_USER is ours until STATUS_KERNEL is written to it. The kernel
    writes the status last; x86 keeps the order of our loads (on weakly ordered machines this has not been tried).
    """

    def __init__(self, interface: str, *, slots: int, snap: int) -> None:
        """Capture starts here. `slots` is rounded up to whole blocks.

        Raises MachineError without the privilege or the memory for a ring, FabricError if there is no such interface.
        """
        self.snap = snap
        slot_bytes = slot_bytes_for(snap)
        blocks = -(-slots * slot_bytes // _BLOCK_BYTES)
        slots = blocks * _BLOCK_BYTES // slot_bytes
        try:
            # Protocol 0: nothing is received before the ring, the filter and the interface are set.
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError as error:
            raise MachineError(f"Capturing needs the capability CAP_NET_RAW ({error}); run as root.") from error
        try:
            self.socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            request = struct.pack("=4I", _BLOCK_BYTES, blocks, slot_bytes, slots)  # struct tpacket_req
            try:
                self.socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
                self._memory = mmap.mmap(self.socket.fileno(), blocks * _BLOCK_BYTES)
            except OSError as error:
                size = blocks * _BLOCK_BYTES >> 20
                raise MachineError(f"A packet ring of {size} MiB for {interface} was refused: {error}.") from error
            self._attach_return(snap)
            try:
                self.socket.bind((interface, ETH_P_ALL))
            except OSError as error:
                raise FabricError(f"Interface {interface} cannot be captured: {error}.") from error
        except BaseException:
            self.socket.close()
            raise
        self.slots: npt.NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8).reshape(slots, slot_bytes)
        layout: Any = {
            "names": list(_HEADER),
            "formats": [form for form, _ in _HEADER.values()],
            "offsets": [offset for _, offset in _HEADER.values()],
            "itemsize": slot_bytes,
        }
        self.headers: npt.NDArray[np.void] = np.frombuffer(self._memory, np.dtype(layout))

    def _attach_return(self, length: int) -> None:
        """Attach the classic BPF program `ret length`: how many bytes of each frame to copy, 0 for none at all."""
        program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, length))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))

    def refuse(self) -> None:
        """Take no further frames; those already in the ring stay, and the statistics stand still."""
        self._attach_return(0)

    def statistics(self) -> tuple[int, int]:
        """(packets, drops) since the last call: the kernel resets them. Packets include those dropped."""
        packets, drops = struct.unpack("=2I", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        return packets, drops

    def close(self) -> None:
        """Close the socket. The memory is unmapped when the last view of it is gone."""
        del self.slots, self.headers
        self.socket.close()
