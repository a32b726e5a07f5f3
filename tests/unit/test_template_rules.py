"""The template's `Rules` refuse parameters that do not go together, before anything is made."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.unit.cloudformation import TEMPLATE, load

DOCUMENT = load(TEMPLATE)
REGION = {"AWS::Region": "eu-central-1"}


def refusals(given: Mapping[str, str]) -> Iterator[str]:
    """What the rules say to these parameters, where all others have their defaults."""
    values: dict[str, Any] = dict(REGION)
    for name, declared in DOCUMENT["Parameters"].items():
        value = given.get(name, str(declared.get("Default", "x")))
        is_list = declared["Type"] == "CommaDelimitedList"
        values[name] = value.split(",") if is_list else value
    for rule in DOCUMENT["Rules"].values():
        if holds(rule.get("RuleCondition", True), values):
            for each in rule["Assertions"]:
                if not holds(each["Assert"], values):
                    yield each["AssertDescription"]


# YAML reads None as a text, and true as a flag; parameters are texts.
FUNCTIONS: Mapping[str, Callable[[list[Any]], bool]] = {
    "Fn::Equals": lambda found: str(found[0]) == str(found[1]),
    "Fn::Not": lambda found: not found[0],
    "Fn::And": all,
    "Fn::Or": any,
    "Fn::Contains": lambda found: found[1] in found[0],
    "Fn::EachMemberIn": lambda found: set(found[0]) <= set(found[1]),
}


def holds(condition: Any, values: Mapping[str, Any]) -> Any:
    """A rule-specific intrinsic function, evaluated as CloudFormation does."""
    if not isinstance(condition, dict):
        return condition
    ((function, arguments),) = condition.items()
    if function == "Ref":
        return values[arguments]
    return FUNCTIONS[function]([holds(each, values) for each in arguments])


def test_the_defaults_go_together() -> None:
    assert list(refusals({})) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"SecretsExtensionLayerArn": "arn:layer"}, "needs SnapStart None"),
        ({"VpcSubnetIds": "subnet-1,subnet-2"}, "Give both VpcSubnetIds"),
        ({"VpcSecurityGroupIds": "sg-1"}, "Give both VpcSubnetIds"),
        ({"DomainName": "api.example.com"}, "DomainName needs"),
        ({"OidcIssuer": "https://id.example"}, "OidcIssuer needs"),
    ],
)
def test_what_is_refused(given: dict[str, str], told: str) -> None:
    (description,) = refusals(given)
    assert told in description


@pytest.mark.parametrize(
    "given",
    [
        {"SecretsExtensionLayerArn": "arn:layer", "SnapStart": "None"},
        {"VpcSubnetIds": "subnet-1,subnet-2", "VpcSecurityGroupIds": "sg-1"},
        {"DomainName": "api.example.com", "DomainCertificateArn": "arn:certificate"},
        {"OidcIssuer": "https://id.example", "OidcAudience": "app"},
    ],
)
def test_what_goes_together(given: dict[str, str]) -> None:
    assert list(refusals(given)) == []


def test_a_region_whose_ca_is_not_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless no certificate of AWS's has to be verified."""
    monkeypatch.setitem(REGION, "AWS::Region", "il-central-1")
    (description,) = refusals({})
    assert "no CA of RDS" in description
    assert list(refusals({"DatabaseCa": "public"})) == []
    assert list(refusals({"DatabaseSslMode": "require"})) == []
