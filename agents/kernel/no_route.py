"""No route: a network namespace from which nothing new can be sent (include/uapi/linux/fib_rules.h).

The timers of TCP go on in a namespace whose processes stand still, where those of a virtual machine would stand with
it. A segment that is to be sent again is routed anew first (__tcp_retransmit_skb in net/ipv4/tcp_output.c), and where
there is no route it is neither sent nor counted.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from unnoticed.errors import MachineError
from unnoticed.rtnetlink import NLM_F_CREATE, Rtnetlink, attribute, message

_RTM_NEWRULE, _RTM_DELRULE = 32, 33
_NLM_F_EXCL = 0x200
_FR_ACT_PROHIBIT, _FRA_PRIORITY = 8, 6
_RULE = struct.Struct("=BBBBBBBBI")  # struct fib_rule_hdr: family ... action, flags
_PRIORITY = 1  # behind the table of the namespace's own addresses, before all others


class NoRoute:
    """What takes the routes of one network namespace away for a while."""

    def __init__(self) -> None:
        """Of the calling thread's. What one has left behind that was not closed is removed. Raises MachineError."""
        self._netlink = Rtnetlink()
        self._rules: dict[int, bytes] = {
            family: _RULE.pack(family, 0, 0, 0, 0, 0, 0, _FR_ACT_PROHIBIT, 0)
            + attribute(_FRA_PRIORITY, struct.pack("=I", _PRIORITY))
            for family in (socket.AF_INET, socket.AF_INET6)
        }
        for family in tuple(self._rules):
            try:
                self._remove(family)
            except OSError as error:
                if family == socket.AF_INET:
                    raise MachineError(
                        f"Routes cannot be taken away on this machine: {error}. It takes policy routing "
                        "(CONFIG_IP_MULTIPLE_TABLES); without it leave zero_window out."
                    ) from error
                del self._rules[family]  # there is no IPv6 here

    def begin(self) -> None:
        """From here on there is none. Raises OSError."""
        for rule in self._rules.values():
            what = "taking the routes away"
            self._netlink.request(message(_RTM_NEWRULE, rule, flags=NLM_F_CREATE | _NLM_F_EXCL), what=what)

    def end(self) -> None:
        """The routes are back, also where they had not been taken away."""
        for family in self._rules:
            with contextlib.suppress(OSError):
                self._remove(family)

    def _remove(self, family: int) -> None:
        try:
            self._netlink.request(message(_RTM_DELRULE, self._rules[family]), what="giving the routes back")
        except FileNotFoundError:
            return

    def close(self) -> None:
        self._netlink.close()
