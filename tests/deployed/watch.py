"""Compares what the functions did with what the template says: actions and roles, alarms and
metrics."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.deployed.errors import Failed
from tests.deployed.front import Front

# Rights of the roles that Lambda itself uses, in a function's name. No code of ours calls these.
USED_BY_LAMBDA = frozenset(
    {
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "sqs:SendMessage",
        "xray:PutTraceSegments",
        "xray:PutTelemetryRecords",
    }
)
# Metrics that the run does not cause, and the test that does: one address guesses too slowly,
# the stack has no identity provider, and Commet has a price for everything that it meters.
NOT_PROVOKED = {
    "AccountsGuessed": "tests/integration/functions/test_accounts.py",
    "IdentityProviderFailed": "tests/integration/functions/test_identity_provider.py",
    "UsagePriceUnknown": "tests/integration/functions/test_spending.py",
}
_DENIED = ("AccessDenied", "is not authorized to perform")

Metric = tuple[str, str, str]  # namespace, name, the dimension `service`


def messages(front: Front) -> Iterator[tuple[str, str]]:
    """Every line that a function has logged, with its log group."""
    logs = front.client("logs")
    for page in logs.get_paginator("describe_log_groups").paginate():
        for group in page["logGroups"]:
            name = group["logGroupName"]
            for events in logs.get_paginator("filter_log_events").paginate(logGroupName=name):
                for event in events["events"]:
                    yield name, event["message"]


class Seen:
    """What the functions have logged until now. Read before a log group is deleted."""

    def __init__(self) -> None:
        self.metrics: set[Metric] = set()
        self.denied: list[str] = []

    def read(self, front: Front) -> None:
        """Adds what is in the logs now."""
        for group, line in messages(front):
            if any(each in line for each in _DENIED):
                self.denied.append(f"{group}: {line[:400]}")
            self.metrics |= _written(line)

    def check(self, front: Front, template: Mapping[str, Any], stack: str) -> None:
        """Raises Failed where the template and the functions do not fit."""
        problems = [f"no role allows this: {each}" for each in self.denied[:3]]
        problems += _problems_of_actions(front, template)
        for alarm in sorted(_unwritten(template, self.metrics, stack)):
            problems.append(f"{alarm} watches a metric that was never written")
        if problems:
            raise Failed("\n    ".join(problems))


def _written(line: str) -> set[Metric]:
    """The metrics of a log line in CloudWatch's embedded format."""
    if '"_aws"' not in line:
        return set()
    try:
        logged = json.loads(line)
    except ValueError:
        return set()
    return {
        (group["Namespace"], metric["Name"], logged.get("service", ""))
        for group in logged["_aws"]["CloudWatchMetrics"]
        for metric in group["Metrics"]
    }


def _problems_of_actions(front: Front, template: Mapping[str, Any]) -> Iterator[str]:
    always, perhaps = set(_allowed(template)), set(_allowed(template, conditional=True))
    called = set(front.actions)
    for action in sorted(called - always - perhaps):
        yield f"functions call {action}, which no role allows"
    for action in sorted(always - called - USED_BY_LAMBDA):
        yield f"roles allow {action}, which no function has called"


def _allowed(template: Mapping[str, Any], *, conditional: bool = False) -> Iterator[str]:
    """The actions that the functions' roles allow whatever the parameters.

    With `conditional`, those that they allow under a condition.
    """
    for each in template["Resources"].values():
        if each["Type"] == "AWS::IAM::Role" and not _is_lambdas(each):
            continue
        properties = each["Properties"]
        if each["Type"] == "AWS::IAM::Role":
            documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        elif each["Type"] == "AWS::IAM::ManagedPolicy":
            documents = [properties["PolicyDocument"]]
        else:
            continue
        for document in documents:
            for statement in _statements(document, conditional=conditional):
                if statement.get("Effect") == "Allow":
                    actions = statement["Action"]
                    yield from [actions] if isinstance(actions, str) else actions


def _statements(document: Mapping[str, Any], *, conditional: bool) -> Iterator[Mapping[str, Any]]:
    for statement in document["Statement"]:
        if not conditional:
            yield statement
        elif "Fn::If" in statement:
            _, held, otherwise = statement["Fn::If"]
            yield from (held, otherwise)


def _is_lambdas(role: Mapping[str, Any]) -> bool:
    return "lambda.amazonaws.com" in json.dumps(role["Properties"]["AssumeRolePolicyDocument"])


def _unwritten(template: Mapping[str, Any], metrics: set[Metric], stack: str) -> Iterator[str]:
    """The alarms on metrics of our own that nobody has written."""
    for name, each in template["Resources"].items():
        properties = each.get("Properties", {})
        if each["Type"] != "AWS::CloudWatch::Alarm" or isinstance(properties["Namespace"], str):
            continue  # AWS writes its own metrics itself
        namespace = properties["Namespace"]["Fn::Sub"].replace("${AWS::StackName}", stack)
        (service,) = (d["Value"] for d in properties["Dimensions"] if d["Name"] == "service")
        metric = properties["MetricName"]
        if (namespace, metric, service) not in metrics and metric not in NOT_PROVOKED:
            yield f"{name} ({metric} of {service})"
