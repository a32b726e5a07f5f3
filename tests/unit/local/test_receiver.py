"""The receiver of the demo keeps events whose signature is right, each once."""

import json
import time
from datetime import UTC, datetime

import httpx
import pytest
from standardwebhooks import Webhook

from local.receiver import Receiver, is_signed

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = json.dumps({"id": "1", "type": "access.granted"}).encode()


def headers(body: bytes = BODY, *, at: float | None = None) -> dict[str, str]:
    """As the reference library signs."""
    moment = datetime.fromtimestamp(int(at or time.time()), UTC)
    return {
        "webhook-id": "1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("1", moment, body.decode()),
    }


class TestIsSigned:
    def test_by_the_reference_library(self) -> None:
        assert is_signed(BODY, headers(), SECRET, time.time())

    def test_beside_the_signature_of_another_secret(self) -> None:
        both = headers() | {"webhook-signature": f"v1,AAAA {headers()['webhook-signature']}"}
        assert is_signed(BODY, both, SECRET, time.time())

    @pytest.mark.parametrize(
        "changed",
        [
            {"webhook-id": "2"},
            {"webhook-id": ""},
            {"webhook-timestamp": "x"},
            {"webhook-timestamp": str(int(time.time()) + 1)},
            {"webhook-signature": ""},
            {"webhook-signature": "v1,\u00e9"},
        ],
    )
    def test_a_changed_header(self, changed: dict[str, str]) -> None:
        at = time.time()
        assert is_signed(BODY, headers(at=at), SECRET, at)
        assert not is_signed(BODY, headers(at=at) | changed, SECRET, at)

    def test_a_changed_body(self) -> None:
        assert not is_signed(BODY + b" ", headers(), SECRET, time.time())

    @pytest.mark.parametrize("seconds", [-301, 302])
    def test_another_time(self, seconds: int) -> None:
        now = time.time()
        assert not is_signed(BODY, headers(at=now + seconds), SECRET, now)


class TestReceiver:
    def test_an_event_that_comes_twice_counts_once(self) -> None:
        with Receiver() as receiver:
            receiver.secret = SECRET
            answers = [
                httpx.post(receiver.url, content=BODY, headers=headers(), trust_env=False)
                for _ in range(2)
            ]
            assert [each.status_code for each in answers] == [204, 204]
            assert receiver.events() == [{"id": "1", "type": "access.granted"}]

    @pytest.mark.parametrize("secret", ["", "whsec_AAAA"])
    def test_an_event_with_another_signature_is_not_kept(self, secret: str) -> None:
        with Receiver() as receiver:
            receiver.secret = secret
            answer = httpx.post(receiver.url, content=BODY, headers=headers(), trust_env=False)
            assert (answer.status_code, receiver.events()) == (400, [])
