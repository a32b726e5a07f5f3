"""Events as AWS documents them, field by field."""

import base64
import re
import time
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from local.gateway.events import (
    api_request_id,
    function_url_event,
    http_api_event,
    schedule_event,
)
from local.gateway.template import Schedule


def request(**arguments: Any) -> Request:
    remote = {"REMOTE_ADDR": "203.0.113.7"}
    return Request(EnvironBuilder(environ_base=remote, **arguments).get_environ())


def event_of(**arguments: Any) -> dict[str, Any]:
    return http_api_event(
        request(**arguments), route_key="POST /x", path_parameters={}, request_id="r"
    )


class TestHttpApiEvent:
    def test_every_field_is_where_aws_puts_it(self) -> None:
        """The whole event of a plain request, but for its times."""
        event = http_api_event(
            request(
                method="POST",
                path="/items/7",
                base_url="http://api.example:3000",
                query_string="a=1&a=2&b=%20",
                headers={
                    "X-Thing": "Value",
                    "User-Agent": "curl/8",
                    "Cookie": "one=1; two=2",
                    "X-Amzn-Trace-Id": "Root=1-2-3",
                },
                content_type="application/json",
                data="{}",
            ),
            route_key="POST /items/{id}",
            path_parameters={"id": "7"},
            request_id="abc",
        )
        context = event["requestContext"]
        del context["time"], context["timeEpoch"]
        assert event == {
            "version": "2.0",
            "routeKey": "POST /items/{id}",
            "rawPath": "/items/7",
            "rawQueryString": "a=1&a=2&b=%20",
            "cookies": ["one=1", "two=2"],
            "headers": {
                "host": "api.example:3000",
                "x-thing": "Value",
                "user-agent": "curl/8",
                "content-type": "application/json",
                "content-length": "2",
                "x-amzn-trace-id": "Root=1-2-3",
                "x-forwarded-for": "203.0.113.7",
                "x-forwarded-proto": "http",
                "x-forwarded-port": "3000",
            },
            "queryStringParameters": {"a": "1,2", "b": " "},
            "pathParameters": {"id": "7"},
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "local",
                "domainName": "api.example",
                "domainPrefix": "api",
                "http": {
                    "method": "POST",
                    "path": "/items/7",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "203.0.113.7",
                    "userAgent": "curl/8",
                },
                "requestId": "abc",
                "routeKey": "POST /items/{id}",
                "stage": "$default",
            },
            "body": "{}",
            "isBase64Encoded": False,
        }

    def test_what_a_request_lacks_is_absent(self) -> None:
        """Not empty and not null."""
        event = event_of(method="GET", path="/x")
        absent = {"body", "cookies", "pathParameters", "queryStringParameters", "stageVariables"}
        assert not absent & event.keys()

    def test_times_are_of_this_moment_and_in_milliseconds(self) -> None:
        """SAM CLI freezes them at import, in seconds."""
        before = time.time() * 1000 - 1
        context = event_of()["requestContext"]
        assert before <= context["timeEpoch"] <= time.time() * 1000
        assert re.fullmatch(r"\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000", context["time"])

    @pytest.mark.parametrize(
        "content_type",
        ["text/plain", "application/json; charset=utf-8", "application/xml", "text/csv"],
    )
    def test_text_arrives_as_text(self, content_type: str) -> None:
        """The types API Gateway does not encode."""
        event = event_of(method="POST", content_type=content_type, data="é".encode())
        assert (event["body"], event["isBase64Encoded"]) == ("é", False)

    @pytest.mark.parametrize(
        "content_type",
        ["application/octet-stream", "application/x-www-form-urlencoded", "image/png", ""],
    )
    def test_anything_else_arrives_in_base64(self, content_type: str) -> None:
        """Bytes that are no UTF-8 included, which SAM CLI answers with 502."""
        event = event_of(method="POST", content_type=content_type, data=b"\xff\x00")
        assert base64.b64decode(event["body"]) == b"\xff\x00"
        assert event["isBase64Encoded"] is True

    def test_a_forwarded_address_never_becomes_the_source(self) -> None:
        """It is only passed on, as API Gateway does."""
        event = event_of(headers={"X-Forwarded-For": "198.51.100.1"})
        assert event["requestContext"]["http"]["sourceIp"] == "203.0.113.7"
        assert event["headers"]["x-forwarded-for"] == "198.51.100.1, 203.0.113.7"


def test_a_function_url_has_a_context_of_its_own() -> None:
    """Anonymous, on a domain of its own, with one route."""
    event = function_url_event(request(path="/any/where"), function="Hook", request_id="r")
    context = event["requestContext"]
    assert event["rawPath"] == "/any/where"
    assert event["routeKey"] == context["routeKey"] == "$default"
    assert context["accountId"] == "anonymous"
    assert context["domainName"] == "hook.lambda-url.us-east-1.on.aws"
    assert "pathParameters" not in event


def test_request_ids_differ() -> None:
    """Two requests are never one in the logs."""
    ids = {api_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(found) == 16 for found in ids)


@pytest.mark.parametrize(
    ("source", "detail", "resource"),
    [
        ("aws.scheduler", "{}", "arn:aws:scheduler:us-east-1:123456789012:schedule/default/Tick"),
        ("aws.events", {}, "arn:aws:events:us-east-1:123456789012:rule/Tick"),
    ],
)
def test_a_schedule_says_who_fired_it(source: str, detail: object, resource: str) -> None:
    """A rule and the scheduler send almost the same event."""
    event = schedule_event(Schedule("Tick", "F", "rate(1 minute)", source))
    assert event["source"] == source
    assert event["detail"] == detail
    assert event["resources"] == [resource]
    assert event["detail-type"] == "Scheduled Event"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event["time"])
