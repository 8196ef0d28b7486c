"""IPv6 in the namespaces of a fabric: nowhere, or only where there are addresses, and nothing said unasked.

What kernels send of their own accord would re-teach switches where the guest is, and nobody could tell by which frame
they learned it: router solicitations, neighbour solicitations for one's own address (duplicate address detection), and
reports of multicast groups for seconds after an address was added. See Documentation/networking/ip-sysctl.rst, and
net/ipv6/addrconf.c, mcast.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unnoticed.errors import MachineError
from unnoticed.topology.namespaces import set_sysctl

_QUIET = {
    "accept_dad": "0",
    "accept_ra": "0",
    "autoconf": "0",
    "router_solicitations": "0",
    # Milliseconds until a report is repeated: while the fabric is built. 20 are whole ticks, whatever a tick is.
    "mldv1_unsolicited_report_interval": "20",
    "mldv2_unsolicited_report_interval": "20",
}


def silence_ipv6() -> None:
    """No IPv6 on any interface of the calling thread's namespace, and on none that is to come."""
    for which in ("all", "default"):
        set_sysctl(f"net/ipv6/conf/{which}/disable_ipv6", "1", optional=True)


def allow_ipv6(interfaces: Sequence[str], *, forwards: bool) -> None:
    """IPv6 on these interfaces, which are down yet, on the loopback, and on those to come.

    Not on those that are there besides: ports of a bridge would get addresses of their own. Raises MachineError where
    the kernel has no IPv6, FabricError where it refuses.
    """
    if not Path("/proc/sys/net/ipv6").exists():
        raise MachineError('This kernel runs without IPv6: without it use clients.ip = "ipv4".')
    for which in ("all", "default", *interfaces):
        for name, value in _QUIET.items():
            set_sysctl(f"net/ipv6/conf/{which}/{name}", value)
    if forwards:
        set_sysctl("net/ipv6/conf/all/forwarding", "1")
    for which in ("default", "lo", *interfaces):
        set_sysctl(f"net/ipv6/conf/{which}/disable_ipv6", "0")
