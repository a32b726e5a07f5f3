"""The stack's own event bus, and a queue of the test's that hears what is put on it."""

import json
from collections.abc import Mapping
from typing import Any

from tests.deployed.errors import Failed
from tests.deployed.front import Front
from tests.deployed.stack import NAME

BUS = f"{NAME}-events"
# All that EventBus=own makes, except for the archive, which the emulator does not make.
PARTS = ("alarm", "bus", "log group", "policy of logs", "queue", "rule")
_LISTENER = "deploy-test-listener"
# The pattern of docs/events.md, for all types.
_PATTERN = {"source": ["usage-billing"]}
_AT_ONCE = 10  # the most messages that SQS answers

Event = dict[str, Any]


def parts(front: Front) -> list[str]:
    """The kinds of resources in the account that EventBus=own makes."""
    alarms = front.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{NAME}-EventsNotLogged")
    events, logs = front.client("events"), front.client("logs")
    rules = events.list_rules(EventBusName=BUS)["Rules"]
    buses = events.list_event_buses()["EventBuses"]
    groups = logs.describe_log_groups(logGroupNamePrefix="/aws/events/")["logGroups"]
    queues = front.client("sqs").list_queues(QueueNamePrefix=f"{NAME}-OutgoingEvent")
    found = {
        "alarm": alarms["MetricAlarms"],
        "bus": [each for each in buses if each["Name"] != "default"],
        "log group": groups,
        "policy of logs": logs.describe_resource_policies()["resourcePolicies"],
        "queue": queues.get("QueueUrls", []),
        "rule": [each for each in rules if each["Name"] != _LISTENER],
    }
    return [kind for kind, each in found.items() if each]


class Listener:
    """Hears what is put on the bus from its creation on."""

    def __init__(self, front: Front) -> None:
        self._events, self._sqs = front.client("events"), front.client("sqs")
        self._queue = self._sqs.create_queue(QueueName=_LISTENER)["QueueUrl"]
        named = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])
        self._events.put_rule(Name=_LISTENER, EventBusName=BUS, EventPattern=json.dumps(_PATTERN))
        target = {"Id": "queue", "Arn": named["Attributes"]["QueueArn"]}
        # AWS would want a policy of the queue, too, which the emulator does not ask for.
        self._events.put_targets(Rule=_LISTENER, EventBusName=BUS, Targets=[target])

    def heard(self) -> dict[str, Event]:
        """The CloudEvents that came since the last call, by id. Raises Failed.

        An event that came twice is in it once.
        """
        found: dict[str, Event] = {}
        while messages := self._sqs.receive_message(
            QueueUrl=self._queue, MaxNumberOfMessages=_AT_ONCE
        ).get("Messages"):
            for message in messages:
                event = _unpacked(json.loads(message["Body"]))
                found[event["id"]] = event
                self._sqs.delete_message(
                    QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"]
                )
        return found

    def close(self) -> None:
        """Deletes the rule and the queue. AWS deletes no bus that has a rule."""
        self._events.remove_targets(Rule=_LISTENER, EventBusName=BUS, Ids=["queue"])
        self._events.delete_rule(Name=_LISTENER, EventBusName=BUS)
        self._sqs.delete_queue(QueueUrl=self._queue)


def _unpacked(message: Mapping[str, Any]) -> Event:
    event: Event = message["detail"]
    if (message["source"], message["detail-type"]) != ("usage-billing", event["type"]):
        raise Failed(f"the bus brought a message that no rule of docs/events.md fits: {message}")
    return event
