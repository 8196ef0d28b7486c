"""What was measured of one direction of a link against what it was asked to be. Pure.

Bounds: the rate within 3 %, the delay within 0.3 ms, the loss within what chance allows in 99 of 100 measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from unnoticed.topology.direction import Direction

RATE_TOLERANCE = 0.03
DELAY_TOLERANCE_NS = 300_000
LOSS_CONFIDENCE = 0.99


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What became of `sent` probe frames, and the rate of frames that were sent as fast as the link took them.

    Times in ns, from the sending to the arrival at the other end, of frames that arrived; None if none did.
    `rate_bit_per_s` is of Ethernet frames, before losses; None if it was not measured. `overtaken`: frames that arrived
    after one that was sent later.
    """

    sent: int
    lost: int
    repeated: int
    overtaken: int
    delay_ns: int | None  # median
    least_ns: int | None
    most_ns: int | None  # 99th percentile
    rate_bit_per_s: float | None = None


def binomial_bounds(n: int, share: float, *, confidence: float = LOSS_CONFIDENCE) -> tuple[int, int]:
    """The smallest and the largest count out of `n` that chance allows where each happens with probability `share`.

    Each tail beyond them has at most half of what the confidence leaves.
    """
    tail = (1 - confidence) / 2
    below, low, high = 0.0, 0, n
    for count in range(n + 1):
        chance = _binomial(n, count, share)
        if below + chance > tail:
            low = count
            break
        below += chance
    above = 0.0
    for count in range(n, -1, -1):
        chance = _binomial(n, count, share)
        if above + chance > tail:
            high = count
            break
        above += chance
    return low, high


def _binomial(n: int, count: int, share: float) -> float:
    if share <= 0 or share >= 1:
        return float(count == (n if share >= 1 else 0))
    logarithm = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return math.exp(logarithm + count * math.log(share) + (n - count) * math.log1p(-share))


def differences(asked: Direction, measured: Measured) -> list[str]:
    """In which ways the link is not what was asked for, in words; empty if it is."""
    return list(_differences(asked, measured))


def _differences(asked: Direction, measured: Measured) -> Iterator[str]:
    share = asked.loss_ppm / 1e6
    low, high = binomial_bounds(measured.sent, share)
    if not low <= measured.lost <= high:
        yield f"{measured.lost} of {measured.sent} frames were lost, where {low} to {high} were to be expected"
    arrived = measured.sent - measured.lost
    low, high = binomial_bounds(arrived, asked.duplicate_ppm / 1e6)
    if not low <= measured.repeated <= high:
        yield f"{measured.repeated} of {arrived} frames came twice, where {low} to {high} were to be expected"
    if measured.overtaken and not asked.reorder_ppm:
        yield f"{measured.overtaken} frames were overtaken"
    if measured.delay_ns is None or measured.least_ns is None or measured.most_ns is None:
        yield "no frame arrived"
    elif asked.jitter_ns:
        least, most = asked.delay_ns - asked.jitter_ns, asked.delay_ns + asked.jitter_ns
        if not asked.reorder_ppm and measured.least_ns < least:
            yield f"the shortest delay is {_ms(measured.least_ns)}, less than {_ms(least)}"
        if measured.most_ns > most + DELAY_TOLERANCE_NS:
            yield f"99 % of the delays are up to {_ms(measured.most_ns)}, more than {_ms(most)}"
    elif abs(measured.delay_ns - asked.delay_ns) > DELAY_TOLERANCE_NS and asked.reorder_ppm < 500_000:
        yield f"the delay is {_ms(measured.delay_ns)} instead of {_ms(asked.delay_ns)}"
    rate = measured.rate_bit_per_s
    if rate is not None and asked.rate_bit_per_s is not None and abs(rate / asked.rate_bit_per_s - 1) > RATE_TOLERANCE:
        yield f"the rate is {rate / 1e6:.4g} Mbit/s instead of {asked.rate_bit_per_s / 1e6:.4g}"


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.2f} ms"
