"""Asks the emulator which of its faults are still there, each with the smallest template.

If a fault is gone, the adaptation that avoids it must go too: it would hide what is deployed.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.deployed.adaptations import ADAPTATIONS, TAKEN_PATHS
from tests.deployed.errors import Failed
from tests.deployed.front import Front

_SECONDS = 30.0


def gone(front: Front) -> list[str]:
    """The names of the adaptations that are no longer needed."""
    return [name for name, is_there in PROBES.items() if not is_there(front)]


def _sam_transform(front: Front) -> bool:
    function = {
        "Type": "AWS::Serverless::Function",
        "Properties": {
            "Runtime": "python3.13",
            "Handler": "index.handler",
            "InlineCode": "def handler(event, context): pass",
            "AutoPublishAlias": "live",
            "AutoPublishCodeSha256": {"Ref": "Digest"},
        },
    }
    template = {
        "Transform": "AWS::Serverless-2016-10-31",
        "Parameters": {"Digest": {"Type": "String", "Default": "0123456789abcdef"}},
        "Resources": {"Function": function},
    }
    return _is_refused(front, template)


def _code_deploy(front: Front) -> bool:
    resource = {
        "Type": "AWS::CodeDeploy::Application",
        "Properties": {"ComputePlatform": "Lambda"},
    }
    return _is_refused(front, {"Resources": {"Application": resource}})


def _metric_math(front: Front) -> bool:
    metric = {"Namespace": "AWS/Lambda", "MetricName": "Errors"}
    resource = {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "Metrics": [
                {"Id": "total", "Expression": "SUM(METRICS())"},
                {
                    "Id": "one",
                    "ReturnData": False,
                    "MetricStat": {"Stat": "Sum", "Period": 300, "Metric": metric},
                },
            ],
            "EvaluationPeriods": 1,
            "ComparisonOperator": "GreaterThanThreshold",
            "Threshold": 0,
        },
    }
    return _is_refused(front, {"Resources": {"Alarm": resource}})


def _event_archive(front: Front) -> bool:
    source = {"Fn::GetAtt": ["Bus", "Arn"]}
    resources = {
        "Bus": {"Type": "AWS::Events::EventBus", "Properties": {"Name": "probe"}},
        "Archive": {"Type": "AWS::Events::Archive", "Properties": {"SourceArn": source}},
    }
    return _is_refused(front, {"Resources": resources})


def _secret_ref(front: Front) -> bool:
    template = {
        "Resources": {"Secret": {"Type": "AWS::SecretsManager::Secret", "Properties": {}}},
        "Outputs": {"Ref": {"Value": {"Ref": "Secret"}}},
    }
    with _stack(front, template) as outputs:
        return outputs is None or not outputs["Ref"].startswith("arn:")


def _log_names(front: Front) -> bool:
    template = {
        "Resources": {"Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {}}},
        "Outputs": {"Name": {"Value": {"Ref": "Logs"}}},
    }
    with _stack(front, template) as outputs:
        return outputs is None or "/" in outputs["Name"]


def _api_body(front: Front) -> bool:
    integration = {
        "type": "http_proxy",
        "httpMethod": "GET",
        "uri": "https://example.com/",
        "payloadFormatVersion": "1.0",
    }
    operation = {"responses": {}, "x-amazon-apigateway-integration": integration}
    body = {
        "openapi": "3.0.1",
        "info": {"version": "1.0", "title": "probe"},
        "paths": {"/probe": {"get": operation}},
    }
    template = {
        "Resources": {"Api": {"Type": "AWS::ApiGatewayV2::Api", "Properties": {"Body": body}}},
        "Outputs": {"Id": {"Value": {"Ref": "Api"}}},
    }
    with _stack(front, template) as outputs:
        if outputs is None:
            return True
        return not front.client("apigatewayv2").get_routes(ApiId=outputs["Id"])["Items"]


def taken_paths(front: Front) -> list[str]:
    """Which of TAKEN_PATHS the deployed API answers, when it is called by its host name."""
    return [path for path in TAKEN_PATHS if _is_answered_by_api(front, path)]


def _is_answered_by_api(front: Front, path: str) -> bool:
    request = Request(  # noqa: S310 - the address is the emulator's
        f"{front.emulator}{path}",
        method="POST" if path == "/login" else "GET",
        data=b"{}" if path == "/login" else None,
        headers={"Host": f"{front.api_id}.execute-api.localhost"},
    )
    try:
        with urlopen(request, timeout=60) as answer:  # noqa: S310
            text = answer.read()
    except HTTPError as error:
        text = error.read()
    found = json.loads(text)
    return "request_id" in found or found.get("status") == "ok"


PROBES: Mapping[str, Callable[[Front], bool]] = {
    "sam-transform": _sam_transform,
    "code-deploy": _code_deploy,
    "metric-math": _metric_math,
    "event-archive": _event_archive,
    "secret-ref": _secret_ref,
    "log-names": _log_names,
    "api-body": _api_body,
}


def check(front: Front) -> None:
    """Raises Failed where an adaptation is no longer needed."""
    known = {each.name: each.fault for each in ADAPTATIONS}
    if found := gone(front):
        faults = "; ".join(f"{name} ({known[name]})" for name in found)
        raise Failed(f"the emulator no longer has these faults, remove their adaptations: {faults}")
    if paths := taken_paths(front):
        raise Failed(f"the emulator passes {', '.join(paths)} to the API: remove TAKEN_PATHS")


@contextmanager
def _stack(front: Front, template: Mapping[str, Any]) -> Iterator[dict[str, str] | None]:
    """The outputs of a stack of this template, which is deleted again; None where it failed."""
    client = front.client("cloudformation")
    name = f"probe-{time.monotonic_ns()}"
    try:
        client.create_stack(
            StackName=name,
            TemplateBody=json.dumps(template),
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
    except client.exceptions.ClientError:
        yield None
        return
    try:
        stack = _finished(client, name)
        outputs = {o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])}
        yield outputs if stack["StackStatus"] == "CREATE_COMPLETE" else None
    finally:
        client.delete_stack(StackName=name)


def _finished(client: Any, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + _SECONDS
    while True:
        (stack,) = client.describe_stacks(StackName=name)["Stacks"]
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            found: dict[str, Any] = stack
            return found
        if time.monotonic() > deadline:
            raise Failed(f"{name} is still {stack['StackStatus']}")
        time.sleep(0.1)


def _is_refused(front: Front, template: Mapping[str, Any]) -> bool:
    with _stack(front, template) as outputs:
        return outputs is None
