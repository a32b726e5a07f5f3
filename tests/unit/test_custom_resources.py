"""What CloudFormation waits for: it is answered in time, by who may do what it asks for."""

from typing import Any

import pytest

from local.gateway.template import load_template
from tests.unit.cloudformation import TEMPLATE, load

RESOURCES: dict[str, dict[str, Any]] = load(TEMPLATE)["Resources"]
CUSTOM = {n: r for n, r in RESOURCES.items() if r["Type"].startswith("Custom::")}
SECRET = {"Fn::If": ["MakesWebhookSecret", {"Ref": "WebhookSecret"}, {"Ref": "WebhookSecretArn"}]}


def function(resource: dict[str, Any]) -> dict[str, Any]:
    """The properties of the function behind a custom resource."""
    (name, attribute) = resource["Properties"]["ServiceToken"]["Fn::GetAtt"]
    assert attribute == "Arn"
    properties: dict[str, Any] = RESOURCES[name]["Properties"]
    return properties


@pytest.mark.parametrize("name", CUSTOM)
class TestEach:
    def test_it_is_waited_for_longer_than_it_may_take(self, name: str) -> None:
        """Otherwise a failure would come without its reason, and an hour would be waited."""
        assert CUSTOM[name]["Properties"]["ServiceTimeout"] > function(CUSTOM[name])["Timeout"]

    def test_every_deployment_asks_it(self, name: str) -> None:
        """A resource none of whose properties changes is left alone."""
        assert CUSTOM[name]["Properties"]["BuildId"] == {"Ref": "BuildId"}

    def test_it_starts_as_it_is(self, name: str) -> None:
        """Called without its alias, it has no snapshot to start from."""
        assert function(CUSTOM[name])["SnapStart"] == {"ApplyOn": "None"}


class TestMigrations:
    def test_they_are_told_of_the_layer(self) -> None:
        """Its ARN is a new one for any other code: what tells a build id that was forgotten."""
        assert CUSTOM["Migrations"]["Properties"]["Layer"] == {"Ref": "CommonLayer"}

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({}, ("pooler", "6432", "true")),
            ({"MigrationHost": "db"}, ("db", "6432", "false")),
            ({"MigrationPort": "5432"}, ("pooler", "5432", "false")),
        ],
    )
    def test_they_may_go_round_the_pooler(
        self, given: dict[str, str], told: tuple[str, str, str]
    ) -> None:
        """They alone."""
        pooled = {"DatabaseHost": "pooler", "DatabasePort": "6432", "DatabasePooled": "true"}
        functions = load_template(TEMPLATE, pooled | given).functions
        names = ("DATABASE_HOST", "DATABASE_PORT", "DATABASE_POOLED")

        def of(name: str) -> tuple[str, ...]:
            return tuple(functions[name].environment[each] for each in names)

        assert of("MigrateFunction") == told
        assert of("SignupFunction") == ("pooler", "6432", "true")


class TestWebhookEndpoint:
    def test_it_is_the_functions_own_url(self) -> None:
        """Which is there whatever becomes of the route on the API, and before it is registered."""
        endpoint = RESOURCES["WebhookEndpoint"]
        assert endpoint["Condition"] == "RegistersWebhook"
        assert endpoint["Properties"]["Url"] == {
            "Fn::GetAtt": ["WebhookFunctionUrl", "FunctionUrl"]
        }

    def test_it_writes_one_secret_and_reads_no_database(self) -> None:
        """The one that the webhook function reads."""
        role = RESOURCES["RegisterWebhookRole"]["Properties"]["Policies"][0]["PolicyDocument"]
        allowed = {
            str(action): statement["Resource"]
            for statement in role["Statement"]
            if "Action" in statement
            for action in [statement["Action"]]
        }
        assert allowed["secretsmanager:PutSecretValue"] == SECRET
        assert allowed["secretsmanager:GetSecretValue"] == [{"Ref": "CommetSecretArn"}, SECRET]
        told = RESOURCES["WebhookFunction"]["Properties"]["Environment"]["Variables"]
        assert told["WEBHOOK_SECRET_ARN"] == SECRET
        mine = RESOURCES["RegisterWebhookFunction"]["Properties"]["Environment"]["Variables"]
        assert (mine["WEBHOOK_SECRET_ARN"], mine["DATABASE_SECRET_ARN"]) == (SECRET, "")

    def test_a_new_secret_believes_nobody(self) -> None:
        """Not even who knows what the template says."""
        secret = RESOURCES["WebhookSecret"]["Properties"]["SecretString"]
        assert secret == '{"secrets": []}'
