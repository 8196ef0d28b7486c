"""What a policy is: after each round it decides to iterate, switch over, or give up; and how fast to go on.

A policy is a frozen dataclass with one method, `decide`, from what is known after a round to a Decision. It has no
clock and no state but what it is given: the history of the rounds is its argument. Its fields are its parameters: a
plan sets them by their names less the unit (`threshold_bytes` is `migration.threshold = "256 KiB"`).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from unnoticed.agents.forecast import Outlook, Round


class Action(Enum):
    """What to do after a round."""

    ITERATE = "iterate"
    SWITCH = "switch"
    GIVE_UP = "give-up"


@dataclass(frozen=True)
class Decision:
    """What to do, and how to go on: it holds for the next round, or, on a switch, for what is left."""

    action: Action
    rate_bit_per_s: int | None = None  # the stream's pace; None: as fast as the plan lets it
    throttle_ppm: int = 0  # share of the time for which the guest is kept from running, until the pause
    limit_ns: int | None = None  # end the round after so long; what it has not sent then is left over


ITERATE = Decision(Action.ITERATE)
SWITCH = Decision(Action.SWITCH)
GIVE_UP = Decision(Action.GIVE_UP)


@dataclass(frozen=True)
class Policy(ABC):
    """Decides after each round. Subclasses are frozen dataclasses whose fields, `int` or `bool`, have defaults."""

    def __post_init__(self) -> None:
        """Hold every parameter to its bounds. Raises ValueError."""
        for each in parameters_of(type(self)):
            bound = each.broken_bound(getattr(self, each.name))
            if bound is not None:
                raise ValueError(f"{each.name} = {getattr(self, each.name)} is out of range: it must be {bound}")

    def begin(self, outlook: Outlook) -> Decision:  # noqa: ARG002 (for those that pace round 0)
        """How to send round 0: an ITERATE. Nothing is known of the connections yet."""
        return ITERATE

    @abstractmethod
    def decide(self, rounds: Sequence[Round], outlook: Outlook) -> Decision:
        """What to do after a round. `rounds` is never empty; the last one has just ended."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a policy: `name` ends in its unit (`_ns`, `_bytes`, `_bit_per_s`, ...), if it has one."""

    name: str
    default: int | bool
    at_least: int | None = None
    at_most: int | None = None

    def broken_bound(self, value: int) -> str | None:
        """Which bound a value breaks, in words; None where it keeps them."""
        if self.at_least is not None and value < self.at_least:
            return f"at least {self.at_least}"
        if self.at_most is not None and value > self.at_most:
            return f"at most {self.at_most}"
        return None


def parameter(default: int, *, at_least: int | None = None, at_most: int | None = None) -> Any:
    """A field of a policy with bounds, both included, in the unit of its name."""
    return dataclasses.field(default=default, metadata={"at_least": at_least, "at_most": at_most})


def parameters_of(policy: type[Policy]) -> tuple[Parameter, ...]:
    """The parameters of a policy, in their order. Raises TypeError where it is not as a policy must be."""
    if "__dataclass_fields__" not in vars(policy):
        raise TypeError(f"{policy.__name__} is not a dataclass")
    found = []
    for field in dataclasses.fields(policy):
        if not isinstance(field.default, int):
            raise TypeError(f"its parameter {field.name} has no whole number, true or false as a default")
        bounds = {name: field.metadata.get(name) for name in ("at_least", "at_most")}
        found.append(Parameter(name=field.name, default=field.default, **bounds))
    return tuple(found)
