"""The function that registers the webhook, called as CloudFormation calls it."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import functions.register_webhook.app as function
from billing.errors import CommetRefused
from billing.subscriptions.from_webhook import HANDLED
from standin.testing import StandIn, standin
from tests.conftest import SecretsManager
from tests.environments import forget
from tests.integration.conftest import CloudFormation, Context

pytestmark = pytest.mark.handlers

URL = "https://abc.lambda-url.eu-central-1.on.aws/"

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def running() -> Iterator[StandIn]:
    with standin() as server:
        yield server


@pytest.fixture
def commet(running: StandIn) -> StandIn:
    """The stand-in, with nothing in it."""
    running.control.clear_faults()
    running.control.reset()
    return running


@dataclass(frozen=True)
class Secrets:
    """Where Commet's key and the webhook's secrets are."""

    manager: SecretsManager
    key: str
    webhook: str


@pytest.fixture
def secrets(secrets_manager: SecretsManager, commet: StandIn) -> Secrets:
    return Secrets(
        secrets_manager,
        key=secrets_manager.create(json.dumps({"api_key": commet.api_key})),
        webhook=secrets_manager.create('{"secrets": []}'),
    )


@pytest.fixture
def ask(
    cloudformation: CloudFormation,
    commet: StandIn,
    secrets: Secrets,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Ask]:
    """Calls the function in its environment; answers what CloudFormation was told."""
    variables = {
        "COMMET_BASE_URL": commet.base_url,
        "COMMET_MODE": "sandbox",
        "COMMET_SECRET_ARN": secrets.key,
        "WEBHOOK_SECRET_ARN": secrets.webhook,
        "SECRETS_ENDPOINT_URL": secrets.manager.url,
        "WEBHOOK_URL": URL,
        "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": "",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget()

    def request(kind: str, resource_id: str | None = None, **more: str) -> dict[str, Any]:
        event = cloudformation.event(kind, resource_id, **({"Url": URL} | more))
        function.handler(event, Context())
        return cloudformation.answer

    yield request
    forget()


def endpoints(commet: StandIn) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"{commet.base_url}/webhooks", headers={"x-api-key": commet.api_key}, trust_env=False
    )
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


class TestCreate:
    def test_success(self, ask: Ask, commet: StandIn, secrets: Secrets) -> None:
        """Named by Commet's id; the secret is stored before, and nowhere in the answer."""
        answer = ask("Create")
        (made,) = endpoints(commet)
        assert (answer["Status"], answer["PhysicalResourceId"]) == ("SUCCESS", made["id"])
        assert answer["Data"] == {"EndpointId": made["id"]}
        assert (made["url"], made["isActive"]) == (URL, True)
        assert set(made["events"]) == set(HANDLED)
        (secret,) = json.loads(secrets.manager.text(secrets.webhook))["secrets"]
        assert secret.startswith("whsec_")
        assert secret not in json.dumps(answer)

    def test_a_replay(self, ask: Ask, commet: StandIn) -> None:
        """The same request once more: the same endpoint, the same answer."""
        assert ask("Create") == ask("Create")
        assert len(endpoints(commet)) == 1

    def test_a_refused_key(self, ask: Ask, commet: StandIn, secrets: Secrets) -> None:
        """A reason one can act on, without the key."""
        secrets.manager.put(secrets.key, '{"api_key": "ck_sandbox_wrong"}')
        answer = ask("Create")
        assert answer["Status"] == "FAILED"
        assert "unauthorized" in answer["Reason"]
        assert "ck_sandbox" not in answer["Reason"]
        assert endpoints(commet) == []

    def test_a_key_of_the_other_mode(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        """Told, and nothing is left behind once it is rolled back."""
        monkeypatch.setenv("COMMET_MODE", "live")
        answer = ask("Create")
        assert answer["Status"] == "FAILED"
        assert "other mode" in answer["Reason"]

    def test_a_setting_that_will_not_do(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALLOWED_ORIGINS", "app.example.com")
        answer = ask("Create")
        assert answer["Status"] == "FAILED"
        assert "ALLOWED_ORIGINS must list origins" in answer["Reason"]

    def test_a_secret_that_cannot_be_stored(
        self, ask: Ask, commet: StandIn, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The endpoint is removed again, and Secrets Manager's own words are passed on."""
        monkeypatch.setattr(
            "billing.credentials.webhook_secrets.SecretsManagerStore.put",
            lambda store, secret_id, text: store._call(
                "put_secret_value", SecretId=f"{secret_id}-gone", SecretString=text
            ),
        )
        answer = ask("Create")
        assert answer["Status"] == "FAILED"
        assert "ResourceNotFoundException" in answer["Reason"]
        assert f"Secret: {secrets.webhook}" in answer["Reason"]
        assert endpoints(commet) == []

    @pytest.mark.parametrize("text", [None, "whsec_not_json"])
    def test_a_webhook_secret_that_cannot_be_read(
        self, ask: Ask, secrets: Secrets, monkeypatch: pytest.MonkeyPatch, text: str | None
    ) -> None:
        """The reason says which of the secrets it is, and never what is in it."""
        wrong = secrets.manager.create(text) if text else "arn:of-nothing"
        monkeypatch.setenv("WEBHOOK_SECRET_ARN", wrong)
        answer = ask("Create")
        assert answer["Status"] == "FAILED"
        assert f"Secret: {wrong}" in answer["Reason"]
        assert "whsec_" not in answer["Reason"]

    @pytest.mark.usefixtures("ask")
    def test_one_that_takes_too_long(self, commet: StandIn, cloudformation: CloudFormation) -> None:
        """Given up 15 seconds before Lambda would end it, and told with Commet's own failure."""
        commet.control.fault(action={"latency_ms": 8_000}, times=9)
        event = cloudformation.event("Create", Url=URL)
        started = time.monotonic()
        function.handler(event, Context(15 + 1))
        assert time.monotonic() - started < 7
        assert cloudformation.answer["Status"] == "FAILED"
        commet.control.clear_faults()
        assert endpoints(commet) == []

    def test_rolled_back(self, ask: Ask, commet: StandIn) -> None:
        """CloudFormation deletes what could not be made by the name it was told."""
        commet.control.fault(
            match={"method": "POST", "path": "/webhooks"},
            action={"code": "internal_error", "after": True},
            times=9,
        )
        failed = ask("Create")
        assert (failed["Status"], len(endpoints(commet))) == ("FAILED", 1)
        gone = ask("Delete", failed["PhysicalResourceId"])
        assert (gone["Status"], endpoints(commet)) == ("SUCCESS", [])


class TestUpdate:
    def test_nothing_to_do(self, ask: Ask, commet: StandIn) -> None:
        made = ask("Create")["PhysicalResourceId"]
        assert ask("Update", made)["PhysicalResourceId"] == made
        assert len(endpoints(commet)) == 1

    def test_another_url_and_back(self, ask: Ask, commet: StandIn) -> None:
        """A rollback is an update with the old properties."""
        made = ask("Create")["PhysicalResourceId"]
        for url in (f"{URL}v2", URL):
            assert ask("Update", made, Url=url, request_id=url)["Status"] == "SUCCESS"
            (endpoint,) = endpoints(commet)
            assert (endpoint["id"], endpoint["url"]) == (made, url)

    def test_rotation(self, ask: Ask, commet: StandIn) -> None:
        """Another endpoint under the old name: nothing is to be deleted afterwards."""
        made = ask("Create")["PhysicalResourceId"]
        answer = ask("Update", made, Rotation="2026-10", request_id="request-2")
        (endpoint,) = endpoints(commet)
        assert endpoint["id"] != made
        assert (answer["PhysicalResourceId"], answer["Data"]["EndpointId"]) == (
            made,
            endpoint["id"],
        )

    def test_a_failure_keeps_what_was(self, ask: Ask, commet: StandIn) -> None:
        made = ask("Create")["PhysicalResourceId"]
        commet.control.fault(match={"path": "/webhooks*"}, action={"code": "forbidden"}, times=9)
        answer = ask("Update", made, Url=f"{URL}v2", request_id="request-2")
        assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", made)
        assert "forbidden" in answer["Reason"]
        commet.control.clear_faults()
        assert [each["url"] for each in endpoints(commet)] == [URL]


class TestDelete:
    def test_also_what_took_its_place(self, ask: Ask, commet: StandIn) -> None:
        made = ask("Create")["PhysicalResourceId"]
        ask("Update", made, Rotation="2026-10", request_id="request-2")
        for _ in range(2):
            assert ask("Delete", made, request_id="request-3")["Status"] == "SUCCESS"
            assert endpoints(commet) == []

    def test_a_key_that_was_revoked(self, ask: Ask, secrets: Secrets) -> None:
        """The stack can go all the same; what is left to do is said."""
        made = ask("Create")["PhysicalResourceId"]
        secrets.manager.put(secrets.key, '{"api_key": "ck_sandbox_revoked"}')
        forget()
        answer = ask("Delete", made, request_id="request-2")
        assert answer["Status"] == "SUCCESS"
        assert "yourself" in answer["Reason"]

    def test_a_secret_that_is_gone(self, ask: Ask, secrets: Secrets) -> None:
        """With Commet's key in it: nothing of a stack may wait for it for ever."""
        made = ask("Create")["PhysicalResourceId"]
        secrets.manager.client.delete_secret(SecretId=secrets.key, ForceDeleteWithoutRecovery=True)
        forget()
        answer = ask("Delete", made, request_id="request-2")
        assert answer["Status"] == "SUCCESS"
        assert "yourself" in answer["Reason"]
        assert secrets.key in answer["Reason"]

    def test_a_secret_that_never_was(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        """A first deployment with a wrong ARN can be taken back."""
        monkeypatch.setenv("COMMET_SECRET_ARN", "arn:of-nothing")
        failed = ask("Create")
        assert failed["Status"] == "FAILED"
        assert "ResourceNotFoundException" in failed["Reason"]
        assert "arn:of-nothing" in failed["Reason"]
        assert ask("Delete", failed["PhysicalResourceId"])["Status"] == "SUCCESS"

    def test_an_address_that_is_not_commets(
        self, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A first deployment with a wrong CommetBaseUrl can be taken back."""
        monkeypatch.setenv("COMMET_BASE_URL", "http://127.0.0.1:9/api/v1")
        failed = ask("Create")
        assert failed["Status"] == "FAILED"
        gone = ask("Delete", failed["PhysicalResourceId"])
        assert gone["Status"] == "SUCCESS"
        assert "Commet may have an endpoint" in gone["Reason"]

    def test_commet_is_silent(self, ask: Ask, commet: StandIn) -> None:
        """Not deleted is not said to be: CloudFormation lets it be tried again."""
        made = ask("Create")["PhysicalResourceId"]
        commet.control.fault(action={"code": "internal_error"}, times=9)
        assert ask("Delete", made, request_id="request-2")["Status"] == "FAILED"

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1/api/v1", "page"])
    def test_what_was_never_registered(
        self, ask: Ask, commet: StandIn, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        """A first deployment with a wrong address of Commet can be deleted."""
        wrong = commet.base_url.replace("/api/v1", "/nowhere") if url == "page" else url
        monkeypatch.setenv("COMMET_BASE_URL", wrong)
        failed = ask("Create")
        assert failed["Status"] == "FAILED"
        gone = ask("Delete", failed["PhysicalResourceId"])
        assert gone["Status"] == "SUCCESS"
        assert "No endpoint was registered" in gone["Reason"]

    def test_a_setting_that_was_never_right(
        self, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The deletion that follows reads the same setting."""
        monkeypatch.setenv("ALLOWED_ORIGINS", "app.example.com")
        failed = ask("Create")
        assert failed["Status"] == "FAILED"
        gone = ask("Delete", failed["PhysicalResourceId"])
        assert gone["Status"] == "SUCCESS"
        assert "ALLOWED_ORIGINS" in gone["Reason"]


class TestByHand:
    def test_register(self, ask: Ask, commet: StandIn) -> None:
        """As the local stack does, and without undoing a rotation."""
        made = ask("Create", Rotation="2026-10")["PhysicalResourceId"]
        assert function.handler({}, Context()) == {"endpoint_id": made}
        assert [each["url"] for each in endpoints(commet)] == [URL]

    @pytest.mark.usefixtures("ask")
    def test_what_goes_wrong_is_raised(self, commet: StandIn) -> None:
        commet.control.fault(action={"code": "forbidden"}, times=9)
        with pytest.raises(CommetRefused):
            function.handler({}, Context())
