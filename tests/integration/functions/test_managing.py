"""What a user may do with a subscription, by session or by the product's key."""

from collections.abc import Callable
from typing import Any

import pytest

from billing import wiring
from billing.credentials.secrets import Secrets
from standin.testing import Receiver, StandIn
from tests.integration.functions.calling import Answer, Store, call, service_key
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    environment,
    signed_up,
)
from tests.integration.functions.test_debts import (
    Person as Payer,
)
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    _shop,
    box,
    remote,
)

pytestmark = pytest.mark.handlers

MANAGER = "svc_manager_" + "b" * 64
READER = "svc_reader_" + "c" * 64

Ask = Callable[..., Answer]

ROUTES = [
    ("POST", "/checkout", {"plan_code": "usage_max"}),
    ("POST", "/portal", {}),
    ("POST", "/subscription/cancel", {}),
    ("POST", "/subscription/keep", {}),
    ("POST", "/recovery", {}),
    ("GET", "/invoices", None),
    ("GET", "/invoices/inv_1", None),
]


class Person(Payer):
    """Somebody who pays for `usage_pro`."""

    @property
    def token(self) -> str:
        return str(self._token)


@pytest.fixture(autouse=True)
def _keys(
    _shop: None,  # noqa: F811
    remote: StandIn,  # noqa: F811
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [
        service_key("manager", MANAGER, "billing:manage", "usage:write", "users:manage"),
        service_key("reader", READER, "read"),
    ]
    store = Store(database_url, keys)
    store._values["commet"] = {"api_key": remote.api_key}
    secrets = Secrets(store)
    monkeypatch.setattr(wiring, "secrets", lambda: secrets)


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:  # noqa: F811
    return Person(remote, box)


@pytest.fixture(params=["session", "key"])
def ask(request: pytest.FixtureRequest, person: Person) -> Ask:
    """Sends a request about the person, by their session or by the product's key."""
    by_key = request.param == "key"

    def send(method: str, path: str, **fields: Any) -> Answer:
        token = MANAGER if by_key else person.token
        if method == "GET":
            query = f"?user_id={person.id}" if by_key else ""
            return call("GET", path + query, token=token)
        return call(method, path, fields | ({"user_id": person.id} if by_key else {}), token=token)

    return send


class TestWho:
    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_a_session_acts_for_its_own_user(
        self, person: Person, method: str, path: str, body: dict[str, Any] | None
    ) -> None:
        other = signed_up().json["session"]["token"]
        named = path + (f"?user_id={person.id}" if body is None else "")
        fields = None if body is None else body | {"user_id": person.id}
        refused = call(method, named, fields, token=other)
        assert (refused.status, refused.code) == (403, "forbidden")

    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_a_key_names_the_user(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> None:
        refused = call(method, path, body, token=MANAGER)
        assert (refused.status, refused.json["errors"][0]["field"]) == (422, "user_id")
        query = "?user_id=nobody" if body is None else ""
        fields = None if body is None else body | {"user_id": "nobody"}
        unknown = call(method, path + query, fields, token=MANAGER)
        assert (unknown.status, unknown.code) == (404, "unknown_user")

    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_a_key_without_the_scope(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> None:
        refused = call(method, path, body, token=READER)
        assert (refused.status, refused.code) == (403, "missing_scope")

    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_a_user_who_never_bought(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> None:
        """Nobody is asked at Commet who is not known there."""
        token = signed_up().json["session"]["token"]
        answer = call(method, path, body, token=token)
        expected = {
            "/checkout": (201, None),
            "/invoices": (200, None),
            "/invoices/inv_1": (404, "invoice_not_found"),
        }.get(path, (409, "no_billing_account"))
        assert (answer.status, answer.json.get("code")) == expected


class TestByKey:
    def test_a_product_sells_to_its_user(self, remote: StandIn) -> None:  # noqa: F811
        """Registered, checked out, paid and let in, without a session."""
        put = call("PUT", "/users/customer-17", {"email": "c17@example.com"}, token=MANAGER)
        assert put.status == 201
        body = {"user_id": "customer-17", "plan_code": "usage_pro"}
        started = call("POST", "/checkout", body, token=MANAGER)
        assert started.status == 201
        remote.control.pay(started.json["subscription"]["id"])
        remote.control.settle()
        used = {
            "user_id": "customer-17", "feature": "storage", "quantity": 1, "idempotency_key": "k"
        }  # fmt: skip
        assert call("POST", "/usage", used, token=MANAGER).status == 202


class TestCancel:
    def test_at_the_end_of_the_period_and_back(self, ask: Ask, remote: StandIn) -> None:  # noqa: F811
        canceled = ask("POST", "/subscription/cancel")
        assert canceled.status == 200
        state = canceled.json["subscription"]
        assert (state["status"], state["cancel_at_period_end"]) == ("active", True)
        assert state["ends_at"] is not None
        assert ask("POST", "/subscription/cancel").json == canceled.json
        kept = ask("POST", "/subscription/keep")
        assert kept.json["subscription"] | {"id": 0} == {
            "id": 0, "status": "active", "cancel_at_period_end": False, "ends_at": None
        }  # fmt: skip
        assert ask("POST", "/subscription/keep").json == kept.json
        assert remote.control.state()["subscriptions"][0]["status"] == "active"

    def test_now(self, ask: Ask, person: Person) -> None:
        """What was used is delivered first, so that Commet bills it."""
        used = {
            "user_id": person.id, "feature": "storage", "quantity": 130, "idempotency_key": "k"
        }  # fmt: skip
        assert call("POST", "/usage", used, token=MANAGER).status == 202
        canceled = ask("POST", "/subscription/cancel", immediate=True)
        assert (canceled.status, canceled.json["subscription"]["status"]) == (200, "canceled")
        assert call("POST", "/usage", used | {"idempotency_key": "k2"}, token=MANAGER).status == 402
        [latest, *_] = ask("GET", "/invoices").json["invoices"]
        lines = ask("GET", f"/invoices/{latest['id']}").json["lines"]
        assert [(line["used"], line["overage"], line["amount"]) for line in lines] == [
            ("130", "30", "3.00")
        ]
        again = ask("POST", "/subscription/cancel", immediate=True)
        assert again.json == canceled.json

    def test_now_while_usage_cannot_be_delivered(
        self,
        ask: Ask,
        person: Person,
        remote: StandIn,  # noqa: F811
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        used = {
            "user_id": person.id, "feature": "storage", "quantity": 130, "idempotency_key": "k"
        }  # fmt: skip
        assert call("POST", "/usage", used, token=MANAGER).status == 202
        remote.control.fault(match={"path": "/usage/events"}, action={"status": 500}, times=None)
        capsys.readouterr()
        refused = ask("POST", "/subscription/cancel", immediate=True)
        assert (refused.status, refused.code) == (503, "usage_pending")
        assert refused.headers["retry-after"] == "5"
        # Nobody is called, and no new version is taken back: deliveries have alarms of their own.
        written = capsys.readouterr().out
        assert "ServerErrors" not in written
        assert "NewBuildErrors" not in written
        assert remote.control.state()["subscriptions"][0]["status"] == "active"

    def test_commet_does_not_answer(self, ask: Ask, remote: StandIn) -> None:  # noqa: F811
        """The cancellation may have happened: asked again, it has."""
        remote.control.fault(match={"path": "*/cancel"}, action={"reset": "after"}, times=None)
        assert ask("POST", "/subscription/cancel").status == 503
        remote.control.clear_faults()
        assert ask("POST", "/subscription/cancel").json["subscription"]["cancel_at_period_end"]

    def test_thirty_requests_an_hour(self, person: Person) -> None:
        token = person.token
        statuses = [call("POST", "/subscription/keep", {}, token=token).status for _ in range(31)]
        assert statuses == [200] * 30 + [429]


class TestRecovery:
    def test_of_a_payment_that_is_overdue(
        self,
        ask: Ask,
        person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        nothing = ask("POST", "/recovery")
        assert (nothing.status, nothing.code) == (409, "nothing_to_recover")
        remote.control.set_card(person.id, charge_failure="card_declined")
        remote.control.advance(days=32)
        person.sign_in()
        person.hear()
        found = ask("POST", "/recovery")
        assert found.status == 201
        assert found.json["recovery_url"].startswith(remote.public_url)


class TestInvoices:
    def test_are_listed_and_shown(self, ask: Ask, remote: StandIn) -> None:  # noqa: F811
        """29.00 and 19 % tax."""
        page = ask("GET", "/invoices").json
        [invoice] = page["invoices"]
        assert page["next_cursor"] is None
        assert (invoice["subtotal"], invoice["tax"], invoice["total"], invoice["currency"]) == (
            "29.00", "5.51", "34.51", "usd"
        )  # fmt: skip
        shown = ask("GET", f"/invoices/{invoice['id']}").json
        assert shown["lines"][0]["amount"] == "29.00"
        assert shown["pdf_url"].startswith(remote.public_url)
        assert {k: v for k, v in shown.items() if k in invoice} == invoice

    def test_of_another_user(self, ask: Ask, remote: StandIn) -> None:  # noqa: F811
        """Is as unknown as one that does not exist, and no link to it is made."""
        other = signed_up().json
        body = {"plan_code": "usage_pro"}
        started = call("POST", "/checkout", body, token=other["session"]["token"])
        remote.control.pay(started.json["subscription"]["id"])
        theirs = call("GET", "/invoices", token=other["session"]["token"]).json["invoices"][0]["id"]
        for invoice in (theirs, "inv_nonsense"):
            refused = ask("GET", f"/invoices/{invoice}")
            assert (refused.status, refused.code) == (404, "invoice_not_found")
        assert remote.control.requests(path="/download-links") == []
