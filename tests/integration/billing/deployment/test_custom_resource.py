"""Answering CloudFormation: once, in any case, in time, and with a reason a person can read."""

import json
import time
from collections.abc import Callable
from urllib.error import HTTPError

import pytest

from billing.deployment.custom_resource import Done, Request, fulfil
from tests.integration.conftest import CloudFormation, Context


class Log:
    """Counts what was logged."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def exception(self, msg: str) -> None:
        self.messages.append(msg)

    def warning(self, msg: str) -> None:
        self.messages.append(msg)


Run = Callable[..., dict[str, object]]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def run(cloudformation: CloudFormation, log: Log) -> Run:
    def of(
        work: Callable[[Request], Done],
        kind: str = "Create",
        resource_id: str | None = None,
        *,
        seconds: float = 60,
    ) -> dict[str, object]:
        return fulfil(
            cloudformation.event(kind, resource_id, Url="https://a.example/"),
            Context(seconds),
            work,
            resource_id="none-yet",
            reason=lambda error: f"because of {type(error).__name__}",
            log=log,
        )

    return of


def works_until_answered(cloudformation: CloudFormation) -> Done:
    """Goes on for longer than an invocation has; for eight seconds where nobody answers."""
    end = time.monotonic() + 8
    while not cloudformation.answers and time.monotonic() < end:
        time.sleep(0.01)
    return Done("made-1")


class TestFulfil:
    def test_success(self, run: Run, cloudformation: CloudFormation) -> None:
        """Everything CloudFormation matches an answer by, and no content type."""
        answer = run(lambda _: Done("made-1", "3 applied", {"EndpointId": "whe_1"}))
        assert answer == {
            "Status": "SUCCESS",
            "Reason": "3 applied",
            "PhysicalResourceId": "made-1",
            "StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/billing/1",
            "RequestId": "request-1",
            "LogicalResourceId": "Resource",
            "Data": {"EndpointId": "whe_1"},
        }
        assert cloudformation.answer == answer
        assert cloudformation.content_types in ([""], [None])

    def test_what_is_asked(self, run: Run) -> None:
        asked: list[Request] = []

        def work(request: Request) -> Done:
            asked.append(request)
            return Done("made-1")

        run(work, "Update", "made-1")
        (request,) = asked
        assert (request.kind, request.id, request.resource_id) == ("Update", "request-1", "made-1")
        assert request.properties["Url"] == "https://a.example/"

    @pytest.mark.parametrize(("known", "named"), [(None, "none-yet"), ("made-1", "made-1")])
    def test_failure(
        self, run: Run, cloudformation: CloudFormation, log: Log, known: str | None, named: str
    ) -> None:
        """Logged and told, not raised; the resource keeps its name, or nothing would be deleted."""

        def work(_: Request) -> Done:
            raise ZeroDivisionError

        run(work, "Update" if known else "Create", known)
        answer = cloudformation.answer
        assert (answer["Status"], answer["Reason"]) == ("FAILED", "because of ZeroDivisionError")
        assert answer["PhysicalResourceId"] == named
        assert log.messages == ["custom_resource.failed"]

    def test_a_process_that_is_ended(self, run: Run, cloudformation: CloudFormation) -> None:
        """Also then it is told."""

        def work(_: Request) -> Done:
            raise SystemExit

        with pytest.raises(SystemExit):
            run(work)
        assert cloudformation.answer["Status"] == "FAILED"

    def test_a_long_reason(self, run: Run, cloudformation: CloudFormation) -> None:
        """The whole answer may have 4096 bytes."""
        run(lambda _: Done("made-1", "x" * 5000))
        assert len(cloudformation.answer["Reason"]) == 1000

    @pytest.mark.parametrize("text", ["ü", "€", "😀", '"', "\n"])
    def test_a_long_reason_in_other_letters(
        self, run: Run, cloudformation: CloudFormation, text: str
    ) -> None:
        """They count as they are written in JSON."""
        run(lambda _: Done("made-1", text * 5000))
        reason = cloudformation.answer["Reason"]
        assert 900 < len(json.dumps(reason)) <= 1002
        assert set(reason) == {text}

    def test_no_time_left(self, run: Run, cloudformation: CloudFormation) -> None:
        """Before Lambda ends the function it says so, once, whatever comes of it later."""
        run(lambda _: works_until_answered(cloudformation), seconds=0.1)
        answer = cloudformation.answer
        assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "none-yet")
        assert "too long" in answer["Reason"]

    def test_ten_seconds_before_the_end(self, run: Run, cloudformation: CloudFormation) -> None:
        """An answer takes time, too: three attempts of three seconds."""
        started = time.monotonic()
        run(lambda _: works_until_answered(cloudformation), seconds=10.1)
        assert time.monotonic() - started < 5
        assert cloudformation.answer["Status"] == "FAILED"

    def test_an_answer_that_is_not_taken_at_first(
        self, run: Run, cloudformation: CloudFormation
    ) -> None:
        """Is given again."""
        cloudformation.refuses = 2
        run(lambda _: Done("made-1"))
        assert cloudformation.answer["Status"] == "SUCCESS"

    def test_an_answer_that_is_never_taken(self, run: Run, cloudformation: CloudFormation) -> None:
        """Is raised: Lambda then runs the request again."""
        cloudformation.refuses = 3
        with pytest.raises(HTTPError):
            run(lambda _: Done("made-1"))
        assert cloudformation.answers == []
