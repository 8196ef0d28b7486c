"""Roles: which hosts of a topology play which part. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SOURCE, DESTINATION, CONTROL = "a", "b", "control"  # what the stock shapes call them
GUEST_SOURCE, GUEST_DESTINATION = "guest-a", "guest-b"  # the guest's own network stack at source and destination
RESERVED = (SOURCE, DESTINATION, CONTROL, GUEST_SOURCE, GUEST_DESTINATION)  # records name the roles so


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which hosts are the two that migrate, and which one never does. Every other host is a client.

    `control` may be None: where the topology has no host of that name, one is added beside the source.
    """

    source: str = SOURCE
    destination: str = DESTINATION
    control: str | None = None

    @property
    def control_name(self) -> str:
        """The name of the control server, which the topology has or will have."""
        return self.control or CONTROL

    def clients(self, hosts: Iterable[str]) -> list[str]:
        """The clients among `hosts`, in natural order (c2 before c10)."""
        taken = {self.source, self.destination, self.control_name}
        return sorted((host for host in hosts if host not in taken), key=natural)

    def problems(self, hosts: Sequence[str], *, topology: str) -> list[str]:
        """A sentence for each role that no host, or no host of its own, can play."""
        known = ", ".join(sorted(hosts, key=natural)) or "none"
        played = {"source": self.source, "destination": self.destination}
        if self.control is not None:
            played["control"] = self.control
        problems = [
            f'fabric.{role}: {topology} has no host "{name}" to be the {role}; its hosts are {known}: '
            f'name one of them, as in fabric.{role} = "..."'
            for role, name in played.items()
            if name not in hosts
        ]
        if len(set(played.values())) < len(played):
            named = ", ".join(f'{role} "{name}"' for role, name in played.items())
            problems.append(f"fabric: {' and '.join(played)} must be different hosts, not {named}.")
        problems += [
            f'fabric.shape: {topology} has a host "{client}" that is a client; records call the roles so, '
            "so give it another name, or that role."
            for client in self.clients(hosts)
            if client in RESERVED
        ]
        return problems


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]
