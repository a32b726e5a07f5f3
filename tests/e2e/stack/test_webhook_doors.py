"""What Commet signed is taken at both doors, in every form a door may hand it over."""

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from billing.credentials.signatures import MAX_BODY_BYTES
from local.stack import LocalStack

# As text, and as base64: API Gateway and function URLs decide by the type.
TYPES = ("application/json", "application/octet-stream")


Send = Callable[..., httpx.Response]


@pytest.fixture(params=["api", "function_url"])
def send(request: pytest.FixtureRequest, stack: LocalStack, http: httpx.Client) -> Send:
    """Posts to one of the doors; signed as Commet does, unless told another signature."""
    door = {"api": f"{stack.api}/webhooks/commet", "function_url": stack.function_url}

    def post(
        body: bytes, signature: str | bytes | None = None, content_type: str = TYPES[0]
    ) -> httpx.Response:
        if signature is None:
            signature = hmac.new(stack.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
        raw = signature if isinstance(signature, bytes) else signature.encode()
        headers = [(b"content-type", content_type.encode()), (b"x-commet-signature", raw)]
        return http.post(door[request.param], content=body, headers=headers)

    return post


def unique(**fields: Any) -> bytes:
    """An event of its own."""
    event = {"id": f"whev_{uuid4().hex}", "event": "x", "mode": "sandbox", "data": {}}
    return json.dumps(event | fields).encode()


def padded(size: int) -> bytes:
    """An event of exactly so many bytes."""
    body = unique(data={"text": ""})
    return body.replace(b'"text": ""', b'"text": "' + b"x" * (size - len(body)) + b'"')


# Made anew for each test: the inbox remembers.
BODIES: dict[str, Callable[[], bytes]] = {
    "null": lambda: b"null" + b" " * (uuid4().int % 10_000),
    "array": lambda: json.dumps([uuid4().hex]).encode(),
    "text": lambda: json.dumps(uuid4().hex).encode(),
    "number": lambda: str(uuid4().int).encode(),
    "empty_object": lambda: b"{" + b" " * (uuid4().int % 10_000) + b"}",
    "no_id": lambda: unique(id=None, note=uuid4().hex),
    "no_data": lambda: unique(data=None),
    "no_event": lambda: unique(event=None),
    "no_time": lambda: unique(event="invoice.created", data={"subscriptionId": "s"}),
    "nul": lambda: unique(data={"customerId": "\x00", "text": "a\x00b"}, event="\x00"),
    "lone_surrogate": lambda: unique(data={"customerId": "\ud800"}, mode="\udfff"),
    "deep": lambda: b"[" * 200_000 + uuid4().hex.encode(),
    "deep_inside": lambda: unique(data=0).replace(b'"data": 0', b'"data": ' + b'{"a":' * 90_000),
    "huge_number": lambda: unique(data={"n": 0}).replace(b'"n": 0', b'"n": ' + b"9" * 5000),
    "not_json": lambda: b"{" + uuid4().hex.encode(),
    "other_script": lambda: unique(data={"name": "Peña ✓ 名前"}),
    "other_mode": lambda: unique(mode="live", event="customer.state_changed"),
    "just_within_the_limit": lambda: padded(MAX_BODY_BYTES),
}


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("name", BODIES)
def test_whatever_commet_signed_is_acknowledged(
    send: Send, stack: LocalStack, name: str, content_type: str
) -> None:
    """200, kept as it was signed, and a second time a duplicate."""
    body = BODIES[name]()
    first, second = (send(body, content_type=content_type) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200), first.text
    assert first.json()["outcome"] in ("ignored", "unreadable", "duplicate")
    assert second.json()["outcome"] == "duplicate"
    with psycopg.connect(stack.database_url) as db:
        kept = db.execute("select count(*) from webhooks where payload = %s", [body])
        assert kept.fetchone() == (1,)


def test_bytes_that_are_no_text(send: Send, stack: LocalStack) -> None:
    """They arrive as they were signed where the type says that they are bytes."""
    body = b'{"id":"\xff\xfe' + uuid4().bytes
    assert send(body, content_type=TYPES[1]).json()["outcome"] == "unreadable"
    with psycopg.connect(stack.database_url) as db:
        kept = db.execute("select count(*) from webhooks where payload = %s", [body])
        assert kept.fetchone() == (1,)


@pytest.mark.parametrize("content_type", TYPES)
def test_one_byte_too_many(send: Send, content_type: str) -> None:
    """413 before anything else, however well it is signed."""
    answer = send(padded(MAX_BODY_BYTES + 1), content_type=content_type)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_hex_is_written_in_two_ways(send: Send, stack: LocalStack) -> None:
    """Upper case is the same signature."""
    body = unique()
    signature = hmac.new(stack.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
    assert send(body, signature.upper()).json()["outcome"] == "ignored"


@pytest.mark.parametrize(
    "signature",
    ["", "0" * 64, b"\xe9" * 64, "sha256=" + "0" * 64, "x" * 7000],
    ids=["empty", "wrong", "not_ascii", "prefixed", "long"],
)
def test_anything_else_is_refused(send: Send, stack: LocalStack, signature: str | bytes) -> None:
    """401 and nothing is stored; no header brings the function down."""
    body = unique()
    answer = send(body, signature)
    assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
    with psycopg.connect(stack.database_url) as db:
        kept = db.execute("select count(*) from webhooks where payload = %s", [body])
        assert kept.fetchone() == (0,)
    assert send(body).status_code == 200
