"""Events at an endpoint of a product: who sent them, and what they say."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from usage_billing import Event, WrongSignature, read_event
from usage_billing.events import verify

SECRET = "whsec_" + base64.b64encode(b"a" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"b" * 32).decode()
BODY = json.dumps(
    {
        "specversion": "1.0",
        "id": "5f0c2c0e-7d1b-4b1c-9a55-0f8a3c1d2e3f",
        "source": "https://billing.example.com",
        "type": "access.granted",
        "subject": "customer-17",
        "time": "2026-03-01T12:00:00.250Z",
        "sequence": "7",
        "data": {"plan": "Usage Pro"},
    }
).encode()


def signed(
    *secrets: str, body: bytes = BODY, at: float | None = None, message: str = "msg_1"
) -> dict[str, str]:
    """The headers that a sender with these secrets sends, by the text of the specification."""
    moment = str(int(time.time() if at is None else at))
    text = f"{message}.{moment}.".encode() + body
    signatures = [
        base64.b64encode(
            hmac.new(base64.b64decode(each[6:]), text, hashlib.sha256).digest()
        ).decode()
        for each in secrets
    ]
    return {
        "Webhook-Id": message,
        "Webhook-Timestamp": moment,
        "Webhook-Signature": " ".join(f"v1,{each}" for each in signatures),
    }


def test_a_signed_event_is_read() -> None:
    assert read_event(BODY, signed(SECRET), SECRET) == Event(
        id="5f0c2c0e-7d1b-4b1c-9a55-0f8a3c1d2e3f",
        type="access.granted",
        user_id="customer-17",
        sequence=7,
        occurred_at=datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC),
        data={"plan": "Usage Pro"},
    )


def test_the_example_of_the_specification_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1614265330.0)
    verify(
        b'{"test": 2432232314}',
        {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )


def test_either_secret_will_do_while_it_is_changed() -> None:
    assert read_event(BODY, signed(SECRET), [OTHER, SECRET]).sequence == 7
    assert read_event(BODY, signed(OTHER, SECRET), SECRET).sequence == 7


@pytest.mark.parametrize(
    "made",
    [
        lambda: signed(OTHER),
        lambda: signed(SECRET, body=BODY + b" "),
        lambda: signed(SECRET, at=time.time() - 302),
        lambda: signed(SECRET, at=time.time() + 400),
        lambda: signed(SECRET) | {"Webhook-Id": "msg_2"},
        lambda: signed(SECRET)
        | {"Webhook-Signature": "v1a," + signed(SECRET)["Webhook-Signature"][3:]},
        lambda: signed(SECRET) | {"Webhook-Signature": "v1,nonsense v1,ä"},
        lambda: signed(SECRET) | {"Webhook-Timestamp": "soon"},
        lambda: signed(SECRET) | {"Webhook-Timestamp": ""},
        dict,
    ],
    ids=[
        "another secret", "another body", "too old", "ahead", "another id", "another version",
        "nonsense", "no number", "no time", "no headers",
    ],
)  # fmt: skip
def test_what_the_backend_did_not_send_is_refused(made: Callable[[], dict[str, str]]) -> None:
    with pytest.raises(WrongSignature):
        read_event(BODY, made(), SECRET)


def test_a_body_that_was_parsed_is_a_mistake_of_the_caller() -> None:
    """A framework that reads the JSON loses the bytes that were signed."""
    parsed: Any = json.loads(BODY)
    with pytest.raises(TypeError, match="Give the body as it came, bytes or str, not dict"):
        read_event(parsed, signed(SECRET), SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_ä", SECRET[6:], "svc_app_" + "a" * 64])
def test_what_is_no_secret_is_a_mistake_of_the_caller(secret: str) -> None:
    """Else an empty variable would open the door."""
    with pytest.raises(ValueError, match="whsec_"):
        read_event(BODY, signed(SECRET), secret)
