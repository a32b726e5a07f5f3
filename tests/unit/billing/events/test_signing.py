"""What is posted to endpoints is signed after Standard Webhooks."""

import base64
import json
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from billing.events import signing

ENDPOINT = "ep_0123456789abcdef01234567"
SECRET = signing.secret_of("the stack's secret", ENDPOINT, 1)
BODY = json.dumps({"type": "access.granted"}).encode()


def signed(*secrets: str, body: bytes = BODY, at: float | None = None) -> dict[str, str]:
    moment = int(time.time() if at is None else at)
    return signing.headers(secrets, message_id="event-1", timestamp=moment, body=body)


class TestSecretOf:
    def test_is_32_bytes_in_the_form_of_standard_webhooks(self) -> None:
        assert SECRET.startswith("whsec_")
        assert len(base64.b64decode(SECRET.removeprefix("whsec_"))) == 32

    def test_is_the_same_for_the_same_endpoint_and_generation_alone(self) -> None:
        others = {
            signing.secret_of("the stack's secret", ENDPOINT, 2),
            signing.secret_of("the stack's secret", ENDPOINT[:-1] + "8", 1),
            signing.secret_of("another stack's secret", ENDPOINT, 1),
        }
        assert len(others | {SECRET}) == 4
        assert signing.secret_of("the stack's secret", ENDPOINT, 1) == SECRET


class TestHeaders:
    def test_the_package_of_standard_webhooks_verifies_them(self) -> None:
        assert Webhook(SECRET).verify(BODY.decode(), signed(SECRET)) == json.loads(BODY)

    def test_each_of_several_secrets_verifies_them(self) -> None:
        old, new = SECRET, signing.secret_of("the stack's secret", ENDPOINT, 2)
        for secret in (old, new):
            assert Webhook(secret).verify(BODY.decode(), signed(new, old))

    @pytest.mark.parametrize("change", ["body", "id", "timestamp", "secret"])
    def test_what_was_changed_on_the_way_is_refused(self, change: str) -> None:
        headers, body, secret = signed(SECRET), BODY.decode(), SECRET
        if change == "body":
            body = body.replace("granted", "ended")
        elif change == "id":
            headers["webhook-id"] = "event-2"
        elif change == "timestamp":
            headers["webhook-timestamp"] = str(int(time.time()) + 1)
        else:
            secret = signing.secret_of("the stack's secret", ENDPOINT, 2)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)
