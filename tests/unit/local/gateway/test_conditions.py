"""What CloudFormation would not make is not served."""

from typing import Any

import pytest

from local.gateway.conditions import Conditions, UnknownConditionError
from local.gateway.template import UnsupportedTemplateError, load_template
from tests.unit.cloudformation import TEMPLATE

DOCUMENT: dict[str, Any] = {
    "Parameters": {
        "Pages": {"Default": "true"},
        "Subnets": {"Type": "CommaDelimitedList", "Default": ""},
        "Name": {"Type": "String"},
    },
    "Conditions": {
        "On": {"Fn::Equals": [{"Ref": "Pages"}, "true"]},
        "Off": {"Fn::Not": [{"Condition": "On"}]},
        "Inside": {"Fn::Not": [{"Fn::Equals": [{"Fn::Join": ["", {"Ref": "Subnets"}]}, ""]}]},
        "Both": {"Fn::And": [{"Condition": "On"}, {"Condition": "Inside"}]},
        "Either": {"Fn::Or": [{"Condition": "Off"}, {"Condition": "Inside"}]},
        "Here": {"Fn::Equals": [{"Ref": "AWS::Region"}, "us-east-1"]},
        "Joined": {"Fn::Equals": [{"Fn::Join": ["-", ["a", {"Ref": "Pages"}]]}, "a-true"]},
        "Strange": {"Fn::Contains": [["a"], "a"]},
        "Lost": {"Condition": "Nowhere"},
        "Nameless": {"Fn::Equals": [{"Ref": "Name"}, ""]},
        "Malformed": {"Fn::Equals": ["a", {"Ref": "Pages", "More": 1}]},
    },
}


def holding(**values: str) -> set[str]:
    conditions = Conditions(DOCUMENT, {"AWS::Region": "us-east-1", **values})
    readable = ("On", "Off", "Inside", "Both", "Either", "Here", "Joined")
    return {name for name in readable if conditions.are_met_by({"Condition": name})}


def test_a_resource_without_a_condition_is_made() -> None:
    assert Conditions({}, {}).are_met_by({"Type": "AWS::SQS::Queue"})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"On", "Here", "Joined"}),
        ({"Pages": "false"}, {"Off", "Either", "Here"}),
        ({"Subnets": "a,b"}, {"On", "Inside", "Both", "Either", "Here", "Joined"}),
        ({"AWS::Region": "eu-west-1"}, {"On", "Joined"}),
    ],
)
def test_those_that_hold(values: dict[str, str], expected: set[str]) -> None:
    """A parameter that is not given has its default."""
    assert holding(**values) == expected


@pytest.mark.parametrize("name", ["Strange", "Lost", "Nameless", "Malformed", "Nothing"])
def test_what_is_not_read_is_said(name: str) -> None:
    """Rather than served otherwise than in AWS."""
    with pytest.raises(UnknownConditionError):
        Conditions(DOCUMENT, {}).are_met_by({"Condition": name})


class TestTemplate:
    def test_with_pages(self) -> None:
        template = load_template(TEMPLATE)
        assert template.api is not None
        assert "PagesFunction" in template.functions
        served = {route.key for route in template.api.routes if route.function == "PagesFunction"}
        assert {"GET /", "GET /app/{proxy+}", "POST /app/{proxy+}", "GET /{proxy+}"} <= served

    @pytest.mark.parametrize("parameter", ["Pages", "OwnAccounts"])
    def test_without_pages(self, parameter: str) -> None:
        """No function and no route: `GET /` is the default route's 404."""
        template = load_template(TEMPLATE, {parameter: "false"})
        assert template.api is not None
        assert template.functions.keys() == load_template(TEMPLATE).functions.keys() - {
            "PagesFunction"
        }
        assert {route.path for route in template.api.routes}.isdisjoint(
            {
                *("/", "/app", "/app/{proxy+}", "/assets/{name}", "/sign-in", "/robots.txt"),
                "/{proxy+}",
            }
        )

    def test_a_condition_that_is_not_read(self, tmp_path: Any) -> None:
        path = tmp_path / "template.yaml"
        path.write_text(
            "Transform: AWS::Serverless-2016-10-31\n"
            "Conditions: {Odd: {'Fn::Contains': [[a], a]}}\n"
            "Resources:\n"
            "  A: {Type: AWS::Serverless::HttpApi, Condition: Odd}\n",
            encoding="utf-8",
        )
        with pytest.raises(UnsupportedTemplateError, match="Fn::Contains"):
            load_template(path)
