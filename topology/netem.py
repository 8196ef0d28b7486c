"""The kernel's network emulator, netem (net/sched/sch_netem.c, tc-netem(8)): the tc line, and what is read back. Pure.

Loss is not left to it: see `unnoticed.topology.forwarding`. With a jitter alone netem reorders; with a rate as well it
keeps the order, and the rate given for that costs a full frame less than a quarter of a microsecond.
"""

from __future__ import annotations

from typing import Any

from unnoticed.errors import FabricError
from unnoticed.topology.direction import WHOLE_PPM, Direction

ORDERING_RATE_BYTES_PER_S = 10_000_000_000
_UNSHAPED_BIT_PER_S = 10_000_000_000
_SMALLEST_FRAME_BITS = 64 * 8
_LIMIT_MINIMUM = 1000
_LIMIT_MAXIMUM = 1 << 20
_TOLERANCE_NS = 1000  # older kernels keep times in ticks of 64 ns, and tc prints them rounded


def limit_frames(direction: Direction) -> int:
    """How many frames the emulator must be able to hold: as many of the smallest as the rate lets pass in the delay."""
    held_ns = direction.delay_ns + direction.jitter_ns
    bits = (direction.rate_bit_per_s or _UNSHAPED_BIT_PER_S) * held_ns // 1_000_000_000
    return min(_LIMIT_MAXIMUM, _LIMIT_MINIMUM + bits // _SMALLEST_FRAME_BITS)


def netem_line(direction: Direction, device: str, *, verb: str = "add") -> str:
    """The line for `tc -batch` that makes the egress of `device` delay, reorder and repeat frames as asked."""
    words = [f"qdisc {verb} dev {device} root handle 1: netem limit {limit_frames(direction)}"]
    words.append(f"delay {_microseconds(direction.delay_ns)}")
    if direction.jitter_ns:
        words.append(_microseconds(direction.jitter_ns))
    if direction.reorder_ppm:
        words.append(f"reorder {_percent(direction.reorder_ppm)}")
    if direction.duplicate_ppm:
        words.append(f"duplicate {_percent(direction.duplicate_ppm)}")
    if direction.jitter_ns:
        words.append(f"rate {ORDERING_RATE_BYTES_PER_S * 8}bit")
    elif verb == "change":
        words.append("rate 0bit")  # what is not named stays as it was
    return " ".join(words)


def _microseconds(time_ns: int) -> str:
    """As tc reads it exactly. It has a unit for nanoseconds, but Debian 12's takes none of its spellings."""
    return f"{time_ns // 1000}.{time_ns % 1000:03d}us"


def _percent(ppm: int) -> str:
    return f"{ppm // 10_000}.{ppm % 10_000:04d}%"


def netem_differences(direction: Direction, qdiscs: list[dict[str, Any]]) -> list[str]:
    """What of `tc -j qdisc show dev X` is not what was asked for; empty if all is well.

    Raises FabricError if there is no netem, or more than it.
    """
    if [qdisc.get("kind") for qdisc in qdiscs] != ["netem"]:
        raise FabricError(f"The device should have netem and nothing else, but has {qdiscs}.")
    options = qdiscs[0]["options"]
    delay = options.get("delay", {})
    found = {
        "delay_ns": round(delay.get("delay", 0) * 1e9),
        "jitter_ns": round(delay.get("jitter", 0) * 1e9),
        "reorder_ppm": round(options.get("reorder", {}).get("reorder", 0) * WHOLE_PPM),
        "duplicate_ppm": round(options.get("duplicate", {}).get("duplicate", 0) * WHOLE_PPM),
        "limit": options.get("limit"),
        "rate": options.get("rate", {}).get("rate", 0),
        "loss": options.get("loss-random", {}).get("loss", 0),
    }
    exact = {
        "limit": limit_frames(direction),
        "rate": ORDERING_RATE_BYTES_PER_S if direction.jitter_ns else 0,
        "loss": 0,
    }
    wrong = [f"{name} is {found[name]} instead of {value}" for name, value in exact.items() if found[name] != value]
    for name in ("delay_ns", "jitter_ns", "reorder_ppm", "duplicate_ppm"):
        tolerance = _TOLERANCE_NS if name.endswith("_ns") else 1
        if abs(found[name] - getattr(direction, name)) > tolerance:
            wrong.append(f"{name} is {found[name]} instead of {getattr(direction, name)}")
    return wrong
