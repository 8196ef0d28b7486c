"""What was measured of one direction of a link against what it was asked to be. Pure.

Bounds: the rate within 3 %, the delay within 0.3 ms, and loss, duplication and reordering within what chance allows in
99 of 100 measurements. Jitter has to show, and to stay within its range. A queue's length is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from unnoticed.topology.direction import Direction

RATE_TOLERANCE = 0.03
DELAY_TOLERANCE_NS = 300_000
LOSS_CONFIDENCE = 0.99
LATE_TOLERANCE_NS = 5_000_000  # of one frame in a hundred: machines stand still for a while
LEAST_PERIOD_NS = 1_000_000  # of the probe frames


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What became of `sent` probe frames, and the rate of frames that were sent as fast as the link took them.

    Times in ns, from the sending to the arrival at the other end, of frames that arrived; None if none did.
    `rate_bit_per_s` is of Ethernet frames, before losses; None if it was not measured. `overtaken`: frames that arrived
    after one that was sent later. `early`: frames that took less than half the shortest delay, as reordered ones do;
    they are left out of the times.
    """

    sent: int
    lost: int
    repeated: int
    overtaken: int
    early: int
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


def early_below_ns(asked: Direction) -> int:
    """What a frame that is reordered takes less than, and no other does; 0 where the two cannot be told apart."""
    least = asked.delay_ns - asked.jitter_ns
    return least // 2 if least // 2 > DELAY_TOLERANCE_NS else 0


def least_spread_ns(jitter_ns: int) -> float:
    """How far apart the delays of probe frames must be at least, where a jitter is asked for.

    A relay keeps their order, so that a frame waits for those before it: of a wide jitter only the longest delays show.
    """
    return min(jitter_ns, math.sqrt(jitter_ns * LEAST_PERIOD_NS)) / 2


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
    if early_below_ns(asked):
        share = asked.reorder_ppm / 1e6
        low, high = binomial_bounds(arrived, 1 - (1 - share) * (1 - share * asked.duplicate_ppm / 1e6))  # of copies one
        if not low <= measured.early <= high:
            yield f"{measured.early} of {arrived} frames passed without the delay, where {low} to {high} were due"
    if arrived:
        yield from _delay_differences(asked, measured)
    else:
        yield "no frame arrived"
    rate = measured.rate_bit_per_s
    if rate is not None and asked.rate_bit_per_s is not None and abs(rate / asked.rate_bit_per_s - 1) > RATE_TOLERANCE:
        yield f"the rate is {rate / 1e6:.4g} Mbit/s instead of {asked.rate_bit_per_s / 1e6:.4g}"


def _delay_differences(asked: Direction, measured: Measured) -> Iterator[str]:
    if measured.delay_ns is None or measured.least_ns is None or measured.most_ns is None:
        return  # all were reordered
    least, most = asked.delay_ns - asked.jitter_ns, asked.delay_ns + asked.jitter_ns
    if asked.jitter_ns:
        if measured.least_ns < least and (early_below_ns(asked) or not asked.reorder_ppm):
            yield f"the shortest delay is {_ms(measured.least_ns)}, less than {_ms(least)}"
        spread = measured.most_ns - measured.least_ns
        if spread < least_spread_ns(asked.jitter_ns):
            yield f"delays differ by {_ms(spread)}, which is no jitter of {_ms(asked.jitter_ns)}"
        tolerance_ns = DELAY_TOLERANCE_NS
    else:
        is_plain = early_below_ns(asked) or asked.reorder_ppm < 500_000
        if is_plain and abs(measured.delay_ns - asked.delay_ns) > DELAY_TOLERANCE_NS:
            yield f"the delay is {_ms(measured.delay_ns)} instead of {_ms(asked.delay_ns)}"
        tolerance_ns = LATE_TOLERANCE_NS
    if measured.most_ns > most + tolerance_ns:
        yield f"99 % of the delays are up to {_ms(measured.most_ns)}, more than {_ms(most)}"


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.2f} ms"
