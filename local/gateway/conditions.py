"""Decides which resources of a template exist: those whose condition holds, or that have none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class UnknownConditionError(Exception):
    """A condition has a function or a name that this module does not know."""


class Conditions:
    """The conditions of a template, with the values of its parameters and pseudo parameters."""

    def __init__(self, template: Mapping[str, Any], values: Mapping[str, str]) -> None:
        declared: Mapping[str, Any] = template.get("Parameters") or {}
        defaults = {n: p["Default"] for n, p in declared.items() if "Default" in p}
        self._values = {**defaults, **values}
        self._conditions: Mapping[str, Any] = template.get("Conditions") or {}

    def are_met_by(self, resource: Mapping[str, Any]) -> bool:
        """Returns whether CloudFormation creates the resource. Raises UnknownConditionError."""
        name = resource.get("Condition")
        return name is None or self._holds(name)

    def _holds(self, name: str) -> bool:
        if name not in self._conditions:
            raise UnknownConditionError(f"There is no condition {name}.")
        return self._is(self._conditions[name])

    def _is(self, rule: Any) -> bool:
        function, arguments = _one(rule)
        if function == "Condition":
            return self._holds(arguments)
        if function == "Fn::Equals":
            one, other = (self._text(each) for each in arguments)
            return one == other
        combined: dict[str, Callable[[Sequence[bool]], bool]] = {
            "Fn::And": all,
            "Fn::Or": any,
            "Fn::Not": lambda found: not found[0],
        }
        if function not in combined:
            raise UnknownConditionError(f"The condition has {function}, which is not read here.")
        return combined[function]([self._is(each) for each in arguments])

    def _text(self, value: Any) -> str:
        """Returns the text of a value that a condition compares."""
        if not isinstance(value, dict):
            return str(value)
        function, argument = _one(value)
        if function == "Ref" and argument in self._values:
            return str(self._values[argument])
        if function == "Fn::Join":
            between, parts = argument
            # A list parameter comes as one text, with commas, which CloudFormation splits.
            texts = self._text(parts).split(",") if isinstance(parts, dict) else parts
            return str(between).join(self._text(each) for each in texts)
        raise UnknownConditionError(f"A condition compares {function} of {argument}.")


def _one(value: Any) -> tuple[str, Any]:
    if not isinstance(value, dict) or len(value) != 1:
        raise UnknownConditionError(f"{value!r} is no condition.")
    ((function, arguments),) = value.items()
    return str(function), arguments
