"""One-time payments, transactions, refunds and disputes, driven by the official SDK."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from commet import Commet, CommetAPIError
from commet.types import TransactionStatus

from standin.testing import StandIn, standin
from tests.standin.contract.conftest import connect

Complete = Callable[[Any], Any]
CARD = {"card_number": "4242424242424242", "expiry": "12/34", "cvc": "123"}
DECLINED = CARD | {"card_number": "4000000000000002"}


def link(sdk: Commet, **more: Any) -> Any:
    return sdk.payments.create(amount=5000, currency="usd", description="Onboarding", **more)


def names(server: StandIn, *, since: int) -> list[str]:
    return [event["event"] for event in server.control.events()[since:]]


def pass_renewal(server: StandIn, sdk: Commet, subscription_id: str) -> None:
    """Move the clock an hour past the end of the period, before anything is tried again."""
    period = sdk.subscriptions.get(subscription_id).current_period
    assert period is not None
    server.control.advance(to=datetime.fromisoformat(period.end) + timedelta(hours=1))


def newest(sdk: Commet) -> Any:
    return sdk.transactions.list().data[0]


def refused(call: Callable[[], object]) -> tuple[str, int | None]:
    with pytest.raises(CommetAPIError) as caught:
        call()
    return str(caught.value.code), caught.value.status_code


class TestLinks:
    def test_a_customer_pays_one(
        self, sdk: Commet, server: StandIn, subscribed: str, complete: Complete
    ) -> None:
        """The page shows what is due; payment makes the invoice, and its events say which link."""
        before = len(server.control.events())
        created = link(sdk, customer_id="usr_1", success_url="https://app.example.com/thanks")
        assert (created.kind, created.status, created.url) == ("link", "pending", created.url)
        page = httpx.get(created.url).text
        assert "Onboarding" in page
        assert "Pay $50.00" in page
        assert sdk.invoices.list(customer_id="usr_1").data[0].subscription_id == subscribed
        answer = httpx.post(created.url, data=CARD)
        assert (answer.status_code, answer.headers["Location"]) == (
            303,
            "https://app.example.com/thanks",
        )
        assert names(server, since=before) == [
            "payment_link.created",
            "invoice.created",
            "payment.received",
            "payment_link.completed",
        ]
        assert complete(sdk.payments.get(created.id)).status == "succeeded"
        invoice = complete(sdk.invoices.get(sdk.invoices.list(customer_id="usr_1").data[0].id))
        assert (invoice.invoice_type, invoice.subscription_id) == ("one_time_payment", None)
        assert [(i.line_type, i.amount) for i in invoice.line_items] == [("one_time", 5000)]
        told = server.control.events("payment_link.completed")[0]["data"]
        assert told["invoiceId"] == invoice.id
        assert told["paymentTransactionId"] == newest(sdk).id
        assert told["paymentContext"]["paymentLinkId"] == created.id

    def test_is_paid_once(self, sdk: Commet, server: StandIn, subscribed: str) -> None:
        """However often its form is sent, and by whichever door."""
        assert subscribed
        created = link(sdk, customer_id="usr_1")
        answers = [httpx.post(created.url, data=CARD) for _ in range(2)]
        assert [a.status_code for a in answers] == [303, 303]
        assert "Payment received" in httpx.get(created.url).text
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            server.control.pay_link(created.id)
        assert len(server.control.events("payment_link.completed")) == 1

    def test_a_declined_card_leaves_it_open(
        self, sdk: Commet, server: StandIn, subscribed: str
    ) -> None:
        """The attempt is a transaction without an invoice; nobody is charged."""
        assert subscribed
        created = link(sdk, customer_id="usr_1")
        invoices = len(sdk.invoices.list().data)
        for form in (DECLINED, CARD | {"card_number": "4000000000000341"}):
            assert httpx.post(created.url, data=form).status_code == 402
        assert sdk.payments.get(created.id).status == "failed"
        assert (newest(sdk).status, newest(sdk).invoice_id) == ("failed", None)
        assert len(sdk.invoices.list().data) == invoices
        failed = [e["data"] for e in server.control.events("payment_link.failed")]
        assert [f["failureCode"] for f in failed] == ["card_declined"] * 2
        assert server.control.events("payment.failed") == []
        assert refused(lambda: sdk.payments.cancel(created.id)) == ("payment_not_cancelable", 409)
        assert httpx.post(created.url, data=CARD | {"cvc": ""}).status_code == 422
        server.control.pay_link(created.id)
        assert sdk.payments.get(created.id).status == "succeeded"

    def test_somebody_without_an_account_gives_an_address(
        self, sdk: Commet, server: StandIn
    ) -> None:
        """The invoice is in the name of a new customer; the payment stays nobody's."""
        created = link(sdk)
        assert created.customer_id is None
        assert 'id="email-problem"' in httpx.post(created.url, data=CARD).text
        paid = httpx.post(created.url, data=CARD | {"email": "bea@example.com"})
        assert paid.headers["Location"] == created.url
        buyer = sdk.customers.list().data[0]
        assert buyer.email == "bea@example.com"
        assert sdk.invoices.list().data[0].customer_id == buyer.id
        assert server.control.events("payment_link.completed")[0]["data"]["customerId"] is None
        # A stranger's card is not saved: anybody could have typed that address.
        assert server.control.customer(buyer.id)["customer"]["card"] is None

    def test_can_be_canceled_while_nobody_has_tried(
        self, sdk: Commet, server: StandIn, complete: Complete
    ) -> None:
        """Twice is as good as once; a canceled link takes no money."""
        created = link(sdk)
        assert complete(sdk.payments.cancel(created.id)).status == "canceled"
        assert sdk.payments.cancel(created.id).status == "canceled"
        assert names(server, since=0) == ["payment_link.created", "payment_link.canceled"]
        form = CARD | {"email": "bea@example.com"}
        assert httpx.post(created.url, data=form).status_code == 404
        assert httpx.get(created.url).status_code == 404
        assert sdk.transactions.list().data == []

    def test_can_expire(self) -> None:
        """By a switch; without one it does not."""
        with standin(payment_link_days=2) as server, connect(server) as sdk:
            created = link(sdk)
            assert created.expires_at
            server.control.advance(days=1.5)
            assert httpx.get(created.url).status_code == 200
            server.control.advance(days=1)
            assert httpx.get(created.url).status_code == 404
            assert httpx.post(created.url, data=CARD).status_code == 404

    def test_the_first_card_is_saved(self, sdk: Commet, server: StandIn) -> None:
        """A further one does not replace the one that is charged."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        for number in ("4242424242424242", "5555555555554444"):
            created = link(sdk, customer_id="usr_1")
            assert httpx.post(created.url, data=CARD | {"card_number": number}).status_code == 303
        customer = server.control.customer("usr_1")["customer"]
        assert customer["card"]["last4"] == "4242"
        assert [card["last4"] for card in customer["other_cards"]] == ["4444"]

    def test_are_listed_by_customer(self, sdk: Commet, subscribed: str, complete: Complete) -> None:
        assert subscribed
        mine, other = link(sdk, customer_id="usr_1"), link(sdk)
        assert [p.id for p in complete(sdk.payments.list()).data] == [other.id, mine.id]
        assert [p.id for p in sdk.payments.list(customer_id="usr_1").data] == [mine.id]
        first = sdk.payments.list(limit=1)
        assert first.has_more
        assert [p.id for p in sdk.payments.list(cursor=first.next_cursor).data] == [mine.id]

    def test_metadata_comes_back(self, sdk: Commet) -> None:
        created = link(sdk, metadata={"debt": "41"})
        assert sdk.payments.get(created.id).metadata == {"debt": "41"}

    def test_a_repeated_key_makes_one_link(self, sdk: Commet, server: StandIn) -> None:
        """As with every write."""
        made = {link(sdk, idempotency_key="debts-41-42").id for _ in range(2)}
        assert len(made) == len(server.control.events("payment_link.created")) == 1


class TestCharges:
    def charge(self, sdk: Commet) -> Any:
        return sdk.payments.charge(
            customer_id="usr_1", amount=700, currency="usd", description="Extra"
        )

    def test_takes_the_saved_card(
        self, sdk: Commet, server: StandIn, subscribed: str, complete: Complete
    ) -> None:
        """Off-session; paid when it is answered."""
        assert subscribed
        before = len(server.control.events())
        paid = complete(self.charge(sdk))
        assert (paid.kind, paid.status, paid.url) == ("charge", "succeeded", None)
        assert names(server, since=before) == ["invoice.created", "payment.received"]
        received = server.control.events("payment.received")[-1]["data"]
        assert received["paymentContext"]["reason"] == "one_time_payment"
        assert received["subscriptionId"] is None
        assert refused(lambda: sdk.payments.cancel(paid.id)) == ("payment_not_cancelable", 409)

    def test_a_declined_one_leaves_a_failed_payment(
        self, sdk: Commet, server: StandIn, subscribed: str
    ) -> None:
        """No invoice, and no event: those of declines belong to subscriptions and links."""
        assert subscribed
        server.control.set_card("usr_1", charge_failure="insufficient_funds")
        before = len(server.control.events())
        with pytest.raises(CommetAPIError) as caught:
            self.charge(sdk)
        assert (caught.value.code, caught.value.status_code) == ("payment_failed", 402)
        details: Any = caught.value.details
        kept = sdk.payments.get(next(iter(details.values())))
        assert (kept.status, newest(sdk).status) == ("failed", "failed")
        assert names(server, since=before) == []
        assert len(sdk.invoices.list().data) == 1

    def test_needs_a_subscription_and_a_card(self, sdk: Commet) -> None:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        assert refused(lambda: self.charge(sdk)) == ("subscription_required", 409)
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        assert refused(lambda: self.charge(sdk)) == ("subscription_required", 409)
        sdk.subscriptions.cancel(sub.id)
        sdk.subscriptions.create(customer_id="usr_1", plan_code="free")
        assert refused(lambda: self.charge(sdk)) == ("payment_method_not_found", 404)


class TestTransactions:
    def test_one_for_each_attempt(
        self, sdk: Commet, server: StandIn, subscribed: str, complete: Complete
    ) -> None:
        """Old ones never change; the invoice names none of them, they name it."""
        server.control.set_card("usr_1", charge_failure="card_declined")
        pass_renewal(server, sdk, subscribed)
        server.control.set_card("usr_1", charge_failure=None)
        server.control.advance(days=1)
        found = complete(sdk.transactions.list()).data
        assert [t.status for t in found] == ["succeeded", "failed", "succeeded"]
        assert found[0].invoice_id == found[1].invoice_id != found[2].invoice_id
        one = complete(sdk.transactions.get(found[0].id))
        assert (one.gross_amount, one.subtotal, one.presentment_amount) == (2900, 2900, None)
        assert one.payment_context.recovery is not None

    def test_filters(self, sdk: Commet, server: StandIn, subscribed: str) -> None:
        """By status, and by the address of the customer."""
        assert subscribed
        server.control.pay_link(link(sdk).id, email="bea@example.com")
        emails = [
            t.customer_email for t in sdk.transactions.list(status=TransactionStatus.SUCCEEDED).data
        ]
        assert emails == ["bea@example.com", "ana@example.com"]
        assert sdk.transactions.list(status=TransactionStatus.FAILED).data == []
        by_email = sdk.transactions.list(customer_email="ana@example.com").data
        assert [t.customer_email for t in by_email] == ["ana@example.com"]

    def test_other_currencies_are_presented(self) -> None:
        """`grossAmount` is in dollars, and no rate is known."""
        with standin(currency="eur") as server, connect(server) as sdk:
            sdk.customers.create(email="ana@example.com", id="usr_1")
            server.control.pay(
                sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro").id
            )
            found = newest(sdk)
            assert (found.gross_amount, found.presentment_amount, found.currency) == (
                None,
                2900,
                "eur",
            )

    def test_a_failed_renewal_can_be_retried(
        self, sdk: Commet, server: StandIn, subscribed: str, complete: Complete
    ) -> None:
        """And nothing else."""
        paid = newest(sdk)
        assert refused(lambda: sdk.transactions.retry(paid.id)) == ("no_outstanding_invoice", 409)
        server.control.set_card("usr_1", charge_failure="card_declined")
        pass_renewal(server, sdk, subscribed)
        failed = newest(sdk)
        assert refused(lambda: sdk.transactions.retry(failed.id)) == ("charge_failed", 402)
        server.control.set_card("usr_1", charge_failure=None)
        again = complete(sdk.transactions.retry(failed.id))
        assert (again.status, again.invoice_id) == ("succeeded", failed.invoice_id)
        assert sdk.subscriptions.get(subscribed).status == "active"
        assert sdk.transactions.get(failed.id).status == "failed"


class TestRefunds:
    def test_gives_everything_back(
        self, sdk: Commet, server: StandIn, subscribed: str, complete: Complete
    ) -> None:
        """The subscription and the invoice stay as they are."""
        paid, before = newest(sdk), len(server.control.events())
        done = complete(sdk.transactions.refund(paid.id))
        assert (done.amount, done.status, done.reason) == (
            2900,
            "succeeded",
            "requested_by_customer",
        )
        assert names(server, since=before) == ["payment.refunded"]
        told = server.control.events("payment.refunded")[0]["data"]
        assert (told["refundAmount"], told["subscriptionId"]) == (2900, subscribed)
        assert sdk.transactions.get(paid.id).status == "refunded"
        assert sdk.invoices.get(paid.invoice_id).status == "paid"
        assert sdk.subscriptions.get(subscribed).status == "active"
        assert refused(lambda: sdk.transactions.refund(paid.id)) == ("payment_failed", 402)

    def test_a_part_on_demand(self, sdk: Commet, server: StandIn, subscribed: str) -> None:
        """Until nothing is left; never more than was paid."""
        assert subscribed
        paid = newest(sdk)
        server.control.refund(paid.id, amount=900)
        assert sdk.transactions.get(paid.id).status == "succeeded"
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            server.control.refund(paid.id, amount=2001)
        server.control.refund(paid.id)
        assert sdk.transactions.get(paid.id).status == "refunded"
        amounts = [e["data"]["refundAmount"] for e in server.control.events("payment.refunded")]
        assert amounts == [900, 2000]

    def test_of_a_link_names_the_link(self, sdk: Commet, server: StandIn) -> None:
        """Its buyer's invoice too; there is no subscription."""
        created = link(sdk)
        server.control.pay_link(created.id)
        sdk.transactions.refund(newest(sdk).id)
        told = server.control.events("payment.refunded")[0]["data"]
        assert (told["paymentLinkId"], told["subscriptionId"]) == (created.id, None)
        assert told["invoiceNumber"] == "INV-0001"


class TestDisputes:
    @pytest.mark.parametrize(("outcome", "status"), [("won", "succeeded"), ("lost", "disputed")])
    def test_blocks_changes_until_it_is_resolved(
        self, sdk: Commet, server: StandIn, subscribed: str, outcome: Any, status: str
    ) -> None:
        """Usage and access go on meanwhile."""
        paid, before = newest(sdk), len(server.control.events())
        server.control.dispute(paid.id, reason="product_not_received")
        assert sdk.transactions.get(paid.id).status == "disputed"
        blocked = ("subscription_has_open_dispute", 409)
        assert refused(lambda: sdk.transactions.refund(paid.id)) == ("payment_failed", 402)
        change = lambda: sdk.subscriptions.change_plan(subscribed, new_plan_id="pln_usagemax")  # noqa: E731
        assert refused(change) == blocked
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=1)
        sdk.subscriptions.cancel(subscribed, immediate=True)
        assert refused(lambda: sdk.subscriptions.reactivate(subscribed)) == blocked
        server.control.resolve_dispute(paid.id, outcome=outcome)
        assert sdk.transactions.get(paid.id).status == status
        assert sdk.subscriptions.reactivate(subscribed).status == "succeeded"
        changed = sdk.subscriptions.change_plan(subscribed, new_plan_id="pln_usagemax")
        assert changed.outcome == "completed"
        told = [e for e in server.control.events()[before:] if "dispute" in e["event"]]
        assert [e["event"] for e in told] == ["payment.disputed", "payment.dispute_resolved"]
        assert told[1]["data"] == told[0]["data"] | {"outcome": outcome}
        assert told[0]["data"]["disputeReason"] == "product_not_received"
        assert told[0]["data"]["disputeAmount"] == 2900

    def test_while_a_renewal_is_owed(self, sdk: Commet, server: StandIn, subscribed: str) -> None:
        """Nobody retries by hand; the recovery link still takes a card."""
        paid = newest(sdk)
        server.control.set_card("usr_1", charge_failure="card_declined")
        pass_renewal(server, sdk, subscribed)
        server.control.dispute(paid.id, amount=100)
        assert refused(lambda: sdk.subscriptions.reactivate(subscribed)) == (
            "subscription_has_open_dispute",
            409,
        )
        url = sdk.subscriptions.create_recovery_link(subscribed).url
        assert httpx.post(url, data=CARD).status_code == 200
        assert sdk.subscriptions.get(subscribed).status == "active"

    def test_only_what_was_paid_once(self, sdk: Commet, server: StandIn, subscribed: str) -> None:
        """Neither twice nor for more, and only an open one is resolved."""
        assert subscribed
        paid = newest(sdk)
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            server.control.dispute(paid.id, amount=2901)
        with pytest.raises(httpx.HTTPStatusError, match="402"):
            server.control.resolve_dispute(paid.id, outcome="won")
        server.control.dispute(paid.id)
        server.control.resolve_dispute(paid.id, outcome="won")
        with pytest.raises(httpx.HTTPStatusError, match="402"):
            server.control.dispute(paid.id)
        assert len(server.control.events("payment.disputed")) == 1

    def test_the_portal_offers_no_change_meanwhile(
        self, sdk: Commet, server: StandIn, subscribed: str
    ) -> None:
        assert subscribed
        portal = sdk.portal.get_url(customer_id="usr_1").portal_url
        assert "Choose Usage Max" in httpx.get(portal).text
        server.control.dispute(newest(sdk).id)
        assert "Choose Usage Max" not in httpx.get(portal).text


class TestAnnouncing:
    def test_sends_the_event_alone(self, sdk: Commet, server: StandIn, subscribed: str) -> None:
        """About a transaction or an invoice; nothing else changes."""
        paid, before = newest(sdk), len(server.control.events())
        server.control.announce("payment.failed", about=paid.id)
        server.control.announce("payment.dispute_resolved", about=paid.id, outcome="lost")
        server.control.announce("invoice.voided", about=paid.invoice_id)
        sent = server.control.events()[before:]
        assert [e["event"] for e in sent] == [
            "payment.failed",
            "payment.dispute_resolved",
            "invoice.voided",
        ]
        assert (sent[1]["data"]["outcome"], sent[2]["data"]["invoiceStatus"]) == ("lost", "void")
        assert sdk.invoices.get(paid.invoice_id).status == "paid"
        assert sdk.subscriptions.get(subscribed).status == "active"

    def test_what_cannot_be_said_is_refused(self, sdk: Commet, server: StandIn) -> None:
        """An event that is not about money, and a record that lacks what the event names."""
        server.control.fault(webhooks={"drop": True})
        created = link(sdk)
        with pytest.raises(httpx.HTTPStatusError):
            server.control.pay_link(created.id, card_number="4000000000000002")
        failed = newest(sdk).id
        for event, about, status in (
            ("customer.created", failed, "400"),
            ("payment.received", failed, "400"),
            ("invoice.overdue", failed, "400"),
            ("payment.failed", "txn_none", "404"),
            ("invoice.voided", "inv_none", "404"),
        ):
            with pytest.raises(httpx.HTTPStatusError, match=status):
                server.control.announce(event, about=about)
        server.control.announce("payment.refunded", about=failed)
        assert server.control.events("payment.refunded")[0]["data"]["invoiceId"] is None
