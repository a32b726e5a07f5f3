"""What a deployment is told: by samconfig.toml, by the command line, and by the one before it."""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
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
        """Raises DeployError where CloudFormation would refuse the value after all was built."""
        if self.is_number:
            self._check_number(value)
        if self.longest is not None and len(value) > self.longest:
            raise DeployError(f"{self.name} has at most {self.longest} characters.")
        if self.allowed and value not in self.allowed:
            raise DeployError(f"{self.name} is one of {', '.join(self.allowed)}; not {value!r}.")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise DeployError(f"{self.name} must look like {self.pattern}; {value!r} does not.")

    def _check_number(self, value: str) -> None:
        if not _NUMBER.fullmatch(value):
            raise DeployError(f"{self.name} is a number; not {value!r}.")
        if self.least is not None and Decimal(value) < self.least:
            raise DeployError(f"{self.name} is at least {self.least}; not {value}.")
        if self.most is not None and Decimal(value) > self.most:
            raise DeployError(f"{self.name} is at most {self.most}; not {value}.")


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment of samconfig.toml, as far as deploying needs it."""

    name: str
    stack: str
    region: str | None
    parameters: Mapping[str, str]


def of_template(path: Path) -> dict[str, Parameter]:
    """The template's parameters in their order, the build id left out: that is ours to make."""
    document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe one
    return {
        name: Parameter(
            name,
            " ".join(str(told.get("Description", "")).split()),
            None if "Default" not in told else str(told["Default"]),
            str(told.get("AllowedPattern", "")),
            tuple(map(str, told.get("AllowedValues", ()))),
            told.get("Type") == "Number",
            _limit(told, "MinValue"),
            _limit(told, "MaxValue"),
            told.get("MaxLength"),
        )
        for name, told in document["Parameters"].items()
        if name != BUILD_ID
    }


def _limit(told: Mapping[str, Any], name: str) -> Decimal | None:
    return Decimal(str(told[name])) if name in told else None


def environment(samconfig: Path, name: str) -> Environment:
    """Raises DeployError where there is no such environment to deploy."""
    try:
        environments = tomllib.loads(samconfig.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DeployError(f"{samconfig.name} cannot be read: {error}") from None
    section = environments.get(name, {}).get("deploy", {}).get("parameters")
    if not isinstance(section, dict) or "stack_name" not in section:
        known = [n for n, e in environments.items() if isinstance(e, dict) and "deploy" in e]
        raise DeployError(
            f"samconfig.toml has no [{name}.deploy.parameters] with a stack_name."
            f" It knows: {', '.join(known) or 'none'}."
        )
    overrides = section.get("parameter_overrides", [])
    listed = shlex.split(overrides) if isinstance(overrides, str) else overrides
    return Environment(name, str(section["stack_name"]), section.get("region"), given(listed))


def given(words: Iterable[str]) -> dict[str, str]:
    """`Name=value` as a mapping; raises DeployError for anything else."""
    values = {}
    for word in words:
        name, equals, value = str(word).partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise DeployError(f"{word!r} is not Name=value.")
        values[name] = value
    return values


def settle(
    known: Mapping[str, Parameter],
    told: Mapping[str, str],
    before: Mapping[str, str],
    ask: Callable[[Parameter], str] | None,
) -> dict[str, str]:
    """Every value that is deployed: as told, else as deployed before, else as asked for.

    A default that nobody spoke of is left to the template. Raises DeployError for a name the
    template does not have, a value it does not allow, and one that is missing with nobody to ask.
    """
    if unknown := sorted(told.keys() - known.keys()):
        raise DeployError(
            f"template.yaml has no parameter {', '.join(unknown)}."
            + (" The build id is made here." if BUILD_ID in unknown else "")
        )
    values = {}
    missing = []
    for name, parameter in known.items():
        if name in told or name in before:
            values[name] = told.get(name, before.get(name, ""))
        elif parameter.default is None and ask is not None:
            values[name] = ask(parameter)
        elif parameter.default is None:
            missing.append(name)
    if missing:
        raise DeployError(
            f"Still missing: {', '.join(missing)}. Name them in samconfig.toml"
            ' (parameter_overrides) or here: make deploy PARAMETERS="Name=value ..."'
        )
    for name in told.keys() | (values.keys() - before.keys()):
        known[name].check(values[name])
    return values


class _Loader(yaml.SafeLoader):
    """Takes CloudFormation's short forms for nothing: parameters have none."""


_Loader.add_multi_constructor("!", lambda *_: None)


def as_words(values: Mapping[str, str]) -> list[str]:
    """As `sam deploy --parameter-overrides` takes them."""
    return ['{}="{}"'.format(name, value.replace('"', '\\"')) for name, value in values.items()]


def changes(before: Mapping[str, str], values: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """What is new or different: the value before, None where there was none, and now."""
    return {
        name: (before.get(name), value)
        for name, value in values.items()
        if before.get(name) != value
    }
