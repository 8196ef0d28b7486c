"""What a plan may say of policies: their names, and their parameters as keys of [migration].

Both come from the catalogue of policies, so that one which a package adds needs nothing here. A key that several of
them take means the same to all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field
from pydantic_core import PydanticCustomError

from unnoticed.agents.policy import Parameter, parameters_of
from unnoticed.agents.policy_catalogue import catalogue
from unnoticed.experiments.planning.fields import annotation_of, dimension_of, key_of
from unnoticed.experiments.planning.problems import near_word, one_of, shown, suggestion
from unnoticed.experiments.planning.quantities import written

DEFAULT_POLICY = "tcp-timeout"


class Policies:
    """The policies that a plan may name, each with its parameters. `taken`: keys of [migration] that mean other things.

    A policy whose parameters have the key of something else cannot be named.
    """

    def __init__(self, *, taken: Iterable[str]) -> None:
        known = catalogue()
        self._unusable = dict(known.unusable)
        self.parameters: dict[str, tuple[Parameter, ...]] = {}  # by policy
        self._by_key: dict[str, Parameter] = {}
        reserved = set(taken)
        for name, policy in known.policies.items():
            parameters = parameters_of(policy)
            wrong = next((each for each in parameters if key_of(each.name) in reserved or not self._agrees(each)), None)
            if wrong is not None:
                self._unusable[name] = (
                    f'the policy "{name}" cannot be used: "{key_of(wrong.name)}", as its parameter {wrong.name} would '
                    "be called in a plan, means something else there; its author must rename it"
                )
                continue
            self.parameters[name] = parameters
            self._by_key |= {key_of(each.name): each for each in parameters}

    def _agrees(self, parameter: Parameter) -> bool:
        other = self._by_key.get(key_of(parameter.name))
        return other is None or (other.name, type(other.default)) == (parameter.name, type(parameter.default))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all parameters."""
        return tuple(self._by_key)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters' fields."""
        return tuple(each.name for each in self._by_key.values())

    def taking(self, key: str) -> list[str]:
        """The policies that take a parameter of this key."""
        return [name for name, taken in self.parameters.items() if key in (key_of(each.name) for each in taken)]

    def defaults(self, policy: str) -> dict[str, int]:
        """A policy's parameters as they are unless a plan says otherwise."""
        return {each.name: each.default for each in self.parameters[policy]}

    def fields(self) -> dict[str, Any]:
        """A field for each parameter, for a pydantic model; None where a plan says nothing."""
        fields: dict[str, Any] = {}
        for key, each in self._by_key.items():
            annotation = bool if isinstance(each.default, bool) else annotation_of(each.name)
            fields[each.name] = (annotation | None, Field(alias=key, default=None))
        return fields

    def read(self, value: Any) -> Any:
        """Check the name of a policy, for a pydantic model."""
        if not isinstance(value, str) or value in self.parameters:
            return value
        near = near_word(value, self.parameters)
        sentence = f"{shown(value)} is not supported; write {one_of(self.parameters)}."
        if value in self._unusable:
            sentence = f"{self._unusable[value]}."
        elif near is not None:
            sentence = f"{shown(value)} is none of {one_of(self.parameters)}{suggestion(value, self.parameters)}"
        raise PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})

    def mistakes(self, policy: str, given: Mapping[str, int]) -> Iterable[tuple[str, str]]:
        """What is wrong with the parameters given to a policy, as (key, sentence)."""
        fine = True
        for each in self.parameters[policy]:
            value = given.get(each.name)
            if value is None or each.broken_bound(value) is None:
                continue
            fine = False
            yield key_of(each.name), f"{_written(each.name, value)} is out of range: it must be {_bound(each, value)}."
        if fine:
            own = {name: value for name, value in given.items() if name in self.defaults(policy)}
            try:
                catalogue().policies[policy](**own)
            except (TypeError, ValueError) as error:
                yield "policy", f'"{policy}" does not take its parameters: {error}.'


def _bound(parameter: Parameter, value: int) -> str:
    if parameter.at_least is not None and value < parameter.at_least:
        return f"at least {_written(parameter.name, parameter.at_least)}"
    return f"at most {_written(parameter.name, parameter.at_most or 0)}"


def _written(name: str, value: int) -> str:
    dimension = dimension_of(name)
    return str(value) if dimension is None else f'"{written(value, dimension)}"'
