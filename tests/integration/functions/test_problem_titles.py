"""Titles of problems as callers receive them: each says what is the matter with this request."""

import json
from typing import Any

import pytest

from functions.dashboard import app as dashboard
from functions.track_usage import app as track_usage
from tests.integration.billing.conftest import Subscribe
from tests.integration.conftest import Context
from tests.integration.functions.calling import event
from tests.integration.functions.test_track_usage import KEYS, clock, usage  # noqa: F401 - fixture

pytestmark = pytest.mark.handlers


def problem(
    method: str, path: str, body: object = None, *, key: str = "usage:write", **headers: str
) -> dict[str, Any]:
    """The problem document of one request."""
    sent = {"content-type": "application/json", "authorization": f"Bearer {KEYS[key]}"} | headers
    app = dashboard if path.startswith("/users") else track_usage
    text = None if body is None else json.dumps(body)
    answer = app.handler(event(method, path, text, sent, []), Context(20))
    assert answer["headers"]["Content-Type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(answer["body"])
    assert found["status"] == answer["statusCode"]
    return found


@pytest.mark.parametrize(
    ("fields", "code", "title"),
    [
        ({"quantity": "101"}, "limit_reached", "The plan's included quantity is used up"),
        ({"feature": "gone"}, "feature_not_in_plan", "The plan does not have this feature"),
        ({"user_id": "usr_nobody"}, "unknown_user", "There is no user with this id"),
        ({"occurred_at": "2026-01-01T00:00:00Z"}, "too_old", "The event occurred too long ago"),
        ({"quantity": "no"}, "invalid_request", "The request is not valid"),
    ],
)
def test_usage(subscribe: Subscribe, fields: dict[str, str], code: str, title: str) -> None:
    """Refused usage names its own reason, not that of another refusal with the same status."""
    subscribe(overage_enabled=False)
    found = problem("POST", "/usage", usage() | fields)
    assert (found["code"], found["title"]) == (code, title)


def test_no_subscription(subscribe: Subscribe) -> None:
    """402 has several reasons; this one alone asks for a subscription."""
    subscribe(status="canceled")
    found = problem("POST", "/usage", usage())
    assert (found["code"], found["title"]) == (
        "subscription_required",
        "A subscription is required",
    )


def test_unknown_user() -> None:
    """An unknown user is not an unknown address."""
    found = problem("GET", "/users/usr_nobody/dashboard", key="read")
    assert (found["code"], found["title"]) == ("unknown_user", "There is no user with this id")
    found = problem("GET", "/users/usr_nobody/elsewhere", key="read")
    assert (found["code"], found["title"]) == ("not_found", "There is nothing at this address")


def test_foreign_origin() -> None:
    """A foreign origin has nothing to do with keys."""
    found = problem("POST", "/usage", usage(), origin="https://evil.example")
    assert (found["code"], found["title"]) == (
        "origin_not_allowed",
        "The request does not come from an allowed origin",
    )


def test_scopes() -> None:
    """A key without the scope is told so."""
    found = problem("POST", "/usage", usage(), key="read")
    assert (found["code"], found["title"]) == ("missing_scope", "The service key lacks a scope")
    found = problem("POST", "/usage", usage(), authorization="Bearer svc_unknown_key")
    assert (found["code"], found["title"]) == (
        "unauthenticated",
        "The credentials are missing or not valid",
    )
