"""Whatever a function is handed, it answers in its own terms, and raises nothing.

The functions, their routes and their schedules are those of the template.
"""

import copy
import importlib
import json
from types import ModuleType
from typing import Any

import pytest

from billing.delivery import sending
from billing.errors import InvalidRequest
from billing.events import delivering
from functions.deliver_usage import app as deliver_usage
from functions.migrate import app as migrate
from functions.reconcile import app as reconcile
from functions.register_webhook import app as register_webhook
from functions.send_events import app as send_events
from functions.send_mail import app as send_mail
from tests.integration.conftest import CloudFormation, Context
from tests.integration.functions.calling import event, start
from tests.unit.cloudformation import ROOT, TEMPLATE, app_of, load, of_type

pytestmark = pytest.mark.handlers

Route = tuple[str, str]

FUNCTIONS = of_type(load(TEMPLATE)["Resources"], "AWS::Serverless::Function")


def module_of(name: str) -> ModuleType:
    """The module of a function in the template."""
    app = app_of(FUNCTIONS[name]).relative_to(ROOT).with_suffix("")
    return importlib.import_module(".".join(app.parts))


def _events(name: str, kind: str) -> list[dict[str, Any]]:
    listed = FUNCTIONS[name].get("Events", {}).values()
    return [each["Properties"] for each in listed if each["Type"] == kind]


def routes_of(name: str) -> list[Route]:
    """The function's routes, with something in the place of each part that varies."""
    return [
        (each.get("Method", "GET"), each.get("Path", "/nowhere").replace("{", "").replace("}", ""))
        for each in _events(name, "HttpApi")
    ]


HTTP = sorted(name for name in FUNCTIONS if routes_of(name))
SCHEDULED = sorted(name for name in FUNCTIONS if _events(name, "ScheduleV2"))
# CloudFormation invokes the others.
DEPLOYING = sorted(FUNCTIONS.keys() - {*HTTP, *SCHEDULED})

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
SNS = {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "{}", "Subject": None}}]}
S3 = {"Records": [{"eventSource": "aws:s3", "s3": {"bucket": {"name": "b"}, "object": {}}}]}
WEB_SOCKET = {
    "requestContext": {"routeKey": "$connect", "eventType": "CONNECT", "connectionId": "c"},
    "isBase64Encoded": False,
}
AUTHORIZER = {"version": "2.0", "type": "REQUEST", "routeArn": "arn:a", "identitySource": None}
WARM_UP = {"source": "serverless-plugin-warmup"}
OTHERS: dict[str, Any] = {
    "alb": ALB, "rest v1": REST_V1, "scheduler": SCHEDULER, "sqs": SQS, "sns": SNS,
    "s3": S3, "web socket": WEB_SOCKET, "authorizer": AUTHORIZER, "warm-up": WARM_UP,
    "nothing": {}, "null": None, "list": [], "list of null": [None], "text": "ping", "number": 7,
    "true": True, "context null": {"requestContext": None},
    "context of text": {"requestContext": "x"},
    "http null": {"requestContext": {"http": None, "requestId": None, "routeKey": None}},
    "http of numbers": {
        "rawPath": "/usage",
        "requestContext": {"http": {"method": 1, "path": 2}, "requestId": 3},
    },
}  # fmt: skip


def request(route: Route, **changes: Any) -> dict[str, Any]:
    """A request of payload format 2.0, with some parts in another shape."""
    made = event(*route, "{}", {"content-type": "application/json"}, [])
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
    "path a number": {"rawPath": 5},
    "no version": {"version": None},
}


# CloudFormation's request, with a part in another shape.
ODD_REQUESTS: dict[str, dict[str, Any]] = {
    "no address": {"ResponseURL": None},
    "an address that is none": {"ResponseURL": "ftp"},
    "no id": {"RequestId": None},
    "a kind that is none": {"RequestType": "Replace"},
    "a kind that is a list": {"RequestType": ["Create"]},
}


@pytest.fixture(autouse=True)
def _environment(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, migrated_url, [], {})
    for module in map(module_of, FUNCTIONS):
        if hasattr(module, "metrics"):
            monkeypatch.setattr(module.metrics.provider, "namespace", "test")


def test_every_function_is_called() -> None:
    """A new one is called as its events in the template say."""
    assert [module_of(each) for each in DEPLOYING] == [migrate, register_webhook]
    scheduled = {deliver_usage, reconcile, send_events, send_mail}
    assert {module_of(each) for each in SCHEDULED} == scheduled
    assert len(HTTP) + len(SCHEDULED) + len(DEPLOYING) == len(FUNCTIONS)


@pytest.mark.parametrize("function", HTTP)
class TestHttp:
    @pytest.mark.parametrize("shape", OTHERS)
    def test_an_event_that_is_no_request(self, function: str, shape: str) -> None:
        """400, as a problem document."""
        answer = module_of(function).handler(copy.deepcopy(OTHERS[shape]), Context(20))
        assert answer["statusCode"] == 400
        assert json.loads(answer["body"])["code"] == "unknown_event"
        assert answer["headers"]["Content-Type"] == "application/problem+json"

    @pytest.mark.parametrize("shape", ODD_PARTS)
    def test_a_request_with_a_part_in_another_shape(self, function: str, shape: str) -> None:
        """Whatever the answer is, each route has one, and it is no fault of ours."""
        routes = routes_of(function)
        assert routes
        for route in routes:
            answer = module_of(function).handler(request(route, **ODD_PARTS[shape]), Context(20))
            status = answer["statusCode"]
            assert status in {200, 202, 204, 303, 400, 401, 403, 404, 405, 415, 422, 502, 503}
            if status in {502, 503}:
                assert route in {("GET", "/plans"), ("GET", "/")}  # nobody is at Commet


@pytest.mark.parametrize("function", SCHEDULED)
class TestSchedules:
    @pytest.mark.parametrize("shape", OTHERS)
    def test_a_run_is_a_run_whatever_starts_it(
        self,
        function: str,
        shape: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The work is in the database; the event says nothing that a run needs."""
        ran: list[Any] = []
        without_work(ran, monkeypatch)
        module_of(function).handler(copy.deepcopy(OTHERS[shape]), Context(55))
        assert len(ran) == 1, capsys.readouterr().out


@pytest.mark.parametrize("detail", [None, [], "{}", {}, {"eventType": "Bounce", "bounce": None}])
def test_a_word_of_ses_that_cannot_be_read(detail: Any) -> None:
    """It fails by name, so that the failure queue keeps it: it may be about a real address."""
    with pytest.raises(InvalidRequest, match="unknown form"):
        send_mail.handler({"source": "aws.ses", "detail": detail}, Context(55))


@pytest.mark.parametrize("function", DEPLOYING)
class TestDeploying:
    @pytest.mark.parametrize("shape", sorted(OTHERS.keys() - {"nothing", "null"}))
    def test_an_event_that_is_no_request_of_cloudformation(
        self, function: str, shape: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is migrated or registered because of it; the log says so."""
        done: list[Any] = []
        without_work(done, monkeypatch)
        answer = module_of(function).handler(copy.deepcopy(OTHERS[shape]), Context(60))
        assert list(answer) == ["ignored"]
        assert done == []

    @pytest.mark.parametrize("by_hand", [{}, None])
    def test_by_hand(self, function: str, by_hand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[Any] = []
        without_work(done, monkeypatch)
        assert "ignored" not in module_of(function).handler(by_hand, Context(60))
        assert len(done) == 1

    @pytest.mark.parametrize("shape", ODD_REQUESTS)
    def test_a_request_that_cannot_be_answered(
        self,
        function: str,
        shape: str,
        cloudformation: CloudFormation,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is no request of CloudFormation's."""
        done: list[Any] = []
        without_work(done, monkeypatch)
        asked = cloudformation.event("Create") | ODD_REQUESTS[shape]
        assert list(module_of(function).handler(asked, Context(60))) == ["ignored"]
        assert (done, cloudformation.answers) == ([], [])

    @pytest.mark.parametrize("properties", [None, [], "x", {"Url": None, "Layer": 7}])
    def test_properties_in_another_shape(
        self,
        function: str,
        properties: Any,
        cloudformation: CloudFormation,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """CloudFormation gets an answer, whichever it is."""
        without_work([], monkeypatch)
        asked = cloudformation.event("Create") | {"ResourceProperties": properties}
        module_of(function).handler(asked, Context(60))
        assert cloudformation.answer["Status"] in {"SUCCESS", "FAILED"}


def without_work(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes the work of a job and does not do it: nobody is at Commet, and a run would wait."""

    def instead(result: Any) -> Any:
        def run(*_: Any, **__: Any) -> Any:
            ran.append(1)
            return result

        return run

    monkeypatch.setattr(
        "billing.operations.reconcile.run", instead(dict.fromkeys(reconcile.METRICS, 0))
    )
    monkeypatch.setattr(sending, "deliver", instead(sending.Summary()))
    monkeypatch.setattr("billing.mail.sending.tidy", instead(None))
    monkeypatch.setattr("billing.events.delivering.deliver", instead(delivering.Done()))
    monkeypatch.setattr(migrate, "_migrate", instead([]))
    monkeypatch.setattr(register_webhook, "_registration", lambda *_: _Registration(ran))


class _Registration:
    def __init__(self, ran: list[Any]) -> None:
        self._ran = ran

    def ensure(self, **_: str) -> str:
        self._ran.append(1)
        return "whe_1"
