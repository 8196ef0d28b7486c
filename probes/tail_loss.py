"""From which blackout on a sender repeats a segment that was not lost, but late: its timers. Pure.

A segment that finds nobody is answered when the guest runs again: a round trip and a blackout after it was sent.
Linux does not wait for ever: with two segments or more in flight it sends a tail-loss probe 2 SRTT and
`PROBE_LEAST_NS` after the last one, with one in flight 200 ms later than that, lest it be a delayed acknowledgement;
and never later than the retransmission timeout, SRTT and 200 ms at least (RFC 8985, section 7.2; RFC 6298;
net/ipv4/tcp_output.c, tcp_schedule_loss_probe). A timer that is rounded up to the kernel's ticks may be later by two of
them, so what is said here is when it can happen at the earliest.
"""

from __future__ import annotations

from unnoticed.probes.retransmits import LEAST_RTO_NS

PROBE_LEAST_NS = 2_000_000  # TCP_TIMEOUT_MIN_US, include/net/tcp.h; before Linux 6.7 two ticks, which is more


def harmless_blackout_ns(*, rtt_ns: int, interval_ns: int | None) -> int:
    """The longest blackout in which no timer of a sender can run out.

    `rtt_ns`: the round trip as the sender knows it. `interval_ns`: how long after a segment the sender sends the next,
    though it has heard nothing; None if it never does.
    """
    alone_ns = rtt_ns + LEAST_RTO_NS
    if interval_ns is None:
        return alone_ns - rtt_ns
    together_ns = interval_ns + 2 * rtt_ns + PROBE_LEAST_NS
    return min(alone_ns, together_ns) - rtt_ns
