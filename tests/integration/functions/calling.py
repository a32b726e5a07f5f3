"""How tests call the HTTP functions in this process: one request in, one answer out."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest

from billing import wiring
from billing.accounts import tokens
from billing.credentials.secrets import Secrets
from billing.errors import TITLES
from functions.account import app as account
from functions.checkout import app as checkout
from functions.dashboard import app as dashboard
from functions.events import app as events
from functions.portal import app as portal
from functions.session import app as session
from functions.signup import app as signup
from functions.track_usage import app as track_usage
from tests.environments import forget
from tests.integration.conftest import Context

ORIGIN = "https://app.example"
WEBHOOK_SECRET = "whsec_test"
APP_SECRET = "app secret"
PEOPLE_SECRET = "people secret"

HANDLERS = {
    "signup": signup, "login": session, "logout": session, "checkout": checkout,
    "plans": checkout, "portal": portal, "subscription": portal, "recovery": portal,
    "invoices": portal, "dashboard": dashboard, "users": dashboard,
    "health": dashboard, "usage": track_usage, "/account/audit": dashboard,
    "account": account, "email": account, "events": events, "unsubscribe": account,
    "thresholds": dashboard,
    "password": account, "sessions": account,
    "/account/export": dashboard, "/account/usage": dashboard,
    "/account/usage/events": dashboard,
}  # fmt: skip

# How header names may be written: as AWS does; as clients do, which SAM CLI hands on; and louder.
SPELLINGS = pytest.mark.parametrize("spell", [str.lower, str.title, str.upper])

Spell = Callable[[str], str]


def service_key(name: str, key: str, *scopes: str) -> dict[str, Any]:
    """A service key as the secret lists it."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {"name": name, "sha256": digest, "scopes": list(scopes)}


class Store:
    """The secrets of a stack with this database and these service keys."""

    def __init__(self, database_url: str, keys: list[dict[str, Any]]) -> None:
        parts = urlsplit(database_url)
        self._values = {
            "database": {"username": parts.username or "", "password": parts.password or ""},
            "keys": {"keys": keys},
            "webhook": {"secrets": [WEBHOOK_SECRET]},
            "commet": {"api_key": "ck_sandbox_x"},
        }

    def get(self, secret_id: str, *_: str) -> str:
        texts = {"app": APP_SECRET, "people": PEOPLE_SECRET}
        return texts.get(secret_id) or json.dumps(self._values[secret_id])


def variables(database_url: str) -> dict[str, str]:
    """What a function is told of its database and of the rest that all of them need."""
    parts = urlsplit(database_url)
    return {
        "APP_URL": ORIGIN,
        "COMMET_MODE": "sandbox",
        "DATABASE_HOST": str(parts.hostname),
        "DATABASE_PORT": str(parts.port),
        "DATABASE_NAME": parts.path[1:],
        "DATABASE_SSLMODE": "disable",
        "POWERTOOLS_SERVICE_NAME": "test",
    }


def start(
    patch: pytest.MonkeyPatch,
    database_url: str,
    keys: list[dict[str, Any]],
    changes: Mapping[str, str],
) -> None:
    """Begins a fresh environment of the functions: these service keys, nobody at Commet."""
    forget()
    settings = variables(database_url) | {
        "COMMET_BASE_URL": "http://127.0.0.1:1",
        "DATABASE_SECRET_ARN": "database",
        "COMMET_SECRET_ARN": "commet",
        "WEBHOOK_SECRET_ARN": "webhook",
        "SERVICE_KEYS_SECRET_ARN": "keys",
        "APP_SECRET_ARN": "app",
        "PEOPLE_SECRET_ARN": "people",
    }
    for name, value in (settings | dict(changes)).items():
        patch.setenv(name, value)
    secrets = Secrets(Store(database_url, keys))
    patch.setattr(wiring, "secrets", lambda: secrets)


@dataclass(frozen=True)
class Answer:
    """An answer in payload format 2.0, read."""

    status: int
    headers: dict[str, str]
    text: str
    cookies: list[str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """The code of a problem document, which this must be."""
        assert self.headers["content-type"] == "application/problem+json"
        problem = self.json
        assert set(problem) >= {"type", "title", "status", "detail", "code", "request_id"}
        assert (problem["status"], problem["request_id"]) == (self.status, "req-1")
        assert problem["title"] == TITLES[problem["code"]]
        assert self.headers["cache-control"] == "no-store"
        return str(problem["code"])


def event(
    method: str,
    path: str,
    body: str | None,
    headers: dict[str, str],
    cookies: list[str],
    *,
    spell: Spell = str.lower,
) -> dict[str, Any]:
    """A request as API Gateway hands it over. The path may end in a query."""
    path, _, query = path.partition("?")
    return {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query,
        "queryStringParameters": dict(parse_qsl(query, keep_blank_values=True)) or None,
        "cookies": cookies, "headers": {spell(k): v for k, v in headers.items()},
        "requestContext": {
            "accountId": "1", "apiId": "a", "domainName": "d", "domainPrefix": "d",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1",
                     "sourceIp": f"192.0.2.{uuid4().int % 250}", "userAgent": "test"},
            "requestId": "req-1", "routeKey": "$default", "stage": "$default",
            "time": "", "timeEpoch": 0,
        },
        "body": body, "isBase64Encoded": False,
    }  # fmt: skip


def ask(app: Any, request: dict[str, Any]) -> Answer:
    """What the handler of a function answers to an event."""
    answer = app.handler(request, Context(20))
    return Answer(
        answer["statusCode"],
        {k.lower(): v for k, v in (answer.get("headers") or {}).items()},
        answer.get("body") or "",
        answer.get("cookies") or [],
    )


def call(
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    cookie: str | None = None,
    text: str | None = None,
    origin: str | None = None,
    base64_encoded: bool = False,
    spell: Spell = str.lower,
    **headers: str,
) -> Answer:
    """One request to the function its path belongs to."""
    sent = {"content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        sent["authorization"] = f"Bearer {token}"
    if origin is not None:
        sent["origin"] = origin
    text = json.dumps(body) if body is not None else text
    request = event(method, path, text, sent, [cookie] if cookie else [], spell=spell)
    request["isBase64Encoded"] = base64_encoded
    whole = path.split("?", maxsplit=1)[0]
    return ask(HANDLERS.get(whole) or HANDLERS.get(whole.split("/")[1], dashboard), request)


def mailed(user_id: str, kind: str) -> str:
    """The token in the newest mail of this kind to a user, as it is in the mail's link."""
    token_id = wiring.database().value(
        "select fields->>'token_id' from mails where user_id = %s and kind = %s"
        " order by id desc limit 1",
        [user_id, kind],
    )
    assert token_id is not None
    return tokens.token_of(APP_SECRET, token_id)


def prove_address(user_id: str, session: str) -> None:
    """Confirms the address of a new account, as a person does: with the link, signed in."""
    answer = call(
        "POST", "/email/verify", {"token": mailed(user_id, "verify_email")}, token=session
    )
    assert answer.status == 200, answer.text
