"""`make deploy-test` fails where the template and what the functions did do not fit."""

import json
from collections import Counter
from typing import Any, cast

import pytest

from billing.metric import Metric
from tests.deployed import watch
from tests.deployed.errors import Failed
from tests.deployed.front import Front
from tests.deployed.places import ROOT

READ = "secretsmanager:GetSecretValue"
ASSUME = {"Statement": [{"Principal": {"Service": "lambda.amazonaws.com"}}]}
PUT = "events:PutEvents"
STATEMENTS = [
    {"Effect": "Allow", "Action": [READ, "logs:PutLogEvents"]},
    {"Fn::If": ["HasEventBus", {"Effect": "Allow", "Action": PUT}, {"Ref": "AWS::NoValue"}]},
]
TEMPLATE: dict[str, Any] = {
    "Resources": {
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": ASSUME,
                "Policies": [{"PolicyDocument": {"Statement": STATEMENTS}}],
            },
        },
        "DeadAlarm": {
            "Type": "AWS::CloudWatch::Alarm",
            "Properties": {
                "Namespace": {"Fn::Sub": "UsageBilling/${AWS::StackName}"},
                "MetricName": "InboxDead",
                "Dimensions": [{"Name": "service", "Value": "reconcile"}],
            },
        },
    }
}
METRIC_LINE = json.dumps(
    {
        "_aws": {
            "CloudWatchMetrics": [
                {"Namespace": "UsageBilling/stack", "Metrics": [{"Name": "InboxDead"}]}
            ]
        },
        "service": "reconcile",
        "InboxDead": [0.0],
    }
)


class _Front:
    """What `watch` reads of the front."""

    def __init__(self, *actions: str) -> None:
        self.actions = Counter(actions)


def check(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], actions: tuple[str, ...] = (READ,)
) -> None:
    monkeypatch.setattr(watch, "messages", lambda _: (("/group", line) for line in lines))
    front, seen = cast("Front", _Front(*actions)), watch.Seen()
    seen.read(front)
    seen.check(front, TEMPLATE, "stack")


def test_all_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with lines that are no JSON, and with rights that only Lambda itself uses."""
    check(monkeypatch, ["START RequestId: 1", METRIC_LINE])


def test_a_right_that_depends_on_a_parameter_may_be_used_and_need_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check(monkeypatch, [METRIC_LINE], (READ,))
    check(monkeypatch, [METRIC_LINE], (READ, PUT))


@pytest.mark.parametrize(("metric", "file"), watch.NOT_PROVOKED.items())
def test_what_is_not_provoked_has_a_test(metric: str, file: str) -> None:
    """No alarm is left out without one."""
    text = (ROOT / file).read_text(encoding="utf-8")
    assert metric in text or Metric(metric).name in text


@pytest.mark.parametrize(
    ("lines", "actions", "told"),
    [
        ([METRIC_LINE, "AccessDeniedException: no"], (READ,), "no role allows this"),
        ([METRIC_LINE], (READ, "sqs:SendMessage"), "call sqs:SendMessage, which no role allows"),
        ([METRIC_LINE], (), f"allow {READ}, which no function has called"),
        ([], (READ,), r"DeadAlarm \(InboxDead of reconcile\) watches a metric"),
        ([METRIC_LINE.replace("stack", "other")], (READ,), "DeadAlarm"),
        ([METRIC_LINE.replace("reconcile", "webhook")], (READ,), "DeadAlarm"),
    ],
)
def test_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], actions: tuple[str, ...], told: str
) -> None:
    with pytest.raises(Failed, match=told):
        check(monkeypatch, lines, actions)
