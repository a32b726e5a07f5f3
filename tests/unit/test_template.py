"""What the template promises, read from the template and from what SAM makes of it."""

import json
from typing import Any

import pytest

from tests.unit.cloudformation import ROOT, TEMPLATE, Resources, load, of_type, translate


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return load(TEMPLATE)


@pytest.fixture(scope="module")
def functions(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return of_type(template["Resources"], "AWS::Serverless::Function")


@pytest.fixture(scope="module")
def translated(template: dict[str, Any]) -> Resources:
    """CloudFormation as SAM deploys it."""
    return translate(template)


class TestFunctions:
    def test_there_is_one_per_folder(self, functions: dict[str, dict[str, Any]]) -> None:
        """No folder without a function and no function without a folder."""
        folders = {f"functions/{p.parent.name}" for p in ROOT.glob("functions/*/app.py")}
        assert {f["CodeUri"] for f in functions.values()} == folders
        assert len(folders) == 11

    def test_a_new_build_makes_new_versions(self, functions: dict[str, dict[str, Any]]) -> None:
        """All logic is in the layer, and SAM looks at the function's own code only."""
        for name, function in functions.items():
            assert function["AutoPublishCodeSha256"] == {"Ref": "BuildId"}, name

    def test_none_answers_before_the_tables_are_ready(
        self, template: dict[str, Any], functions: dict[str, dict[str, Any]]
    ) -> None:
        for name in functions.keys() - {"MigrateFunction"}:
            assert template["Resources"][name]["DependsOn"] == "Migrations", name

    def test_no_secret_is_in_an_environment(self, functions: dict[str, dict[str, Any]]) -> None:
        """What is called a secret, key or password is the name of one."""
        for name, function in functions.items():
            variables = function["Environment"]["Variables"]
            telling = ("SECRET", "KEY", "PASSWORD", "TOKEN")
            named = [v for v in variables if any(word in v for word in telling)]
            assert [v for v in named if not v.endswith("_ARN")] == [], name


class TestRoutes:
    def test_they_are_those_of_the_openapi_document(
        self, functions: dict[str, dict[str, Any]]
    ) -> None:
        """A route in the one is a route in the other."""
        events = [
            event["Properties"]
            for function in functions.values()
            for event in function.get("Events", {}).values()
            if event["Type"] == "HttpApi" and "Path" in event["Properties"]
        ]
        served = {
            (e["Method"].replace("ANY", "POST"), e["Path"].replace("{id}", "{user_id}"))
            for e in events
        }
        document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
        described = {
            (method.upper(), path)
            for path, operations in document["paths"].items()
            for method in operations
        }
        assert served == described

    def test_everything_else_is_answered_by_us(self, translated: Resources) -> None:
        """A $default route renders our own 404."""
        default = translated["Api"]["Properties"]["Body"]["paths"]["/$default"]
        assert default["x-amazon-apigateway-any-method"]["isDefaultRoute"] is True


class TestTranslated:
    def test_a_second_stack_can_stand_beside_it(self, translated: Resources) -> None:
        """No resource has a name of its own, which could be taken in the account."""
        named = ("Name", "FunctionName", "LayerName", "RoleName", "ScheduleName")
        owners = ("AWS::Scheduler::Schedule", "AWS::Lambda::Function", "AWS::IAM::Role")
        found = [
            (name, key)
            for name, resource in translated.items()
            if resource["Type"] in owners
            for key in named
            if key in resource["Properties"]
        ]
        assert found == []

    def test_every_function_is_called_through_its_alias(self, translated: Resources) -> None:
        """A deployment is complete before the first request reaches it."""
        aliases = [r for r in translated.values() if r["Type"] == "AWS::Lambda::Alias"]
        assert len(aliases) == 11

    def test_another_build_id_is_another_version(self, translated: Resources) -> None:
        """The logical ids of versions end in the build id, so CloudFormation publishes new ones."""
        versions = [n for n, r in translated.items() if r["Type"] == "AWS::Lambda::Version"]
        assert len(versions) == 11
        assert all(name.endswith("0123456789") for name in versions)

    def test_the_webhook_has_a_url_that_needs_no_aws_signature(self, translated: Resources) -> None:
        """Commet cannot sign for AWS; its own signature is checked by us."""
        url = translated["WebhookFunctionUrl"]["Properties"]
        assert url["AuthType"] == "NONE"
