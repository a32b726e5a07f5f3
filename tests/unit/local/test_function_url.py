"""A function's URL in front of `sam local start-lambda`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from werkzeug.test import Client

from local.function_url import FunctionUrl, main
from tests.http_server import Request, Response, serving


@dataclass
class Lambda:
    """Answers invocations, as start-lambda does."""

    url: str = ""
    answer: Any = None
    events: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def emulator() -> Iterator[Lambda]:
    emulated = Lambda()

    def invoke(request: Request) -> Response:
        emulated.paths.append(request.path)
        emulated.events.append(json.loads(request.body))
        return Response(json.dumps(emulated.answer).encode())

    with serving(invoke) as url:
        emulated.url = url
        yield emulated


def test_a_request_is_an_event_as_in_aws(emulator: Lambda) -> None:
    """Names in lower case, a function URL's route; the answer's status, headers and body."""
    emulator.answer = {"statusCode": 202, "headers": {"X-Seen": "yes"}, "body": "taken"}
    client = Client(FunctionUrl("WebhookFunction", emulator.url))
    answer = client.post(
        "/any/path",
        data="{}",
        headers={"Content-Type": "application/json", "X-Commet-Signature": "s"},
    )
    assert (answer.status_code, answer.text, answer.headers["x-seen"]) == (202, "taken", "yes")
    assert emulator.paths == ["/2015-03-31/functions/WebhookFunction/invocations"]
    (event,) = emulator.events
    assert (event["routeKey"], event["body"]) == ("$default", "{}")
    assert event["headers"]["x-commet-signature"] == "s"


@pytest.mark.parametrize(
    "answer", [{"errorMessage": "boom", "errorType": "E"}, {"statusCode": "x"}], ids=str
)
def test_a_function_that_fails(emulator: Lambda, answer: object) -> None:
    """502, as in AWS, and nothing of what it said."""
    emulator.answer = answer
    response = Client(FunctionUrl("WebhookFunction", emulator.url)).post("/", data="{}")
    assert (response.status_code, response.text) == (502, "Internal Server Error")


def test_nobody_behind_it() -> None:
    """502, and where nobody was."""
    response = Client(FunctionUrl("WebhookFunction", "http://127.0.0.1:1")).post("/", data="{}")
    assert response.status_code == 502
    assert "127.0.0.1:1" in response.text


def test_a_port_that_is_taken(emulator: Lambda, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and no traceback."""
    port = emulator.url.rpartition(":")[2]
    assert main(["--port", port]) == 1
    assert f"Port {port} cannot be used" in capsys.readouterr().err
