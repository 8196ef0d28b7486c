"""Routers and firewalls, for topologies: hosts with several links that forward between them.

A topology says `self.addHost("r1", cls=Router)`. Nothing of them is configured here: the fabric gives them addresses
and routes (`segments`), and a firewall its rules (`firewall`).
"""

from __future__ import annotations

from typing import Any

from unnoticed.topology.link import PlainHost


class Router(PlainHost):
    """Forwards packets between its links, each of which leads into a segment of its own."""


class Firewall(Router):
    """A router that lets through what was begun behind it, away from the guest's segment, and what answers that."""


_OF_OTHERS = {"LinuxRouter"}  # Mininet's own example, which many topologies copy


def is_router(cls: Any) -> bool:
    """Whether a node of this class is a router, firewalls among them."""
    return (isinstance(cls, type) and issubclass(cls, Router)) or getattr(cls, "__name__", "") in _OF_OTHERS


def is_firewall(cls: Any) -> bool:
    """Whether a node of this class is a firewall."""
    return isinstance(cls, type) and issubclass(cls, Firewall)
