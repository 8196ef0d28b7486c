"""How those who speak to the guest learn its MAC address: what is asked of their kernels. Pure.

Source: Documentation/networking/ip-sysctl.rst (arp_accept, drop_gratuitous_arp; accept_untracked_na,
drop_unsolicited_na). Whatever they say, a gratuitous ARP or an unsolicited neighbour advertisement changes an entry
that is there, unless they are dropped. An advertisement makes one where there was none only at routers (RFC 9131).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What is asked, `at` hosts (clients and the control server), at routers, or at both."""

    at: Literal["everybody", "hosts", "routers"] = "everybody"
    static: bool = False  # the guest is known for good
    arp_accept: bool = False  # an announcement makes an entry where there was none
    drop_gratuitous_arp: bool = False  # nobody listens to announcements

    def knows_the_guest(self, who: Literal["hosts", "routers"]) -> bool:
        """Whether hosts or routers have an entry for the guest that never changes."""
        return self.static and self.at in ("everybody", who)

    def sysctls(self, who: Literal["hosts", "routers"]) -> dict[str, str]:
        """The settings of hosts or routers, by their name below net/ipv4/conf/all."""
        asked = self.at in ("everybody", who)
        return {
            "arp_accept": str(int(asked and self.arp_accept)),
            "drop_gratuitous_arp": str(int(asked and self.drop_gratuitous_arp)),
        }

    def ndp_sysctls(self, who: Literal["hosts", "routers"]) -> dict[str, str]:
        """The same for neighbour discovery, by their name below net/ipv6/conf/<interface>; only those that are asked.

        The first came with Linux 5.19.
        """
        asked = self.at in ("everybody", who)
        return {
            name: "1"
            for name, wanted in (
                ("accept_untracked_na", self.arp_accept),
                ("drop_unsolicited_na", self.drop_gratuitous_arp),
            )
            if asked and wanted
        }
