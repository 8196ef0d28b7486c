"""Which policies there are: the stock ones, and those that installed packages add by an entry point.

A package names its own in the group `unnoticed.policies` of its metadata; see docs/policies.md. The stock ones are
named in the code, so that they are there wherever the code is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from unnoticed.agents.policy import Policy, parameters_of
from unnoticed.agents.stock_policies import STOCK

GROUP = "unnoticed.policies"


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Policies by name; and, by name as well, why one that is installed cannot be used."""

    policies: Mapping[str, type[Policy]]
    unusable: Mapping[str, str]


@functools.cache
def catalogue() -> Catalogue:
    """Every policy that can be had here. What a package has got wrong spoils nothing but its own policy."""
    policies, unusable = dict(STOCK), dict[str, str]()
    for entry in sorted(entry_points(group=GROUP)):
        package = entry.dist.name if entry.dist is not None else entry.module
        if entry.name in policies:
            unusable[entry.name] = f'"{entry.name}" of {package} has the name of another policy'
            continue
        try:
            policies[entry.name] = _load(entry)
        except Exception as error:  # whatever somebody else's code raises
            unusable[entry.name] = f'the policy "{entry.name}" of {package} cannot be used: {error}'
    return Catalogue(policies=policies, unusable=unusable)


def _load(entry: EntryPoint) -> type[Policy]:
    policy = entry.load()
    if not isinstance(policy, type) or not issubclass(policy, Policy):
        raise TypeError(f"{entry.value} is not a subclass of unnoticed.agents.policy.Policy")
    parameters_of(policy)
    return policy


def make_policy(name: str, parameters: Mapping[str, Any]) -> Policy:
    """The policy of this name with these parameters (those it does not know are an error: TypeError, ValueError)."""
    known = catalogue()
    if name not in known.policies:
        why = known.unusable.get(name, f"unknown policy {name!r}")
        raise ValueError(f"{why}; known are {', '.join(sorted(known.policies))}")
    return known.policies[name](**parameters)
