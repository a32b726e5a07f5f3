"""The function that CloudFormation calls: it always answers, and migrates when it should."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import psycopg
import pytest

import functions.migrate.app as migrate_function
from billing.migrations import MigrationChanged


@dataclass
class CloudFormation:
    """Takes the answer at a presigned address, as S3 does: for no content type."""

    url: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    content_types: list[str | None] = field(default_factory=list)


@pytest.fixture
def cloudformation() -> Iterator[CloudFormation]:
    stack = CloudFormation()

    class Bucket(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            stack.content_types.append(self.headers.get("content-type"))
            stack.answers.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    server = HTTPServer(("127.0.0.1", 0), Bucket)
    stack.url = f"http://127.0.0.1:{server.server_port}/answer"
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield stack
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ask(
    cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    def request(
        kind: str, outcome: list[str] | Exception, resource: str | None = None
    ) -> dict[str, Any]:
        def run() -> list[str]:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(migrate_function, "_migrate", run)
        event = {
            "RequestType": kind,
            "ResponseURL": cloudformation.url,
            "StackId": "arn:stack",
            "RequestId": "request-1",
            "LogicalResourceId": "Migrations",
        } | ({"PhysicalResourceId": resource} if resource else {})
        migrate_function.handler(event, None)  # type: ignore[arg-type]  # nothing of it is used
        (answer,) = cloudformation.answers
        return answer

    return request


class TestCustomResource:
    def test_create(
        self, ask: Callable[..., dict[str, Any]], cloudformation: CloudFormation
    ) -> None:
        """Success, with everything CloudFormation matches an answer by, and no content type."""
        assert ask("Create", ["0001_accounts.sql"]) == {
            "Status": "SUCCESS",
            "Reason": "1 applied",
            "PhysicalResourceId": "migrations",
            "StackId": "arn:stack",
            "RequestId": "request-1",
            "LogicalResourceId": "Migrations",
        }
        assert cloudformation.content_types in ([""], [None])

    def test_update_keeps_the_resource(self, ask: Callable[..., dict[str, Any]]) -> None:
        """Another physical id would make CloudFormation delete the old one."""
        assert ask("Update", [], "migrations-of-old")["PhysicalResourceId"] == "migrations-of-old"

    def test_delete_leaves_the_data_alone(self, ask: Callable[..., dict[str, Any]]) -> None:
        """Nothing is run: were it, this would fail."""
        assert ask("Delete", AssertionError("ran"), "migrations")["Status"] == "SUCCESS"

    @pytest.mark.parametrize(
        "failure",
        [
            psycopg.OperationalError("connection refused"),
            MigrationChanged("0001_accounts.sql was changed after it had been applied."),
        ],
    )
    def test_a_failure_rolls_back_with_a_reason(
        self, ask: Callable[..., dict[str, Any]], failure: Exception
    ) -> None:
        answer = ask("Update", failure)
        assert answer["Status"] == "FAILED"
        assert str(failure) in answer["Reason"]

    def test_a_bug_is_answered_too(
        self, ask: Callable[..., dict[str, Any]], cloudformation: CloudFormation
    ) -> None:
        """Or CloudFormation would wait for the whole time-out."""
        with pytest.raises(ZeroDivisionError):
            ask("Create", ZeroDivisionError())
        assert [answer["Status"] for answer in cloudformation.answers] == ["FAILED"]
