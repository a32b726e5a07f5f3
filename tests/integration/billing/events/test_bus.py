"""Outgoing events reach an EventBridge bus, each at least once."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from psycopg.types.json import Jsonb

from billing.database.connection import Database
from billing.deadline import Deadline
from billing.events import bus, log
from billing.events.event_bridge import Entry, EventBridge, Result, Verdict
from tests.http_server import Request, Response, serving
from tests.integration.billing.conftest import NOW
from tests.integration.billing.events.users import add_user

ARN = "arn:aws:events:us-east-1:123456789012:event-bus/acme-events"
TAKEN = Result(Verdict.TAKEN)
REFUSED = Result(Verdict.REFUSED, "MalformedDetail")
NOT_TAKEN = Result(Verdict.NOT_TAKEN, "ThrottlingException")


class Told:
    """A bus that answers as it is told, and then takes everything."""

    def __init__(self, *answers: list[Result]) -> None:
        self.answers = list(answers)
        self.calls: list[list[str]] = []

    def put(self, entries: list[Entry]) -> list[Result]:
        self.calls.append([json.loads(each.detail)["sequence"] for each in entries])
        return self.answers.pop(0) if self.answers else [TAKEN] * len(entries)


@pytest.fixture(autouse=True)
def ana(db: Database) -> str:
    return add_user(db, "usr_ana")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def emit(db: Database, times: int = 1) -> None:
    for number in range(times):
        db.execute(
            "select emit_event('usr_ana', 'access.granted', %s, %s)", [NOW, Jsonb({"n": number})]
        )
    log.place(db)


def put(db: Database, to: bus.Bus, *, name: str = ARN, seconds: float = 60) -> bus.Done:
    return bus.put(db, to, name=name, source="/", deadline=Deadline.after(seconds))


class TestPut:
    def test_a_new_bus_gets_the_events_from_now_on_ten_in_a_call(self, db: Database) -> None:
        emit(db, 3)
        told = Told()
        assert put(db, told) == bus.Done()
        emit(db, 12)
        assert put(db, told).put == 12
        assert put(db, told).put == 0
        assert [len(call) for call in told.calls] == [10, 2]
        assert [each for call in told.calls for each in call] == [str(n) for n in range(4, 16)]

    def test_what_was_not_taken_is_put_again_alone(self, db: Database) -> None:
        told = Told()
        put(db, told)
        emit(db, 3)
        told.answers = [[TAKEN, NOT_TAKEN, TAKEN]]
        assert put(db, told).put == 3
        assert told.calls == [["1", "2", "3"], ["2"]]

    def test_a_bus_that_does_not_take_an_event_gets_it_from_the_next_run(
        self, db: Database
    ) -> None:
        """Those after it come twice, and none is left out."""
        told = Told()
        put(db, told)
        emit(db, 4)
        told.answers = [[TAKEN, NOT_TAKEN, TAKEN, TAKEN], [NOT_TAKEN], [NOT_TAKEN]]
        assert put(db, told).put == 3
        assert bus.age_seconds(db) > 0
        assert put(db, told).put == 3
        assert told.calls[-1] == ["2", "3", "4"]
        assert bus.age_seconds(db) == 0

    def test_what_is_refused_for_good_is_counted_and_passed_over(self, db: Database) -> None:
        told = Told()
        put(db, told)
        emit(db, 3)
        told.answers = [[TAKEN, REFUSED, TAKEN]]
        assert put(db, told) == bus.Done(put=2, passed_over=1)
        assert put(db, told) == bus.Done()

    def test_another_bus_begins_with_the_events_of_its_time(self, db: Database) -> None:
        told = Told()
        put(db, told)
        emit(db)
        assert put(db, told, name=f"{ARN}-2").put == 0
        emit(db)
        assert put(db, told, name=f"{ARN}-2").put == 1
        bus.forget(db)
        emit(db)
        assert put(db, told).put == 0

    def test_no_call_begins_that_could_outlast_the_run(self, db: Database) -> None:
        told = Told()
        put(db, told)
        emit(db)
        assert put(db, told, seconds=5).put == 0
        assert told.calls == []


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestEventBridge:
    def test_events_reach_a_rule_of_the_bus(self, db: Database, moto_url: str) -> None:
        """Over HTTP, with the real client: a rule that matches our source hands them to a queue."""
        events: Any = boto3.client("events", endpoint_url=moto_url)
        sqs = boto3.client("sqs", endpoint_url=moto_url)
        events.create_event_bus(Name="acme-events")
        queue = sqs.create_queue(QueueName="heard")["QueueUrl"]
        queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        pattern = {"source": ["usage-billing"], "detail-type": ["access.granted"]}
        events.put_rule(Name="ours", EventBusName="acme-events", EventPattern=json.dumps(pattern))
        target = {"Id": "queue", "Arn": queue_arn["Attributes"]["QueueArn"]}
        events.put_targets(Rule="ours", EventBusName="acme-events", Targets=[target])
        bridge = EventBridge(ARN, moto_url)
        put(db, bridge)
        emit(db, 2)
        assert put(db, bridge) == bus.Done(put=2)
        messages: list[Any] = []
        for _ in range(2):
            messages += sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
            if len(messages) == 2:
                break
        heard: list[dict[str, Any]] = [json.loads(each["Body"]) for each in messages]
        assert sorted(each["detail"]["sequence"] for each in heard) == ["1", "2"]
        assert {each["detail-type"] for each in heard} == {"access.granted"}
        assert {each["detail"]["subject"] for each in heard} == {"usr_ana"}

    def answered(self, answer: dict[str, Any], status: int = 200) -> list[Result]:
        def take(_: Request) -> Response:
            return Response(json.dumps(answer).encode(), status, "application/x-amz-json-1.1")

        with serving(take) as url:
            return EventBridge(ARN, url).put([Entry("access.granted", NOW, "{}")] * 2)

    def test_each_entry_has_its_own_verdict(self) -> None:
        answer = {
            "FailedEntryCount": 1,
            "Entries": [{"EventId": "1"}, {"ErrorCode": "MalformedDetail", "ErrorMessage": "x"}],
        }
        assert self.answered(answer) == [TAKEN, REFUSED]
        answer["Entries"] = [{"ErrorCode": "InternalFailure"}, {"ErrorCode": "AccessDenied"}]
        verdicts = [each.verdict for each in self.answered(answer)]
        assert verdicts == [Verdict.NOT_TAKEN] * 2

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            ({"__type": "AccessDeniedException"}, 400),
            ({"__type": "ThrottlingException"}, 400),
            ({}, 500),
            ({"Entries": []}, 200),
            ({}, 200),
        ],
    )
    def test_an_answer_without_verdicts_takes_nothing(
        self, answer: dict[str, Any], status: int
    ) -> None:
        verdicts = [each.verdict for each in self.answered(answer, status)]
        assert verdicts == [Verdict.NOT_TAKEN] * 2

    def test_nobody_answers(self) -> None:
        results = EventBridge(ARN, "http://127.0.0.1:1").put([Entry("a.b", NOW, "{}")])
        assert [each.verdict for each in results] == [Verdict.NOT_TAKEN]

    def test_an_event_that_is_too_large_is_refused_and_the_others_are_not(self) -> None:
        calls: list[int] = []

        def take(request: Request) -> Response:
            entries = json.loads(request.body)["Entries"]
            calls.append(len(entries))
            answer = {"FailedEntryCount": 0, "Entries": [{"EventId": "1"}] * len(entries)}
            return Response(json.dumps(answer).encode(), 200, "application/x-amz-json-1.1")

        small, large = (Entry("a.b", NOW, json.dumps("x" * size)) for size in (10, 300_000))
        with serving(take) as url:
            bridge = EventBridge(ARN, url)
            results = bridge.put([small, large, small])
            assert bridge.put([large]) == [Result(Verdict.REFUSED, "TooLarge")]
        assert [each.verdict for each in results] == [
            Verdict.TAKEN,
            Verdict.REFUSED,
            Verdict.TAKEN,
        ]
        assert calls == [2]
