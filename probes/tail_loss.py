"""From which blackout on a sender repeats a segment that was not lost, but late: its timers. Pure.

A segment that finds nobody is answered when the guest runs again: a round trip and a blackout after it was sent.
Linux does not wait for ever: with two segments or more in flight it sends a tail-loss probe 2 SRTT and
`PROBE_LEAST_NS` after the last one, with one in flight 200 ms later than that, lest it be a delayed acknowledgement;
and never later than the retransmission timeout, SRTT and 200 ms at least (RFC 8985, section 7.2; RFC 6298;
net/ipv4/tcp_output.c, tcp_schedule_loss_probe). Each segment that is sent in time starts the probe's timer anew, until
the window is full. A timer that is rounded up to the kernel's ticks may be later by two of them, so what is said here
is when it can happen at the earliest.
"""

from __future__ import annotations

from unnoticed.probes.retransmits import LEAST_RTO_NS

LEAST_WINDOW = 10  # segments that may be in flight, at first and after a pause (RFC 6928, TCP_INIT_CWND)
PROBE_LEAST_NS = 2_000_000  # TCP_TIMEOUT_MIN_US, include/net/tcp.h; before Linux 6.7 two ticks, which is more


def harmless_blackout_ns(*, rtt_ns: int, interval_ns: int | None) -> int:
    """The longest blackout in which no timer of a sender can run out.

    `rtt_ns`: the round trip as the sender knows it. `interval_ns`: how long after a segment the sender sends the next,
    though it has heard nothing; None if it never does.
    """
    timeout_ns = rtt_ns + LEAST_RTO_NS
    if interval_ns is None:
        return timeout_ns - rtt_ns
    probe_ns = 2 * rtt_ns + PROBE_LEAST_NS
    segments = LEAST_WINDOW if interval_ns < probe_ns else 2
    return min(timeout_ns, (segments - 1) * interval_ns + probe_ns) - rtt_ns
