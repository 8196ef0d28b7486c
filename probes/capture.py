"""One capture point: an interface's packet ring, emptied into a pcap file.

The file is complete when the frames in it are the packets the kernel counted less those it dropped; `stop` makes sure
of that, the frames at the tail included, and says how many were dropped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unnoticed.errors import RecordError
from unnoticed.probes.packet_ring import (
    STATUS_KERNEL,
    STATUS_USER,
    STATUS_VLAN_TPID_VALID,
    STATUS_VLAN_VALID,
    PacketRing,
)
from unnoticed.probes.pcap import file_header, flatten_records

DEFAULT_SNAP = 114  # keeps every TCP option, behind an IPv6 header too: 14 + 40 + 60 bytes
DEFAULT_SLOTS = 1 << 16  # 16 MiB of kernel memory; 1.3 s at 50 000 frames per second
_FIRST_LOOK = 64  # slots; a look doubles as long as all it sees are full
_SETTLED_S = 0.02
_SETTLE_LIMIT_S = 2.0
_TPID_8021Q = 0x8100


@dataclass(frozen=True, kw_only=True)
class CaptureCount:
    """What became of the frames at one point: complete if `frames == packets - drops` and nothing was dropped."""

    frames: int  # in the file
    packets: int  # seen by the kernel
    drops: int  # of these, for want of a free slot

    @property
    def complete(self) -> bool:
        return self.drops == 0 and self.frames == self.packets


class Capture:
    """Captures from construction on, both directions; must be created in the interface's network namespace."""

    def __init__(
        self, name: str, *, interface: str, file: Path, snap: int = DEFAULT_SNAP, slots: int = DEFAULT_SLOTS
    ) -> None:
        """Raises MachineError or FabricError (see PacketRing) and OSError if the file cannot be written."""
        self.name = name
        self.file = file
        self._ring = PacketRing(interface, slots=slots, snap=snap)
        self._status: npt.NDArray[np.uint32] = self._ring.headers["status"]
        self._head = 0
        self._frames = self._packets = self._drops = 0
        self._snap = snap
        self._refused: float | None = None
        self._output = file.open("wb", buffering=1 << 20)
        self._output.write(file_header(snap=snap))

    def drain(self) -> int:
        """Move what is in the ring to the file; returns how many frames that were."""
        moved, look = 0, _FIRST_LOOK
        while True:
            look = min(look, len(self._status) - self._head)
            status = self._status[self._head : self._head + look]
            full = (status & STATUS_USER) != 0
            # Two processors can finish neighbouring slots in either order: only the unbroken run is ours.
            count = look if full.all() else int(full.argmin())
            if count:
                self._store(slice(self._head, self._head + count))
                status[:count] = STATUS_KERNEL
                self._head = (self._head + count) % len(self._status)
                moved += count
            if count < look:
                self._frames += moved
                return moved
            look = min(2 * max(look, _FIRST_LOOK), 4096)

    def flush(self) -> None:
        """Make what was drained visible to other readers of the file."""
        self._output.flush()

    def _store(self, run: slice) -> None:
        headers = self._ring.headers[run]
        slots = self._ring.slots[run]
        length = headers["len"]
        captured = np.minimum(headers["snaplen"], np.uint32(self._snap))
        start = headers["mac"]
        if (start == start[0]).all():
            data = slots[:, start[0] : int(start[0]) + self._snap]
        else:  # a longer link header, e.g. a VLAN tag that the sender put in
            data = slots[np.arange(len(slots))[:, None], start[:, None] + np.arange(self._snap)]
        tagged = np.flatnonzero(headers["status"] & STATUS_VLAN_VALID)
        if len(tagged):
            data, captured, length = data.copy(), captured.copy(), length.copy()
            tpid = np.where(
                headers["status"][tagged] & STATUS_VLAN_TPID_VALID, headers["vlan_tpid"][tagged], _TPID_8021Q
            )
            data[tagged] = restore_tags(data[tagged], tpid=tpid, tci=headers["vlan_tci"][tagged])
            captured[tagged] = np.minimum(captured[tagged] + 4, self._snap)
            length[tagged] += 4
        self._output.write(flatten_records(headers["sec"], headers["nsec"], captured, length, data).data)

    def _count(self) -> None:
        packets, drops = self._ring.statistics()
        self._packets += packets
        self._drops += drops

    def refuse(self) -> None:
        """Take no more frames. Called for all points first, so that their last frames settle side by side."""
        self._ring.refuse()
        self._refused = time.monotonic()

    def stop(self) -> CaptureCount:
        """Take no more frames, empty the ring, close the file, and check that it holds all that was captured.

        Raises RecordError if the file does not hold what the kernel counted, less the drops. Drops do not raise: they
        are in the result, and make it incomplete.
        """
        if self._refused is None:
            self.refuse()
        # A frame may be on its way through the kernel, counted and its slot not full yet, or not counted yet: done
        # when the numbers agree and nothing has come for a while.
        limit = time.monotonic() + _SETTLE_LIMIT_S
        settled = (self._refused or 0.0) + _SETTLED_S
        while True:
            before = self._frames, self._packets
            self.drain()
            self._count()
            now = time.monotonic()
            if (self._frames, self._packets) != before:
                settled = now + _SETTLED_S
            agrees = self._frames == self._packets - self._drops
            if (agrees and now >= settled) or now >= limit:
                break
            time.sleep(0.002)
        self._output.close()
        del self._status
        self._ring.close()
        if not agrees:
            raise RecordError(
                f"Capture {self.name}: {self.file} holds {self._frames} frames, but the kernel counted "
                f"{self._packets} packets and {self._drops} drops."
            )
        return CaptureCount(frames=self._frames, packets=self._packets, drops=self._drops)


def restore_tags(
    data: npt.NDArray[np.uint8], *, tpid: npt.NDArray[np.uint16], tci: npt.NDArray[np.uint16]
) -> npt.NDArray[np.uint8]:
    """Put the VLAN tags that the kernel took out back behind the MAC addresses; `data` is (n, width)."""
    tags = np.stack([tpid, tci], axis=1).astype(">u2").view(np.uint8)
    return np.concatenate([data[:, :12], tags, data[:, 12:-4]], axis=1)
