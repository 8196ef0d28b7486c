"""What a link with a rate is asked to be, the tc lines that make it so, and what the kernel says it became. Pure.

HTB holds the rate; its leaf is a bfifo whose length is the queue's time at that rate. HTB counts whole Ethernet frames
without preamble and check sum, so TCP's goodput is 1448/1514 of the rate at most. The kernel hands frames over as
large as GSO lets them be, and HTB does not split them: a queue that could not hold one would drop every such frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from unnoticed.errors import FabricError, PlanError

LARGEST_FRAME_BYTES = 70_000  # 64 KiB of GSO, plus 66 bytes of headers for each of its segments as qdiscs count them
# tc gives HTB its burst as the time that it takes at the rate, in 32 bits of 64 ns: what is slower has a smaller one.
LEAST_BIT_PER_S, MOST_BIT_PER_S = 1_000, 34_000_000_000_000
_MOST_BYTES = (1 << 32) - 1  # of a burst and of bfifo's limit (struct tc_fifo_qopt of include/uapi/linux/pkt_sched.h)
QUANTUM_BYTES = 60_000  # with one class it only has to exist: without it HTB derives one and warns
_BURST_MINIMUM_BYTES = 15_000
_BURST_NS = 1_000_000  # a timer is late by less than this; the burst makes up for it
_TOLERANCE = 0.02  # tc prints rates in whole kbit, and the kernel keeps bursts in ticks


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """One direction of a link: a rate in bit/s, and a queue as long as `queue_ns` at that rate."""

    rate_bit_per_s: int
    queue_ns: int

    def __post_init__(self) -> None:
        if not LEAST_BIT_PER_S <= self.rate_bit_per_s <= MOST_BIT_PER_S:
            raise PlanError(
                f"A link's rate must be {LEAST_BIT_PER_S / 1e3:g} kbit/s to {MOST_BIT_PER_S / 1e12:g} Tbit/s, "
                f"not {self.rate_bit_per_s} bit/s: HTB takes no other."
            )
        if self.limit_bytes < LARGEST_FRAME_BYTES:
            needed_ms = -(-LARGEST_FRAME_BYTES * 8_000 // self.rate_bit_per_s)
            raise PlanError(
                f"A queue of {self.queue_ns / 1e6:g} ms at {self.rate_bit_per_s} bit/s holds {self.limit_bytes} bytes, "
                f"less than one frame as the kernel sends it ({LARGEST_FRAME_BYTES} bytes): "
                f"ask for a queue of at least {needed_ms} ms, or for a higher rate."
            )
        if self.limit_bytes > _MOST_BYTES:
            most_ms = _MOST_BYTES * 8_000 // self.rate_bit_per_s
            raise PlanError(
                f"A queue of {self.queue_ns / 1e6:g} ms at {self.rate_bit_per_s} bit/s holds {self.limit_bytes} bytes, "
                f"more than bfifo can count ({_MOST_BYTES} bytes): ask for a queue of at most {most_ms} ms, or for a "
                "lower rate."
            )

    @property
    def limit_bytes(self) -> int:
        """Length of the queue."""
        return self.rate_bit_per_s * self.queue_ns // 8_000_000_000

    @property
    def burst_bytes(self) -> int:
        """What HTB may send at once after an idle time."""
        return max(_BURST_MINIMUM_BYTES, self.rate_bit_per_s * _BURST_NS // 8_000_000_000)

    def lines(self, device: str) -> list[str]:
        """Lines for `tc -batch` that put this on the egress of `device`."""
        return [f"qdisc add dev {device} root handle 1: htb default 1", *self._settings(device, "add")]

    def change_lines(self, device: str) -> list[str]:
        """Lines for `tc -batch` that put this in the place of another shaping of `device`."""
        return self._settings(device, "change")

    def _settings(self, device: str, verb: str) -> list[str]:
        rate, burst = f"{self.rate_bit_per_s}bit", f"{self.burst_bytes}b"
        rates = f"rate {rate} ceil {rate} burst {burst} cburst {burst} quantum {QUANTUM_BYTES}"
        return [
            f"class {verb} dev {device} parent 1: classid 1:1 htb {rates}",
            f"qdisc {verb} dev {device} parent 1:1 handle 10: bfifo limit {self.limit_bytes}b",
        ]


@dataclass(frozen=True, kw_only=True)
class ShapingReading:
    """What the kernel says of the egress of one device."""

    rate_bit_per_s: int
    ceil_bit_per_s: int
    burst_bytes: int
    cburst_bytes: int
    quantum_bytes: int
    limit_bytes: int


_RATE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _field(text: str, name: str, unit: str) -> int:
    units = _RATE_UNITS if unit == "bit" else _SIZE_UNITS
    found = re.search(rf"\b{name} ([0-9.]+)([KMGT]?){unit}\b", text)
    if not found or found[2] not in units:
        raise FabricError(f"tc did not say the {name} of a class that was just added, but: {text!r}.")
    return round(float(found[1]) * units[found[2]])


def read_shaping(qdiscs: list[dict[str, Any]], classes: str) -> ShapingReading:
    """Make sense of `tc -j qdisc show dev X` and `tc -d class show dev X`.

    The classes come as text, because the tc of Debian 12 prints them as text even where JSON is asked for. Raises
    FabricError if they are not an HTB with one class and a bfifo below it.
    """
    kinds = [(qdisc.get("kind"), qdisc.get("handle"), qdisc.get("parent")) for qdisc in qdiscs]
    if kinds != [("htb", "1:", None), ("bfifo", "10:", "1:1")] or int(qdiscs[0]["options"]["default"], 0) != 1:
        raise FabricError(f"The device should have an HTB with a bfifo below its class 1:1, but has {qdiscs}.")
    lines = [line for line in classes.splitlines() if line.startswith("class ")]
    if len(lines) != 1 or not lines[0].startswith("class htb 1:1 "):
        raise FabricError(f"The device should have the one HTB class 1:1, but has {lines}.")
    return ShapingReading(
        rate_bit_per_s=_field(lines[0], "rate", "bit"),
        ceil_bit_per_s=_field(lines[0], "ceil", "bit"),
        burst_bytes=_field(lines[0], "burst", "b"),
        cburst_bytes=_field(lines[0], "cburst", "b"),
        quantum_bytes=_field(lines[0], "quantum", ""),
        limit_bytes=int(qdiscs[1]["options"]["limit"]),
    )


def differences(asked: Shaping, reading: ShapingReading) -> list[str]:
    """What of the reading is not what was asked for, e.g. "rate is 1 instead of 2"; empty if all is well."""
    expected = {
        "rate_bit_per_s": asked.rate_bit_per_s,
        "ceil_bit_per_s": asked.rate_bit_per_s,
        "burst_bytes": asked.burst_bytes,
        "cburst_bytes": asked.burst_bytes,
        "quantum_bytes": QUANTUM_BYTES,
        "limit_bytes": asked.limit_bytes,
    }
    return [
        f"{name} is {getattr(reading, name)} instead of {value}"
        for name, value in expected.items()
        if abs(getattr(reading, name) - value) > value * _TOLERANCE
    ]
