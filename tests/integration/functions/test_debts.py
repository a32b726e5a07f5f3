"""Debts through the front door: used, left unpaid, refused at the checkout, paid, let in again."""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest

from billing import wiring
from billing.amounts import decimals
from billing.commet.client import Commet
from billing.credentials.secrets import Secrets
from billing.deadline import Deadline
from billing.debts.refusing import Debtors
from billing.errors import Conflict, DebtOpen, InvalidRequest
from billing.subscriptions.from_webhook import HANDLED
from functions.deliver_usage import app as deliver_usage
from functions.reconcile import app as reconcile
from functions.track_usage import app as track_usage
from functions.webhook import app as webhook
from standin.testing import Receiver, StandIn, receiver, standin
from tests.integration.billing.conftest import own_database
from tests.integration.conftest import Context
from tests.integration.functions.calling import (
    ORIGIN,
    WEBHOOK_SECRET,
    Answer,
    Store,
    ask,
    call,
    event,
    service_key,
)
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    PASSWORD,
    Environment,
    environment,
    signed_up,
)

pytestmark = pytest.mark.handlers

KEY = "svc_" + "k" * 40


@pytest.fixture
def remote() -> Iterator[StandIn]:
    """A stand-in of the test's own, whose clock the test moves. It adds tax."""
    with standin(tax_percent=Decimal(19)) as running:
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
    """An environment that speaks to the stand-in, in which nothing but debts stops a user."""
    environment(
        COMMET_BASE_URL=remote.base_url,
        COMMET_CALLS_PER_SECOND="1000",
        DEBT_FLOOR="usd=5",
        OVERAGE_CEILING="usd=none",
    )
    scopes = ("usage:write", "users:manage", "usage:correct", "read")
    store = Store(database_url, [service_key("app", KEY, *scopes)])
    store._values["commet"] = {"api_key": remote.api_key}
    secrets = Secrets(store)
    monkeypatch.setattr(wiring, "secrets", lambda: secrets)
    monkeypatch.setattr(wiring, "clock", lambda: remote.now)
    for app in (reconcile, deliver_usage, track_usage, webhook):
        monkeypatch.setattr(app.metrics.provider, "namespace", "test")
    wiring.commet().create_webhook(
        url=box.url,
        events=HANDLED,
        description="test",
        idempotency_key="test",
        deadline=Deadline.after(20),
    )


class Person:
    """Somebody who pays for `usage_pro`, and whom Commet's webhooks reach when the test says so."""

    def __init__(self, remote: StandIn, box: Receiver) -> None:
        self._remote, self._box, self._taken = remote, box, 0
        up = signed_up().json
        self.id = str(up["user"]["id"])
        self._email = up["user"]["email"]
        self._token = up["session"]["token"]
        self.run()
        started = self.checkout()
        assert started.status == 201
        self.subscription = started.json["subscription"]["id"]
        self.pay()
        self.hear()

    def pay(self) -> None:
        self._remote.control.pay(self.subscription)

    def hear(self) -> list[str]:
        """Hands what Commet has sent since then to the webhook handler; the types."""
        self._remote.control.settle()
        sent = self._box.received[self._taken :]
        self._taken += len(sent)
        for each in sent:
            digest = hmac.new(WEBHOOK_SECRET.encode(), each.body, hashlib.sha256).hexdigest()
            text = base64.b64encode(each.body).decode()
            request = event("POST", "/", text, {"x-commet-signature": digest}, [])
            request["isBase64Encoded"] = True
            answer = ask(webhook, request)
            assert (answer.status, answer.json["outcome"]) in {(200, "applied"), (200, "ignored")}
        return [each.json["event"] for each in sent]

    def lose(self) -> None:
        """These webhooks never arrive."""
        self._remote.control.settle()
        self._taken = len(self._box.received)

    def checkout(self, plan: str = "usage_pro") -> Answer:
        return call("POST", "/checkout", {"plan_code": plan}, token=self._token)

    def sign_in(self) -> None:
        """A session ends within the months of a test."""
        body = {"email": self._email, "password": PASSWORD}
        self._token = call("POST", "/login", body).json["session"]["token"]

    def use(self, quantity: int, key: str = "k1") -> Answer:
        body = {
            "user_id": self.id, "feature": "storage", "quantity": quantity, "idempotency_key": key
        }  # fmt: skip
        return call("POST", "/usage", body, token=KEY)

    def cancel(self) -> None:
        """Now, at Commet."""
        httpx.post(
            f"{self._remote.base_url}/subscriptions/{self.subscription}/cancel",
            headers={"x-api-key": self._remote.api_key}, json={"immediate": True},
        ).raise_for_status()  # fmt: skip
        self._remote.control.advance(seconds=1)

    def deliver(self) -> None:
        """Runs of deliver_usage, with what waits for its interval due."""
        for _ in range(2):
            wiring.database().execute(
                "update usage_total set claimed_at = claimed_at - interval '1 hour'"
            )
            deliver_usage.handler({}, Context(55))

    def run(self, **command: Any) -> dict[str, Any]:
        return reconcile.handler(command, Context(55))

    def link(self) -> str:
        return str(
            wiring.database().value("select payment_id from debt_link where state = 'offered'")
        )

    def debts(self) -> list[tuple[Any, ...]]:
        rows = wiring.database().all("select kind, amount, ended_by from debt order by id")
        return [(row["kind"], row["amount"], row["ended_by"]) for row in rows]

    def lost(self) -> None:
        """Uses a million, and cancels before any of it was delivered."""
        assert self.use(1_000_000).json["accepted"] == 1
        self.cancel()
        self.hear()
        self.deliver()


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:
    return Person(remote, box)


class TestLostUsage:
    @pytest.mark.parametrize("plan", ["usage_pro", "free"])
    def test_a_million_and_a_cancellation(self, person: Person, remote: StandIn, plan: str) -> None:
        """999,900 beyond what is included are refused until they are paid, tax on top."""
        person.lost()
        assert person.debts() == [("lost_usage", 99_990, None)]
        refused = person.checkout(plan)
        assert (refused.status, refused.code) == (402, "debt_open")
        assert (refused.json["amount"], refused.json["currency"]) == ("118988.10", "usd")
        assert refused.json["pay_url"].startswith(remote.public_url)
        remote.control.pay_link(person.link())
        assert "payment_link.completed" in person.hear()
        assert person.debts() == [("lost_usage", 99_990, "paid")]
        requests = len(remote.control.requests(path="/payments"))
        assert person.checkout(plan).status == 201
        assert len(remote.control.requests(path="/payments")) == requests  # nothing left to ask

    def test_a_payment_that_no_webhook_told(self, person: Person, remote: StandIn) -> None:
        """Nobody who has paid is told to pay: Commet is asked before the refusal."""
        person.lost()
        assert person.checkout().status == 402
        remote.control.pay_link(person.link())
        person.lose()
        assert person.checkout().status == 201
        assert person.debts() == [("lost_usage", 99_990, "paid")]

    def test_a_payment_under_way(self, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        """Is neither paid nor to be paid again."""
        person.lost()
        assert person.checkout().status == 402
        told = wiring.commet().payment(person.link(), Deadline.after(20))
        under_way = told.model_copy(update={"status": "processing"})
        monkeypatch.setattr(Commet, "payment", lambda *_: under_way)
        answer = person.checkout()
        assert (answer.status, answer.code) == (409, "debt_payment_processing")
        assert answer.headers["retry-after"] == "30"

    def test_environments_at_once_share_one_link(
        self, person: Person, remote: StandIn, database_url: str
    ) -> None:
        """Each with a connection of its own: one asks Commet, the others wait for the next time."""
        person.lost()

        def check(_: int) -> str | None:
            with own_database(database_url) as db:
                debtors = Debtors(db, wiring.commet(), wiring.clock(), ORIGIN)
                try:
                    debtors.check(person.id, Deadline.after(20))
                except DebtOpen as refusal:
                    return refusal.pay_url
                except Conflict as conflict:
                    return conflict.code
            return None

        with ThreadPoolExecutor(6) as pool:
            urls = set(pool.map(check, range(6))) - {"checkout_in_progress"}
        assert urls == {person.checkout().json["pay_url"]}
        assert len(remote.control.requests(method="POST", path="/payments")) == 1

    def test_resolved(self, person: Person) -> None:
        """An operator accepts the loss: the debt has no reason left."""
        person.lost()
        delivery = wiring.database().value("select event_id from usage_delivery")
        done = person.run(command="resolve", user=person.id, id=delivery, note="goodwill")
        assert done["resolved"] in (1, True)
        assert person.debts() == [("lost_usage", 0, "withdrawn")]
        assert person.checkout().status == 201

    def correct(self, person: Person, by: int) -> None:
        body = {
            "user_id": person.id,
            "feature": "storage",
            "quantity": str(by),
            "idempotency_key": "c1",
            "corrects": "k1",
            "reason": "a loop",
        }
        assert call("POST", "/usage/corrections", body, token=KEY).status == 202
        person.deliver()

    def test_lowered_by_a_correction(self, person: Person) -> None:
        """The debt follows what was really used, and so does the link."""
        person.lost()
        assert person.checkout().json["amount"] == "118988.10"
        first = person.link()
        self.correct(person, -999_800)
        refused = person.checkout()
        assert (refused.status, refused.json["amount"]) == (402, "11.90")
        assert person.link() != first
        person.run()
        assert wiring.commet().payment(first, Deadline.after(20)).status == "canceled"

    def test_nothing_was_used_after_all(self, person: Person) -> None:
        """A correction of everything leaves no debt."""
        person.lost()
        self.correct(person, -1_000_000)
        assert person.debts() == [("lost_usage", 0, "withdrawn")]
        assert person.checkout().status == 201


class TestInvoices:
    @pytest.fixture
    def overdue(self, person: Person, remote: StandIn) -> Person:
        """200 used, the renewal declined."""
        person.use(200)
        person.deliver()
        remote.control.set_card(person.id, charge_failure="card_declined")
        remote.control.advance(days=31)
        person.hear()
        person.sign_in()
        return person

    def test_canceled_while_past_due(self, overdue: Person, remote: StandIn) -> None:
        """The overage with its tax is owed, not the base price: also before reconcile has run."""
        overdue.cancel()
        assert "invoice.voided" in overdue.hear()
        refused = overdue.checkout("free")
        assert (refused.status, refused.code, refused.json["amount"]) == (402, "debt_open", "11.90")
        assert overdue.debts() == [("voided_invoice", Decimal("11.90"), None)]
        remote.control.pay_link(overdue.link())
        overdue.hear()
        assert overdue.checkout("free").status == 201

    def test_without_a_webhook(self, overdue: Person, remote: StandIn) -> None:
        """Days of declined retries end in an uncollectible invoice, of which no webhook tells."""
        remote.control.advance(days=8)
        assert "invoice.voided" not in overdue.hear()
        overdue.run()
        overdue.sign_in()
        assert overdue.debts() == [("voided_invoice", Decimal("11.90"), None)]
        assert overdue.checkout("free").status == 402

    def test_while_commet_cannot_say_the_amount(self, overdue: Person, remote: StandIn) -> None:
        """As long as an amount is not known nothing is blocked."""
        overdue.cancel()
        overdue.hear()
        remote.control.fault(
            match={"method": "GET", "path": "/invoices*"}, action={"status": 503}, times=None
        )
        assert overdue.checkout("free").status == 201
        assert overdue.debts() == [("voided_invoice", None, None)]

    def test_collected_in_another_way(
        self, overdue: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By Commet, of which a lost webhook did not tell: asked before the refusal."""
        overdue.cancel()
        overdue.hear()
        assert overdue.checkout("free").status == 402
        invoice = wiring.database().value("select source from debt")
        told = wiring.commet().invoice(invoice, Deadline.after(20))
        paid = told.model_copy(update={"status": "paid"})
        monkeypatch.setattr(Commet, "invoice", lambda *_: paid)
        link = overdue.link()
        assert overdue.checkout("free").status == 201
        assert overdue.debts()[0][2] == "collected"
        overdue.run()
        assert wiring.commet().payment(link, Deadline.after(20)).status == "canceled"

    def test_a_declined_change_of_plans(self, person: Person, remote: StandIn) -> None:
        """The usage on its void invoice is billed by the next one, so it is no debt."""
        person.use(200)
        person.deliver()
        remote.control.set_card(person.id, charge_failure="card_declined")
        plans = {plan.code: plan.id for plan in wiring.commet().plans(Deadline.after(20))}
        answer = httpx.post(
            f"{remote.base_url}/subscriptions/{person.subscription}/change-plan",
            headers={"x-api-key": remote.api_key}, json={"newPlanId": plans["usage_max"]},
        )  # fmt: skip
        assert answer.json()["error"]["code"] == "charge_failed"
        assert "invoice.voided" in person.hear()
        person.run()
        assert person.debts() == [("voided_invoice", 0, "withdrawn")]

    def test_past_due_with_a_debt(self, overdue: Person, remote: StandIn) -> None:
        """While there is something to recover, Commet's own page is the way to pay."""
        lost = "select open_debt(%s, 'lost_dispute', 'txn_1', 29, 'usd', now())"
        wiring.database().execute(lost, [overdue.id])
        refused = overdue.checkout()
        assert (refused.status, refused.json["amount"]) == (402, "29.00")
        assert refused.json["pay_url"].startswith(f"{remote.public_url}/recover")
        assert not remote.control.requests(method="POST", path="/payments")


class TestOperators:
    def test_forgiven_and_paid_all_the_same(self, person: Person, remote: StandIn) -> None:
        """A link that was tried once stays payable. That rings, and is given back."""
        person.lost()
        assert person.checkout().status == 402
        link = person.link()
        with pytest.raises(httpx.HTTPStatusError):
            remote.control.pay_link(link, card_number="4000000000000002")
        by = {"author": "ann", "note": "our mistake"}
        assert person.run(command="forgive", user=person.id, debt="all", **by) == {"forgiven": 1}
        assert person.run(command="forgive", user=person.id, debt="all", **by) == {"forgiven": 0}
        assert person.checkout().status == 201
        person.run()
        assert wiring.commet().payment(link, Deadline.after(20)).status == "failed"
        remote.control.pay_link(link)
        person.hear()
        assert person.run()["debts_paid_twice"] == 1
        (shown,) = person.run(command="show", user=person.id)["debt_links"]
        refund = person.run(command="refund", transaction=shown["transaction_id"])
        assert refund["status"] == "succeeded"
        assert person.run()["debts_paid_twice"] == 0
        (debt,) = person.run(command="show", user=person.id)["debts"]
        assert (debt["ended_by"], debt["author"], debt["note"]) == (
            "forgiven", "ann", "our mistake"
        )  # fmt: skip

    def test_refunded_in_the_dashboard(self, person: Person, remote: StandIn) -> None:
        """Commet's webhook ends the alarm as well."""
        person.lost()
        assert person.checkout().status == 402
        link = person.link()
        person.run(command="forgive", user=person.id, debt="all", author="ann", note="ours")
        remote.control.pay_link(link)
        person.hear()
        assert person.run()["debts_paid_twice"] == 1
        (shown,) = person.run(command="show", user=person.id)["debt_links"]
        remote.control.refund(shown["transaction_id"])
        assert "payment.refunded" in person.hear()
        assert person.run()["debts_paid_twice"] == 0

    def test_one_of_several(self, person: Person) -> None:
        """By its number, and none of another user."""
        opened = "select open_debt(%s, 'lost_dispute', %s, 29, 'usd', now())"
        db = wiring.database()
        first = db.value(opened, [person.id, "txn_1"])
        db.execute(opened, [person.id, "txn_2"])
        by = {"author": "ann", "note": "our mistake"}
        assert person.run(command="forgive", user="usr_x", debt=first, **by) == {"forgiven": 0}
        assert person.run(command="forgive", user=person.id, debt=first, **by) == {"forgiven": 1}
        assert [ended for _, _, ended in person.debts()] == ["forgiven", None]

    @pytest.mark.parametrize(
        "command",
        [
            {"command": "forgive", "user": "u", "debt": 1, "author": "ann"},
            {"command": "forgive", "user": "u", "debt": "1", "author": "ann", "note": "n"},
            {"command": "forgive", "user": "u", "debt": True, "author": "ann", "note": "n"},
            {"command": "forgive", "debt": 1, "author": "ann", "note": "n"},
            {"command": "refund"},
            {"command": "refund", "transaction": "txn_1", "link": "7"},
        ],
    )
    def test_what_a_command_lacks(self, command: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest):
            reconcile.handler(command, Context(55))


def test_each_currency_is_paid_by_a_link_of_its_own(person: Person, remote: StandIn) -> None:
    """One after the other: a payment is in one currency. Each that DebtFloor names counts."""
    db = wiring.database()
    person.cancel()
    person.hear()
    for currency in ("usd", "eur"):
        debt = "select open_debt(%s, 'lost_dispute', %s, 29, %s, now())"
        db.execute(debt, [person.id, f"txn_{currency}", currency])
    for currency in ("eur", "usd"):
        refused = person.checkout()
        assert (refused.status, refused.code) == (402, "debt_open")
        assert (refused.json["currency"], refused.json["amount"]) == (currency, "34.51")
        assert person.checkout().json["pay_url"] == refused.json["pay_url"]
        remote.control.pay_link(person.link())
        person.hear()
    assert person.checkout().status == 201
    assert [ended_by for _, _, ended_by in person.debts()] == ["paid", "paid"]


def test_postgres_knows_the_same_decimals() -> None:
    """Money is rounded to the same minor unit in SQL and in Python."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    codes = [a + b + c for a in letters for b in letters for c in letters]
    rows = wiring.database().all(
        "select code, decimals_of(upper(code)) as digits from unnest(%s::text[]) as c (code)",
        [codes],
    )
    assert {row["code"]: row["digits"] for row in rows} == {c: decimals(c) for c in codes}


class TestLostDispute:
    def test_its_tax_is_asked_once(self, person: Person, remote: StandIn) -> None:
        """The link asks for exactly what was disputed: the amount has its tax in it already."""
        transaction = remote.control.state()["transactions"][0]
        remote.control.dispute(transaction["id"])
        person.hear()
        assert person.checkout().code == "dispute_open"
        remote.control.resolve_dispute(transaction["id"], outcome="lost")
        person.hear()
        assert person.debts() == [("lost_dispute", None, None)]
        person.cancel()
        person.hear()
        refused = person.checkout()
        assert (refused.status, refused.code) == (402, "debt_open")
        assert refused.json["amount"] == "34.51"
        remote.control.pay_link(person.link())
        person.hear()
        assert [ended_by for _, _, ended_by in person.debts()] == ["paid"]
        assert person.checkout().status == 201

    def test_reconcile_reads_it(self, person: Person, remote: StandIn) -> None:
        """The debt counts without anybody who waits for it."""
        transaction = remote.control.state()["transactions"][0]
        remote.control.dispute(transaction["id"])
        remote.control.resolve_dispute(transaction["id"], outcome="lost")
        person.hear()
        person.run()
        assert person.debts() == [("lost_dispute", Decimal("34.51"), None)]
        assert wiring.database().value("select tax from debt") == Decimal("5.51")


def test_a_debtor_who_asks_again_and_again(person: Person, remote: StandIn) -> None:
    """Commet is asked ten times an hour; then the answer is 429, and Commet hears nothing."""
    person.lost()
    for _ in range(10):
        assert person.checkout().code == "debt_open"
    calls = len(remote.control.requests())
    refused = person.checkout()
    assert (refused.status, refused.code) == (429, "too_many_requests")
    assert len(remote.control.requests()) == calls
