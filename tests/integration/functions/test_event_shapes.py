"""Whatever a function is handed, it answers in its own terms, and raises nothing."""

import copy
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from billing.delivery import sending
from functions.checkout import app as checkout
from functions.dashboard import app as dashboard
from functions.deliver_usage import app as deliver_usage
from functions.portal import app as portal
from functions.reconcile import app as reconcile
from functions.session import app as session
from functions.signup import app as signup
from functions.track_usage import app as track_usage
from functions.webhook import app as webhook
from tests.integration.conftest import Context
from tests.integration.functions.calling import event, start

pytestmark = pytest.mark.handlers

HTTP = (checkout, dashboard, portal, session, signup, track_usage, webhook)
SCHEDULED = (deliver_usage, reconcile)
PATHS = {
    "checkout": "/plans", "dashboard": "/health", "portal": "/invoices", "session": "/login",
    "signup": "/signup", "track_usage": "/usage", "webhook": "/webhooks/commet",
}  # fmt: skip

# Shapes as AWS's documentation describes them, with values of our own.
ALB = {
    "requestContext": {"elb": {"targetGroupArn": "arn:aws:elb:x:1:targetgroup/a/1"}},
    "httpMethod": "POST", "path": "/usage", "queryStringParameters": {},
    "headers": {"host": "a.example", "x-forwarded-for": "192.0.2.1"},
    "body": "{}", "isBase64Encoded": False,
}  # fmt: skip
REST_V1 = {
    "version": "1.0", "resource": "/usage", "path": "/usage", "httpMethod": "POST",
    "headers": None, "multiValueHeaders": None, "queryStringParameters": None,
    "pathParameters": None, "stageVariables": None, "body": None, "isBase64Encoded": False,
    "requestContext": {
        "requestId": "r", "httpMethod": "POST", "path": "/usage", "stage": "prod",
        "identity": {"sourceIp": "192.0.2.1"},
    },
}  # fmt: skip
SCHEDULER = {
    "version": "0", "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa", "detail-type": "Scheduled Event",
    "source": "aws.scheduler", "account": "123456789012", "time": "2026-11-29T16:00:00Z",
    "region": "eu-central-1", "resources": ["arn:aws:scheduler:x:1:schedule/a/b"], "detail": "{}",
}  # fmt: skip
SQS = {"Records": [{"messageId": "1", "body": "{}", "eventSource": "aws:sqs"}]}
WARM_UP = {"source": "serverless-plugin-warmup"}
OTHERS: dict[str, Any] = {
    "alb": ALB, "rest v1": REST_V1, "scheduler": SCHEDULER, "sqs": SQS, "warm-up": WARM_UP,
    "nothing": {}, "null": None, "list": [], "list of null": [None], "text": "ping", "number": 7,
    "true": True, "context null": {"requestContext": None},
    "context of text": {"requestContext": "x"},
    "http null": {"requestContext": {"http": None, "requestId": None, "routeKey": None}},
    "http of numbers": {"requestContext": {"http": {"method": 1, "path": 2}, "requestId": 3}},
}  # fmt: skip


def request(function: ModuleType, **changes: Any) -> dict[str, Any]:
    """A request of payload format 2.0 to the function, with some parts in another shape."""
    name = function.__name__.split(".")[1]
    method = "GET" if PATHS[name] in ("/plans", "/health", "/invoices") else "POST"
    made = event(method, PATHS[name], "{}", {"content-type": "application/json"}, [])
    made.update(copy.deepcopy(changes))
    return made


ODD_PARTS: dict[str, dict[str, Any]] = {
    "headers null": {"headers": None},
    "a header null": {"headers": {"content-type": None, "authorization": None, "origin": None}},
    "a header of numbers": {"headers": {"content-type": 1, "authorization": 2}},
    "headers a list": {"headers": ["content-type"]},
    "cookies null": {"cookies": None},
    "cookies of numbers": {"cookies": [1, None]},
    "query null": {"rawQueryString": None, "queryStringParameters": None},
    "query of numbers": {"rawQueryString": 5, "queryStringParameters": [1]},
    "body null": {"body": None},
    "body an object": {"body": {"a": 1}},
    "base64 null": {"isBase64Encoded": None},
    "path null": {"rawPath": None},
    "no version": {"version": None},
}


def of(module: ModuleType) -> str:
    return module.__name__.split(".")[1]


@pytest.fixture(autouse=True)
def _environment(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, migrated_url, [], {})
    for module in (webhook, track_usage, *SCHEDULED):
        monkeypatch.setattr(module.metrics.provider, "namespace", "test")


@pytest.mark.parametrize("function", HTTP, ids=of)
class TestHttp:
    @pytest.mark.parametrize("shape", OTHERS)
    def test_an_event_that_is_no_request(self, function: ModuleType, shape: str) -> None:
        """400, as a problem document."""
        answer = function.handler(copy.deepcopy(OTHERS[shape]), Context(20))
        assert answer["statusCode"] == 400
        assert json.loads(answer["body"])["code"] == "unknown_event"
        assert answer["headers"]["Content-Type"] == "application/problem+json"

    @pytest.mark.parametrize("shape", ODD_PARTS)
    def test_a_request_with_a_part_in_another_shape(self, function: ModuleType, shape: str) -> None:
        """Whatever the answer is, it is one, and no fault of ours."""
        answer = function.handler(request(function, **ODD_PARTS[shape]), Context(20))
        assert answer["statusCode"] in {200, 400, 401, 403, 404, 405, 415, 422, 502, 503}
        if answer["statusCode"] in {502, 503}:
            assert of(function) == "checkout"  # nobody is at Commet


@pytest.mark.parametrize("function", SCHEDULED, ids=of)
class TestSchedules:
    @pytest.mark.parametrize("shape", OTHERS)
    def test_a_run_is_a_run_whatever_starts_it(
        self,
        function: ModuleType,
        shape: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The work is in the database; the event says nothing that a run needs."""
        ran: list[Any] = []
        without_work(function, ran, monkeypatch)
        function.handler(copy.deepcopy(OTHERS[shape]), Context(55))
        assert len(ran) == 1, capsys.readouterr().out


def without_work(
    function: ModuleType, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Nobody is at Commet: a run would wait for it."""

    def run(*_: Any, **__: Any) -> Any:
        ran.append(1)
        return function_result

    if function is reconcile:
        function_result: Any = dict.fromkeys(reconcile.METRICS, 0)
        monkeypatch.setattr("billing.operations.reconcile.run", run)
    else:
        function_result = sending.Summary()
        monkeypatch.setattr(sending, "deliver", run)
    return run
