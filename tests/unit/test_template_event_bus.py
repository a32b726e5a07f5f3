"""The bus of EventBus=own, as another reader of templates makes it: with an archive, which the
emulator of `make deploy-test` has not, and with a rule that logs."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from billing.events.event_bridge import Entry, EventBridge, Result, Verdict
from tests.unit.cloudformation import TEMPLATE, load

STACK = "usage-billing"
GROUP = f"/aws/events/{STACK}"
NOW = datetime.now(UTC)
# Those that the bus, and what belongs to it, refer to.
PARAMETERS = ("EventBus", "KmsKeyArn", "LogRetentionDays")
CONDITIONS = ("HasEventBus", "HasKmsKey", "MakesEventBus")


@pytest.fixture
def moto_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bus(moto_url: str) -> str:
    """The ARN of the bus of a stack that has nothing but the bus and what belongs to it."""
    whole = load(TEMPLATE)
    parts = {n: r for n, r in whole["Resources"].items() if n.startswith("OutgoingEvent")}
    del parts["OutgoingEventFailuresPolicy"]  # moto does not know policies of queues
    # Ref of a bus is its name, too, but not in moto's rules.
    rule, bus = parts["OutgoingEventRule"]["Properties"], "OutgoingEventBus"
    assert rule["EventBusName"] == {"Ref": bus}
    rule["EventBusName"] = {"Fn::GetAtt": [bus, "Name"]}
    template = {
        "Parameters": {n: whole["Parameters"][n] for n in PARAMETERS},
        "Conditions": {n: whole["Conditions"][n] for n in CONDITIONS},
        "Resources": parts,
        "Outputs": {"EventBusArn": whole["Outputs"]["EventBusArn"]},
    }
    client = boto3.client("cloudformation", endpoint_url=moto_url)
    client.create_stack(
        StackName=STACK,
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": "EventBus", "ParameterValue": "own"}],
    )
    (stack,) = client.describe_stacks(StackName=STACK)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    (output,) = stack["Outputs"]
    return str(output["OutputValue"])


def logged(url: str) -> list[dict[str, Any]]:
    found = boto3.client("logs", endpoint_url=url).filter_log_events(logGroupName=GROUP)
    return [json.loads(each["message"]) for each in found["events"]]


def test_an_event_is_logged_and_archived_and_can_be_put_on_the_bus_again(
    moto_url: str, bus: str
) -> None:
    """A replay, as docs/events.md tells it, brings the event with the id that it had."""
    events: Any = boto3.client("events", endpoint_url=moto_url)
    event = {"id": "0d3f", "type": "access.granted"}
    entry = Entry("access.granted", NOW, json.dumps(event))
    assert EventBridge(bus, moto_url).put([entry]) == [Result(Verdict.TAKEN)]
    assert [(each["detail-type"], each["detail"]) for each in logged(moto_url)] == [
        ("access.granted", event)
    ]
    (archive,) = events.list_archives(EventSourceArn=bus)["Archives"]
    assert (archive["EventCount"], archive["RetentionDays"]) == (1, 30)
    events.start_replay(
        ReplayName="after-the-outage",
        EventSourceArn=events.describe_archive(ArchiveName=archive["ArchiveName"])["ArchiveArn"],
        Destination={"Arn": bus},
        EventStartTime=NOW - timedelta(hours=1),
        EventEndTime=NOW + timedelta(hours=1),
    )
    assert [each["detail"]["id"] for each in logged(moto_url)] == ["0d3f", "0d3f"]
