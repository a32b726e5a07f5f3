"""Payment trouble, from Commet's page through the webhook handler to the dashboard."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from billing import wiring
from billing.commet.client import Commet
from billing.credentials.secrets import Secrets
from billing.deadline import Deadline
from billing.subscriptions.from_webhook import HANDLED
from functions.reconcile import app as reconcile
from functions.webhook import app as webhook
from standin.testing import Receiver, StandIn, receiver, standin
from tests.integration.conftest import Context
from tests.integration.functions.calling import (
    WEBHOOK_SECRET,
    Answer,
    Store,
    ask,
    call,
    event,
    service_key,
)
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    KEY,
    Environment,
    environment,
    signed_up,
)

pytestmark = pytest.mark.handlers


@pytest.fixture
def remote() -> Iterator[StandIn]:
    """A stand-in of the test's own, whose clock the test moves."""
    with standin() as running:
        yield running


@pytest.fixture
def box() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture(autouse=True)
def _shop(
    environment: Environment,  # noqa: F811
    remote: StandIn,
    box: Receiver,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An environment that speaks to the stand-in, which sends the types we register for."""
    environment(COMMET_BASE_URL=remote.base_url, COMMET_CALLS_PER_SECOND="1000")
    store = Store(database_url, [service_key("app", KEY, "read")])
    store._values["commet"] = {"api_key": remote.api_key}
    secrets = Secrets(store)
    monkeypatch.setattr(wiring, "secrets", lambda: secrets)
    monkeypatch.setattr(wiring, "clock", lambda: remote.now)
    monkeypatch.setattr(reconcile.metrics.provider, "namespace", "test")
    commet().create_webhook(
        url=box.url,
        events=HANDLED,
        description="test",
        idempotency_key="test",
        deadline=Deadline.after(20),
    )


def commet() -> Commet:
    return wiring.commet()


@cache
def contract() -> dict[str, Any]:
    text = files("commet").joinpath("docs/webhooks.openapi.json").read_text()
    document: dict[str, Any] = json.loads(text)
    return document


def check(body: dict[str, Any]) -> None:
    """Holds that a webhook is as Commet's contract has it."""
    operation = contract()["webhooks"][body["event"]]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    Draft202012Validator(schema | {"components": contract()["components"]}).validate(body)


class Person:
    """Somebody who pays for `usage_pro`, and whom Commet's webhooks reach when the test says so."""

    def __init__(self, remote: StandIn, box: Receiver) -> None:
        self._remote, self._box, self._taken = remote, box, 0
        up = signed_up().json
        self.id = str(up["user"]["id"])
        self._token = up["session"]["token"]
        started = self.checkout()
        assert started.status == 201
        self.subscription = started.json["subscription"]["id"]
        remote.control.pay(self.subscription)
        self.hear()
        assert self.dashboard()["access"] is True
        (paid,) = self.transactions()
        self.transaction, self.invoice = paid["id"], paid["invoice_id"]

    def hear(self) -> list[str]:
        """Hands the webhooks that Commet has sent since then to the handler; their types."""
        self._remote.control.settle()
        sent = self._box.received[self._taken :]
        self._taken += len(sent)
        assert sent
        for each in sent:
            check(each.json)
            digest = hmac.new(WEBHOOK_SECRET.encode(), each.body, hashlib.sha256).hexdigest()
            text = base64.b64encode(each.body).decode()
            request = event("POST", "/", text, {"x-commet-signature": digest}, [])
            request["isBase64Encoded"] = True
            answer = ask(webhook, request)
            # The invoice of a payment link belongs to no subscription.
            on_its_own = each.json["event"] == "invoice.created"
            allowed = {"applied", "ignored"} if on_its_own else {"applied"}
            assert answer.status == 200
            assert answer.json["outcome"] in allowed, each.json
        return [each.json["event"] for each in sent]

    def checkout(self, plan: str = "usage_pro") -> Answer:
        return call("POST", "/checkout", {"plan_code": plan}, token=self._token)

    def dashboard(self) -> dict[str, Any]:
        """As the product sees it: a session ends within the months of a test."""
        answer = call("GET", f"/users/{self.id}/dashboard", token=KEY)
        assert answer.status == 200
        seen: dict[str, Any] = answer.json
        return seen

    def transactions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._remote.control.state()["transactions"]
        return found

    def shown(self) -> list[tuple[str, str | None]]:
        """Kind and outcome of all that an operator is shown about the person's payments."""
        answer = reconcile.handler({"command": "show", "user": self.id}, Context(20))
        return [(row["kind"], row["outcome"]) for row in answer["payments"]]


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:
    return Person(remote, box)


def ran_about_disputes() -> tuple[int, int]:
    """How many disputes a run asked about, and how many of them had ended."""
    summary = reconcile.handler({}, Context(20))
    return summary["disputes_asked"], summary["disputes_ended"]


class TestADispute:
    @pytest.mark.parametrize("outcome", ["won", "lost"])
    def test_bars_new_checkouts_until_it_has_ended(
        self, person: Person, remote: StandIn, outcome: Any
    ) -> None:
        """Nothing is asked of Commet meanwhile. The dashboard says why."""
        remote.control.dispute(person.transaction)
        assert person.hear() == ["payment.disputed"]
        seen = person.dashboard()["payment"]
        assert seen | {"since": None} == {
            "kind": "dispute", "since": None, "amount": "29.00", "currency": "usd",
            "recovery_url": None,
        }  # fmt: skip
        before = len(remote.control.requests())
        refused = person.checkout("usage_max")
        assert (refused.status, refused.code) == (409, "dispute_open")
        assert len(remote.control.requests()) == before

        remote.control.resolve_dispute(person.transaction, outcome=outcome)
        assert person.hear() == ["payment.dispute_resolved"]
        assert person.dashboard()["payment"] is None
        assert person.checkout("usage_max").json["change"]["state"] == "preview"
        assert person.shown() == [("dispute", outcome)]

    def test_whose_end_no_webhook_told(self, person: Person, remote: StandIn) -> None:
        """Commet is asked after a day, once a day; what Commet says ends it."""
        remote.control.dispute(person.transaction)
        person.hear()
        remote.control.fault(webhooks={"drop": True}, times=None)
        assert ran_about_disputes() == (0, 0)

        remote.control.advance(days=1, seconds=60)
        assert ran_about_disputes() == (1, 0)
        assert ran_about_disputes() == (0, 0)
        assert person.dashboard()["payment"] is not None

        remote.control.resolve_dispute(person.transaction, outcome="won")
        remote.control.advance(days=1, seconds=60)
        assert ran_about_disputes() == (1, 1)
        assert person.dashboard()["payment"] is None
        assert person.checkout().code == "already_subscribed"
        assert person.shown() == [("dispute", "won")]

    @pytest.mark.parametrize("status", [404, 503])
    def test_about_which_commet_says_nothing(
        self, person: Person, remote: StandIn, status: int
    ) -> None:
        """It goes on. An outage is asked about again in the next run, a refusal in a day."""
        remote.control.dispute(person.transaction)
        person.hear()
        remote.control.advance(days=1, seconds=60)
        path = f"/transactions/{person.transaction}"
        answer = {"status": status, "code": "transaction_not_found" if status == 404 else "x"}
        remote.control.fault(match={"path": path}, action=answer, times=None)
        runs = [reconcile.handler({}, Context(20)) for _ in range(2)]
        assert [r["disputes_asked"] for r in runs] == [0, 0]
        remote.control.clear_faults()
        again = reconcile.handler({}, Context(20))
        assert again["disputes_asked"] == (0 if status == 404 else 1)
        assert person.dashboard()["payment"]["kind"] == "dispute"

    def test_ended_by_an_operator(self, person: Person, remote: StandIn) -> None:
        """Once; as won or as lost, and as nothing else."""
        remote.control.dispute(person.transaction)
        person.hear()
        command = {
            "command": "resolve_dispute", "user": person.id, "transaction": person.transaction,
            "outcome": "lost",
        }  # fmt: skip
        for wrong in ({"outcome": "fine"}, {"outcome": None}, {"user": ""}, {"transaction": ""}):
            with pytest.raises(Exception, match="`outcome`: won or lost"):
                reconcile.handler(command | wrong, Context(20))
        assert reconcile.handler(command, Context(20)) == {"resolved": True}
        assert reconcile.handler(command, Context(20)) == {"resolved": False}
        assert person.shown() == [("dispute", "lost")]
        assert person.dashboard()["payment"] is None


class TestAFailedRenewal:
    def test_until_it_is_paid(self, person: Person, remote: StandIn) -> None:
        """The dashboard has the page to pay on, and then has it no more."""
        remote.control.set_card(person.id, charge_failure="card_declined")
        remote.control.advance(days=31)
        assert "payment.failed" in person.hear()
        seen = person.dashboard()
        assert seen["subscription"]["status"] == "past_due"
        payment = seen["payment"]
        assert payment["kind"] == "failed_payment"
        assert payment["recovery_url"].startswith(remote.public_url)
        remote.control.set_card(person.id, charge_failure=None)
        remote.control.advance(days=2)
        assert "payment.recovered" in person.hear()
        assert person.dashboard()["payment"] is None
        assert ("failed_payment", "recovered") in person.shown()

    def test_that_is_given_up(self, person: Person, remote: StandIn) -> None:
        """When dunning is over, nobody is sent to a page that does not work any more."""
        remote.control.set_card(person.id, charge_failure="card_declined")
        remote.control.advance(days=45)
        told = person.hear()
        assert {"payment.failed", "invoice.overdue", "payment.retry_failed"} <= set(told)
        assert person.dashboard()["payment"] is None
        assert ("failed_payment", "given_up") in person.shown()

    def test_whose_webhooks_were_lost(self, person: Person, remote: StandIn) -> None:
        """`payment.failed` alone does not say past due, but has Commet asked."""
        remote.control.set_card(person.id, charge_failure="card_declined")
        remote.control.fault(match={"event": "subscription.*"}, webhooks={"drop": True}, times=None)
        remote.control.fault(match={"event": "customer.*"}, webhooks={"drop": True}, times=None)
        remote.control.advance(days=31)
        assert "payment.failed" in person.hear()
        reconcile.handler({}, Context(20))
        assert person.dashboard()["payment"]["kind"] == "failed_payment"


class TestTheRest:
    def test_a_refund(self, person: Person, remote: StandIn) -> None:
        """It is kept with its amount; access and checkout go on."""
        remote.control.refund(person.transaction)
        assert person.hear() == ["payment.refunded"]
        seen = person.dashboard()
        assert (seen["payment"], seen["access"]) == (None, True)
        answer = reconcile.handler({"command": "show", "user": person.id}, Context(20))
        (row,) = answer["payments"]
        assert (row["kind"], row["amount"], row["currency"]) == ("refund", "29.00", "usd")

    def test_a_voided_invoice(self, person: Person, remote: StandIn) -> None:
        remote.control.set_card(person.id, charge_failure="card_declined")
        remote.control.advance(days=31)
        person.hear()
        invoices = remote.control.state()["invoices"]
        (unpaid,) = (each["id"] for each in invoices if each["status"] == "outstanding")
        remote.control.void(unpaid)
        assert "invoice.voided" in person.hear()
        assert ("unpaid_invoice", "voided") in person.shown()
        assert person.dashboard()["payment"] is None

    def test_a_payment_link(self, person: Person, remote: StandIn) -> None:
        """Created, declined, paid: one row, which asks nothing of the user."""
        answer = commet()._http.post(
            "/payments",
            json={
                "amount": 5000, "currency": "usd", "description": "Onboarding",
                "customerId": person.id,
            },
            headers={"x-api-key": remote.api_key},
        )  # fmt: skip
        link = answer.json()["id"]
        with pytest.raises(Exception, match="402"):
            remote.control.pay_link(link, card_number="4000000000000002")
        assert set(person.hear()) == {"payment_link.created", "payment_link.failed"}
        assert person.shown() == [("payment_link", None)]
        remote.control.pay_link(link)
        assert "payment_link.completed" in person.hear()
        assert person.shown() == [("payment_link", "completed")]
        assert person.dashboard()["payment"] is None
