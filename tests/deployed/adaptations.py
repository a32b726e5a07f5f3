"""What the emulator cannot do, and how the template that it is given avoids that.

Each adaptation has the emulator's fault in a line, a change of the template, and a small template
that shows whether the fault is still there (`tests/deployed/faults.py` asks the emulator). The
template that is deployed to AWS is never changed.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from tests.deployed.places import REGION

Template = dict[str, Any]

# It warns of features that it was not given, and of metrics that nobody reads.
logging.getLogger("samtranslator").setLevel(logging.ERROR)

_CODE_DEPLOY = "AWS::CodeDeploy::"
_ARCHIVE = "AWS::Events::Archive"


@dataclass(frozen=True)
class Adaptation:
    """One fault of the emulator, and the change that avoids it."""

    name: str
    fault: str
    change: Callable[[Template, Mapping[str, Any]], Template]


def adapt(template: Template, parameters: Mapping[str, Any]) -> Template:
    """The packaged template as the emulator can deploy it."""
    for each in ADAPTATIONS:
        template = each.change(template, parameters)
    return template


def _translate(template: Template, parameters: Mapping[str, Any]) -> Template:
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=REGION))
    translated: Template = translator.translate(deepcopy(template), dict(parameters))
    return translated


def _without_code_deploy(template: Template, _: Mapping[str, Any]) -> Template:
    resources = {
        name: {key: value for key, value in each.items() if key != "UpdatePolicy"}
        for name, each in template["Resources"].items()
        if not each["Type"].startswith(_CODE_DEPLOY)
    }
    return template | {"Resources": resources}


def _without_metric_math(template: Template, _: Mapping[str, Any]) -> Template:
    for alarm in _of_type(template, "AWS::CloudWatch::Alarm"):
        metrics = alarm["Properties"].pop("Metrics", None)
        if metrics is None:
            continue
        first = next(each["MetricStat"] for each in metrics if "MetricStat" in each)
        alarm["Properties"] |= {
            "Namespace": first["Metric"]["Namespace"],
            "MetricName": first["Metric"]["MetricName"],
            "Dimensions": first["Metric"].get("Dimensions", []),
            "Statistic": first["Stat"],
            "Period": first["Period"],
        }
    return template


def _without_archives(template: Template, _: Mapping[str, Any]) -> Template:
    resources = {
        name: each for name, each in template["Resources"].items() if each["Type"] != _ARCHIVE
    }
    return template | {"Resources": resources}


def _with_arns_of_secrets(template: Template, _: Mapping[str, Any]) -> Template:
    secrets = {
        name
        for name, each in template["Resources"].items()
        if each["Type"] == "AWS::SecretsManager::Secret"
    }

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {"Ref"} and value["Ref"] in secrets:
                return {"Fn::GetAtt": [value["Ref"], "Id"]}
            return {key: changed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [changed(each) for each in value]
        return value

    return {key: changed(value) for key, value in template.items()}


def _with_names_of_logs(template: Template, _: Mapping[str, Any]) -> Template:
    for name, each in template["Resources"].items():
        if each["Type"] == "AWS::Logs::LogGroup":
            named = {"Fn::Sub": f"${{AWS::StackName}}-{name}-AbCdEfGhIjKl"}
            each["Properties"].setdefault("LogGroupName", named)
    return template


def _with_routes(template: Template, _: Mapping[str, Any]) -> Template:
    resources = template["Resources"]
    for name, api in list(resources.items()):
        if api["Type"] != "AWS::ApiGatewayV2::Api" or "Body" not in api["Properties"]:
            continue
        properties = api["Properties"]
        body = properties.pop("Body")
        properties |= {"Name": {"Fn::Sub": "${AWS::StackName}"}, "ProtocolType": "HTTP"}
        properties.pop("FailOnWarnings", None)  # is about the Body
        if cors := body.get("x-amazon-apigateway-cors"):
            properties["CorsConfiguration"] = cors
        for number, (route, uri, condition) in enumerate(_operations(body)):
            resources[f"{name}Integration{number}"] = condition | {
                "Type": "AWS::ApiGatewayV2::Integration",
                "Properties": {
                    "ApiId": {"Ref": name},
                    "IntegrationType": "AWS_PROXY",
                    "IntegrationUri": uri,
                    "PayloadFormatVersion": "2.0",
                },
            }
            resources[f"{name}Route{number}"] = condition | {
                "Type": "AWS::ApiGatewayV2::Route",
                "Properties": {
                    "ApiId": {"Ref": name},
                    "RouteKey": route,
                    "Target": {"Fn::Sub": f"integrations/${{{name}Integration{number}}}"},
                },
            }
    return template


def _operations(body: Mapping[str, Any]) -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Each route of an OpenAPI document as API Gateway names it, with its integration's URI.

    Last comes the condition of the route, if it has one, as a resource has it.
    """
    for path, described in body["paths"].items():
        methods, condition = _unconditional(described)
        for method, described_method in methods.items():
            operation, _ = _unconditional(described_method)
            integration = operation.get("x-amazon-apigateway-integration")
            if integration is None:
                continue
            verb = "ANY" if method == "x-amazon-apigateway-any-method" else method.upper()
            yield (
                ("$default" if path.strip("/") == "$default" else f"{verb} {path}"),
                _unconditional(integration["uri"])[0],
                condition,
            )


def _unconditional(part: Any) -> tuple[Any, dict[str, str]]:
    """A part as it is where its condition holds, and the condition as a resource has it."""
    if isinstance(part, dict) and part.keys() == {"Fn::If"}:
        name, held, _ = part["Fn::If"]
        return held, {"Condition": name}
    return part, {}


def _of_type(template: Template, kind: str) -> Iterator[dict[str, Any]]:
    return (each for each in template["Resources"].values() if each["Type"] == kind)


ADAPTATIONS = (
    Adaptation(
        "sam-transform",
        "Its SAM transform gets no parameter values, so AutoPublishCodeSha256 must not be a Ref.",
        _translate,
    ),
    Adaptation("code-deploy", "It has no resource types of CodeDeploy.", _without_code_deploy),
    Adaptation("metric-math", "It refuses alarms on metric math.", _without_metric_math),
    Adaptation(
        "event-archive", "It has no resource type of EventBridge's archives.", _without_archives
    ),
    Adaptation("secret-ref", "Ref of a secret is its name, not its ARN.", _with_arns_of_secrets),
    Adaptation(
        "log-names",
        "It names log groups otherwise than CloudFormation, with slashes.",
        _with_names_of_logs,
    ),
    Adaptation(
        "api-body",
        "It ignores the Body of an HTTP API (routes, CORS), and reads CORS in the Body's spelling.",
        _with_routes,
    ),
)

# Paths of an API that the emulator answers by itself, whatever the host name: it takes them for its
# own health check and for Cognito's pages. `front` calls the API by a path that the emulator knows.
API_PATH = "/_aws/execute-api/{api_id}/$default"
TAKEN_PATHS = ("/health", "/login")
