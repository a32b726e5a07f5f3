"""The parameters of a deployment: from samconfig.toml, the command line or the last deployment."""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import DeployError

BUILD_ID = "BuildId"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the template."""

    name: str
    description: str
    default: str | None
    pattern: str
    allowed: tuple[str, ...]
    is_number: bool = False
    least: Decimal | None = None
    most: Decimal | None = None
    longest: int | None = None

    def check(self, value: str) -> None:
        """Raises DeployError for a value that CloudFormation would refuse only after the build."""
        if self.is_number:
            self._check_number(value)
        if self.longest is not None and len(value) > self.longest:
            raise DeployError(f"{self.name} must have at most {self.longest} characters.")
        if self.allowed and value not in self.allowed:
            allowed = ", ".join(self.allowed)
            raise DeployError(f"{self.name} must be one of {allowed}, not {value!r}.")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise DeployError(f"{self.name} must match {self.pattern}, and {value!r} does not.")

    def _check_number(self, value: str) -> None:
        if not _NUMBER.fullmatch(value):
            raise DeployError(f"{self.name} must be a number, not {value!r}.")
        if self.least is not None and Decimal(value) < self.least:
            raise DeployError(f"{self.name} must be at least {self.least}, not {value}.")
        if self.most is not None and Decimal(value) > self.most:
            raise DeployError(f"{self.name} must be at most {self.most}, not {value}.")


@dataclass(frozen=True, slots=True)
class Environment:
    """The parts of a samconfig.toml environment that a deployment needs."""

    name: str
    stack: str
    region: str | None
    parameters: Mapping[str, str]


@cache
def of_template(path: Path) -> Mapping[str, Parameter]:
    """Returns the template's parameters, in order. Leaves out BuildId, because it is computed."""
    document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    return {
        name: Parameter(
            name,
            " ".join(str(declared.get("Description", "")).split()),
            None if "Default" not in declared else str(declared["Default"]),
            str(declared.get("AllowedPattern", "")),
            tuple(map(str, declared.get("AllowedValues", ()))),
            declared.get("Type") == "Number",
            _limit(declared, "MinValue"),
            _limit(declared, "MaxValue"),
            declared.get("MaxLength"),
        )
        for name, declared in document["Parameters"].items()
        if name != BUILD_ID
    }


@cache
def kept_resources(path: Path, kind: str) -> tuple[str, ...]:
    """Returns the logical ids of resources of this type that remain when the stack is deleted."""
    document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    return tuple(
        name
        for name, each in document["Resources"].items()
        if each["Type"] == kind and each.get("DeletionPolicy") == "Retain"
    )


def _limit(declared: Mapping[str, Any], name: str) -> Decimal | None:
    return Decimal(str(declared[name])) if name in declared else None


def environment(samconfig: Path, name: str) -> Environment:
    """Returns the environment with this name. Raises DeployError if samconfig.toml has none."""
    try:
        environments = tomllib.loads(samconfig.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DeployError(f"{samconfig.name} cannot be read: {error}") from None
    section = environments.get(name, {}).get("deploy", {}).get("parameters")
    if not isinstance(section, dict) or "stack_name" not in section:
        known = [n for n, e in environments.items() if isinstance(e, dict) and "deploy" in e]
        raise DeployError(
            f"samconfig.toml has no [{name}.deploy.parameters] with a stack_name."
            f" It has these environments: {', '.join(known) or 'none'}."
        )
    overrides = section.get("parameter_overrides", [])
    listed = shlex.split(overrides) if isinstance(overrides, str) else overrides
    return Environment(name, str(section["stack_name"]), section.get("region"), given(listed))


def given(words: Iterable[str]) -> dict[str, str]:
    """Returns words of the form `Name=value` as a mapping. Raises DeployError for any other
    word.
    """
    values = {}
    for word in words:
        name, equals, value = str(word).partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise DeployError(f"{word!r} does not have the form Name=value.")
        values[name] = value
    return values


def choose_values(
    known: Mapping[str, Parameter],
    chosen: Mapping[str, str],
    before: Mapping[str, str],
    ask: Callable[[Parameter], str] | None,
) -> dict[str, str]:
    """Returns every parameter's value: the chosen one, else the deployed one, else the answer of
    `ask`.

    A parameter without any of these is left out if the template has a default. Raises DeployError
    for a name that the template does not have, for a value that it does not allow, and for a
    missing value if `ask` is None.
    """
    if unknown := sorted(chosen.keys() - known.keys()):
        raise DeployError(
            f"template.yaml has no parameter {', '.join(unknown)}."
            + (" BuildId cannot be chosen: it is computed." if BUILD_ID in unknown else "")
        )
    values = {}
    missing = []
    for name, parameter in known.items():
        if name in chosen or name in before:
            values[name] = chosen.get(name, before.get(name, ""))
        elif parameter.default is None and ask is not None:
            values[name] = ask(parameter)
        elif parameter.default is None:
            missing.append(name)
    if missing:
        raise DeployError(
            f"Parameters without a value: {', '.join(missing)}. Set them in samconfig.toml"
            ' (parameter_overrides), or with make deploy PARAMETERS="Name=value ..."'
        )
    for name in chosen.keys() | (values.keys() - before.keys()):
        known[name].check(values[name])
    return values


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms (`!Ref` ...) as None, because parameters do not use
    them.
    """


_Loader.add_multi_constructor("!", lambda *_: None)


def as_words(values: Mapping[str, str]) -> list[str]:
    """Returns the values in the form that `sam deploy --parameter-overrides` takes."""
    return ['{}="{}"'.format(name, value.replace('"', '\\"')) for name, value in values.items()]


def changes(before: Mapping[str, str], values: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Returns the new and the changed values by name, each with the earlier value, or None."""
    return {
        name: (before.get(name), value)
        for name, value in values.items()
        if before.get(name) != value
    }
