"""`make deploy-test` deploys the template as it is, except for faults of the emulator."""

from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse

from tests.deployed.adaptations import ADAPTATIONS, adapt
from tests.deployed.faults import PROBES
from tests.unit.cloudformation import TEMPLATE, load, translate

PARAMETERS = {"BuildId": "0123456789abcdef", "AllowedOrigins": ["https://a.example"]}


@pytest.fixture(scope="module")
def packaged() -> dict[str, Any]:
    """The template as SAM CLI uploads it: code is an address, and parameters have no values yet."""
    template: dict[str, Any] = yaml_parse(TEMPLATE.read_text(encoding="utf-8"))
    for resource in template["Resources"].values():
        for name in ("CodeUri", "ContentUri"):
            if name in resource.get("Properties", {}):
                resource["Properties"][name] = "s3://bucket/key"
    return template


@pytest.fixture(scope="module")
def adapted(packaged: dict[str, Any]) -> dict[str, Any]:
    defaults = {
        name: str(each["Default"])
        for name, each in packaged["Parameters"].items()
        if "Default" in each
    }
    resources: dict[str, Any] = adapt(packaged, {**defaults, **PARAMETERS})["Resources"]
    return resources


def test_every_adaptation_has_a_probe() -> None:
    """An adaptation that is no longer needed would hide what is deployed."""
    assert [each.name for each in ADAPTATIONS] == list(PROBES)


def test_only_what_the_faults_name_is_changed(adapted: dict[str, Any]) -> None:
    real = translate(load(TEMPLATE))
    gone = {real[name]["Type"] for name in real.keys() - adapted.keys()}
    added = {adapted[name]["Type"] for name in adapted.keys() - real.keys()}
    assert gone == {
        "AWS::CodeDeploy::Application",
        "AWS::CodeDeploy::DeploymentGroup",
        "AWS::Events::Archive",
    }
    assert added == {"AWS::ApiGatewayV2::Integration", "AWS::ApiGatewayV2::Route"}


def test_every_route_is_kept(adapted: dict[str, Any], packaged: dict[str, Any]) -> None:
    events = [
        event["Properties"]
        for each in packaged["Resources"].values()
        for event in each.get("Properties", {}).get("Events", {}).values()
        if event["Type"] == "HttpApi"
    ]
    wanted = {f"{e['Method']} {e['Path']}" if "Path" in e else "$default" for e in events}
    routes = [
        each["Properties"]["RouteKey"]
        for each in adapted.values()
        if each["Type"] == "AWS::ApiGatewayV2::Route"
    ]
    assert sorted(routes) == sorted(wanted)


def test_an_alarm_keeps_the_first_of_its_metrics(adapted: dict[str, Any]) -> None:
    alarm = adapted["ApiErrorsAlarm"]["Properties"]
    assert "Metrics" not in alarm
    assert (alarm["MetricName"], alarm["Statistic"], alarm["Period"]) == ("5xx", "Sum", 300)


def test_a_ref_of_a_secret_is_its_arn(adapted: dict[str, Any]) -> None:
    variables = adapted["WebhookFunction"]["Properties"]["Environment"]["Variables"]
    made, given = {"Fn::GetAtt": ["WebhookSecret", "Id"]}, {"Ref": "WebhookSecretArn"}
    assert variables["WEBHOOK_SECRET_ARN"] == {"Fn::If": ["MakesWebhookSecret", made, given]}


def test_the_template_that_is_packaged_stays_as_it_was(
    packaged: dict[str, Any], adapted: dict[str, Any]
) -> None:
    assert adapted
    assert packaged["Transform"] == "AWS::Serverless-2016-10-31"
    assert "Metrics" in packaged["Resources"]["ApiErrorsAlarm"]["Properties"]
