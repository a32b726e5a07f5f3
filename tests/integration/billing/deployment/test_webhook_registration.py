"""Registering the webhook: at the stand-in, with the secret in moto's Secrets Manager."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from billing.commet.answers import WebhookEndpoint
from billing.commet.client import API_VERSION, Commet
from billing.credentials.secrets import SecretsManagerStore
from billing.credentials.signatures import is_signed
from billing.credentials.webhook_secrets import Vault
from billing.deadline import Deadline
from billing.deployment.webhook_registration import Registration
from billing.errors import CommetRefused, CommetUnavailable, Unavailable
from billing.subscriptions.from_webhook import HANDLED
from standin.testing import Receiver, StandIn, receiver
from tests.conftest import SecretsManager

Believed = Callable[[str, list[str]], list[str]]

NOW = datetime(2026, 9, 10, 12, tzinfo=UTC)


@pytest.fixture
def secret(secrets_manager: SecretsManager) -> str:
    """The ARN of a webhook secret as the template makes it."""
    return secrets_manager.create('{"secrets": []}')


@pytest.fixture
def vault(secrets_manager: SecretsManager, secret: str) -> Vault:
    return Vault(SecretsManagerStore(secrets_manager.url), secret)


@pytest.fixture(scope="module")
def inbox() -> Iterator[Receiver]:
    with receiver() as box:
        yield box


@pytest.fixture
def believed(remote: StandIn, inbox: Receiver) -> Believed:
    """Has an endpoint send something, and says which of the secrets signed it."""

    def ask(endpoint_id: str, secrets: list[str]) -> list[str]:
        inbox.received.clear()
        httpx.post(
            f"{remote.base_url}/webhooks/{endpoint_id}/test",
            headers={"x-api-key": remote.api_key},
            trust_env=False,
        ).raise_for_status()
        (sent,) = inbox.received
        signature = sent.headers["x-commet-signature"]
        return [secret for secret in secrets if is_signed(sent.body, signature, [secret])]

    return ask


@pytest.fixture
def wanted(
    remote: StandIn, commet: Commet, vault: Vault, inbox: Receiver
) -> Iterator[Registration]:
    """A registration for a URL of this test's own."""
    url = f"{inbox.url}/{uuid4().hex}/"
    yield Registration(commet, vault, url, lambda: NOW, soon())
    remote.control.clear_faults()
    for each in commet.webhooks(soon()):
        commet.delete_webhook(each.id, soon())


def soon() -> Deadline:
    return Deadline.after(20)


def at(wanted: Registration) -> list[WebhookEndpoint]:
    """What sends to the URL."""
    return [each for each in wanted.commet.webhooks(soon()) if each.url == wanted.url]


class Interrupted(BaseException):
    """The process is gone at this point."""


def breaking(vault: Vault, error: BaseException) -> Vault:
    """The same secret, which cannot be written."""

    class Broken(Vault):
        def write(self, _: object) -> None:
            raise error

    return Broken(vault._store, vault._secret_id)


class TestEnsure:
    def test_a_new_one(self, wanted: Registration, believed: Believed) -> None:
        """For exactly what we handle, in the shapes we read, and its secret is kept."""
        endpoint_id = wanted.ensure(request_id="r1")
        (made,) = at(wanted)
        assert made == WebhookEndpoint(
            id=endpoint_id, url=wanted.url, events=list(HANDLED), is_active=True,
            api_version=API_VERSION,
        )  # fmt: skip
        kept = wanted.vault.read()
        assert kept.endpoint_id == endpoint_id
        assert len(kept.valid(NOW)) == len(believed(endpoint_id, kept.valid(NOW))) == 1

    def test_again(
        self, wanted: Registration, secrets_manager: SecretsManager, secret: str
    ) -> None:
        """Nothing changes, neither there nor here."""
        first = wanted.ensure(request_id="r1")
        before = secrets_manager.text(secret)
        assert wanted.ensure(request_id="r1") == wanted.ensure(request_id="r2") == first
        assert (len(at(wanted)), secrets_manager.text(secret)) == (1, before)

    @pytest.mark.parametrize(
        "change",
        [
            {"is_active": False},
            {"events": ["invoice.created"]},
            {"events": ["usage.recorded", *HANDLED]},
            {"url": "https://elsewhere.example/"},
        ],
        ids=["disabled", "an event is missing", "an event too many", "somewhere else"],
    )
    def test_what_was_changed_is_put_right(
        self, wanted: Registration, believed: Believed, change: dict[str, Any]
    ) -> None:
        """The same endpoint with the same secret: nothing that is on its way is lost."""
        endpoint_id = wanted.ensure(request_id="r1")
        wanted.commet.update_webhook(endpoint_id, **change, deadline=soon())
        assert wanted.ensure(request_id="r2") == endpoint_id
        (now,) = at(wanted)
        assert (now.is_active, set(now.events)) == (True, set(HANDLED))
        assert believed(endpoint_id, wanted.vault.read().valid(NOW))

    def test_another_url(self, wanted: Registration) -> None:
        """The endpoint moves, its secret stays."""
        first = wanted.ensure(request_id="r1")
        moved = replace(wanted, url=f"{wanted.url}v2")
        assert moved.ensure(request_id="r2") == first
        assert (at(wanted), [each.id for each in at(moved)]) == ([], [first])

    def test_an_endpoint_whose_secret_nobody_has(
        self,
        wanted: Registration,
        believed: Believed,
        secrets_manager: SecretsManager,
        secret: str,
    ) -> None:
        """It is replaced; what somebody put into the secret by hand is believed for a day."""
        by_hand = wanted.commet.create_webhook(
            url=wanted.url, events=["invoice.created"], description="By hand.",
            idempotency_key=uuid4().hex, deadline=soon(),
        )  # fmt: skip
        old = by_hand.secret_key.get_secret_value()
        secrets_manager.put(secret, json.dumps({"secrets": [old]}))
        endpoint_id = wanted.ensure(request_id="r1")
        assert endpoint_id != by_hand.id
        assert [each.id for each in at(wanted)] == [endpoint_id]
        kept = wanted.vault.read()
        new, *others = kept.valid(NOW)
        assert (believed(endpoint_id, [new]), others) == ([new], [old])
        assert kept.valid(NOW + timedelta(hours=24)) == [new]

    def test_one_that_was_deleted_at_commet(self, wanted: Registration) -> None:
        first = wanted.ensure(request_id="r1")
        wanted.commet.delete_webhook(first, soon())
        second = wanted.ensure(request_id="r2")
        assert second != first
        assert [each.id for each in at(wanted)] == [second]

    def test_a_second_one_at_our_address(self, wanted: Registration) -> None:
        """Would sign with a secret that nobody has, until Commet disables it."""
        ours = wanted.ensure(request_id="r1")
        wanted.commet.create_webhook(
            url=wanted.url, events=["invoice.created"], description="By hand.",
            idempotency_key=uuid4().hex, deadline=soon(),
        )  # fmt: skip
        assert wanted.ensure(request_id="r2") == ours
        assert [each.id for each in at(wanted)] == [ours]

    def test_somebody_elses_are_left_alone(self, wanted: Registration) -> None:
        """The account may have other products."""
        other = wanted.commet.create_webhook(
            url="https://other.example/", events=["invoice.created"], description="Theirs.",
            idempotency_key=uuid4().hex, deadline=soon(),
        )  # fmt: skip
        wanted.ensure(request_id="r1")
        wanted.remove(None)
        assert [each.id for each in wanted.commet.webhooks(soon())] == [other.id]

    def test_rotation(self, remote: StandIn, wanted: Registration, believed: Believed) -> None:
        """Another word makes a new endpoint and secret, once, and no event falls in between."""
        first = wanted.ensure(request_id="r1")
        (old,) = wanted.vault.read().valid(NOW)
        second = wanted.ensure(request_id="r2", rotation="2026-10")
        assert second != first
        assert [each.id for each in at(wanted)] == [second]
        changes = [
            (each["method"], each["path"].rpartition("/")[2])
            for each in remote.control.requests()[-20:]
            if each["method"] in ("POST", "DELETE") and "/webhooks" in each["path"]
        ]
        assert changes[-2:] == [("POST", "webhooks"), ("DELETE", first)]
        new, *others = wanted.vault.read().valid(NOW)
        assert (believed(second, [new, old]), others) == ([new], [old])
        assert wanted.ensure(request_id="r3", rotation="2026-10") == second

    def test_where_one_address_may_have_only_one(
        self, remote: StandIn, wanted: Registration
    ) -> None:
        """Then the old one goes first."""
        first = wanted.ensure(request_id="r1")
        remote.control.fault(
            match={"method": "POST", "path": "/webhooks"},
            action={"code": "duplicate"},
        )
        second = wanted.ensure(request_id="r2", rotation="2026-10")
        assert [each.id for each in at(wanted)] == [second]
        assert second != first


class TestFailures:
    def test_a_secret_that_cannot_be_stored(self, wanted: Registration, vault: Vault) -> None:
        """No endpoint stays that signs with what nobody knows, and the next run does well."""
        with pytest.raises(Unavailable):
            replace(wanted, vault=breaking(vault, Unavailable())).ensure(request_id="r1")
        assert at(wanted) == []
        endpoint_id = wanted.ensure(request_id="r1")
        assert [each.id for each in at(wanted)] == [endpoint_id]

    def test_a_rotation_that_cannot_be_stored(self, wanted: Registration, vault: Vault) -> None:
        """The old endpoint and its secret go on."""
        first = wanted.ensure(request_id="r1")
        broken = replace(wanted, vault=breaking(vault, Unavailable()))
        with pytest.raises(Unavailable):
            broken.ensure(request_id="r2", rotation="2026-10")
        assert [each.id for each in at(wanted)] == [first]
        assert wanted.ensure(request_id="r3") == first

    def test_cut_off_before_the_secret_was_stored(
        self, remote: StandIn, wanted: Registration, vault: Vault, believed: Believed
    ) -> None:
        """The same request again replaces what the first run has left."""
        remote.control.fault(
            match={"method": "DELETE", "path": "/webhooks/*"}, action={"reset": "before"}, times=9
        )
        with pytest.raises(Interrupted):
            replace(wanted, vault=breaking(vault, Interrupted())).ensure(request_id="r1")
        remote.control.clear_faults()
        (orphan,) = at(wanted)
        endpoint_id = wanted.ensure(request_id="r1")
        assert endpoint_id != orphan.id
        assert [each.id for each in at(wanted)] == [endpoint_id]
        assert believed(endpoint_id, wanted.vault.read().valid(NOW))

    def test_the_same_request_twice_at_once(
        self, wanted: Registration, client: Callable[[], Commet], believed: Believed
    ) -> None:
        """One endpoint, and the secret of that one; whichever id is kept, it takes that one away.

        A run may have made an endpoint that the other replaced before it answered.
        """
        both = [replace(wanted, commet=client()) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            ids = list(pool.map(lambda each: each.ensure(request_id="r1"), both))
        (made,) = at(wanted)
        assert made.id in ids
        assert believed(made.id, wanted.vault.read().valid(NOW))
        wanted.remove(next((each for each in ids if each != made.id), made.id))
        assert at(wanted) == []

    @pytest.mark.parametrize(
        ("action", "error"),
        [
            ({"code": "forbidden"}, CommetRefused),
            ({"code": "internal_error"}, CommetUnavailable),
        ],
    )
    def test_commet_says_no(
        self, remote: StandIn, wanted: Registration, action: dict[str, Any], error: type[Exception]
    ) -> None:
        """Nothing is stored that is not there."""
        remote.control.fault(match={"path": "/webhooks"}, action=action, times=9)
        with pytest.raises(error):
            wanted.ensure(request_id="r1")
        assert wanted.vault.read().endpoint_id is None

    def test_a_secret_that_is_no_json(
        self, wanted: Registration, secrets_manager: SecretsManager, secret: str
    ) -> None:
        """The deployer is told; no endpoint is made."""
        secrets_manager.put(secret, "whsec_plain")
        with pytest.raises(Unavailable, match="JSON"):
            wanted.ensure(request_id="r1")
        assert at(wanted) == []


class TestRemove:
    def test_once_and_again(self, wanted: Registration) -> None:
        endpoint_id = wanted.ensure(request_id="r1")
        wanted.remove(endpoint_id)
        assert at(wanted) == []
        wanted.remove(endpoint_id)

    def test_the_one_that_took_its_place(self, wanted: Registration) -> None:
        """CloudFormation knows the endpoint by its first id."""
        first = wanted.ensure(request_id="r1")
        wanted.ensure(request_id="r2", rotation="2026-10")
        wanted.remove(first)
        assert at(wanted) == []

    def test_what_a_failure_left(self, remote: StandIn, wanted: Registration, vault: Vault) -> None:
        remote.control.fault(
            match={"method": "DELETE", "path": "/webhooks/*"}, action={"reset": "before"}, times=9
        )
        with pytest.raises(Unavailable):
            replace(wanted, vault=breaking(vault, Unavailable())).ensure(request_id="r1")
        remote.control.clear_faults()
        assert len(at(wanted)) == 1
        wanted.remove(None)
        assert at(wanted) == []

    def test_a_secret_that_is_gone(
        self, wanted: Registration, secrets_manager: SecretsManager, secret: str
    ) -> None:
        """Must not keep a stack from being deleted."""
        endpoint_id = wanted.ensure(request_id="r1")
        secrets_manager.client.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)
        wanted.remove(endpoint_id)
        assert at(wanted) == []
