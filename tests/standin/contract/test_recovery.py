"""Unpaid invoices: what becomes overdue, who may retry how often, and with which card."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from commet import Commet
from commet.types import TransactionStatus

from standin.testing import StandIn, standin
from tests.standin.contract.conftest import connect
from tests.standin.contract.test_payments import CARD, names, pass_renewal, refused


@pytest.fixture
def behind(server: StandIn, sdk: Commet, subscribed: str) -> str:
    """A subscription whose renewal was declined an hour ago."""
    sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
    server.control.set_card("usr_1", charge_failure="card_declined")
    pass_renewal(server, sdk, subscribed)
    return subscribed


def invoices(sdk: Commet) -> list[tuple[Any, Any, int]]:
    """Newest first: type, status and total."""
    found = sdk.invoices.list(customer_id="usr_1").data
    return [(i.invoice_type, i.status, i.total) for i in found]


def transactions(sdk: Commet) -> list[Any]:
    """Statuses, newest first."""
    return [t.status for t in sdk.transactions.list().data]


class TestOverdue:
    def test_is_told_once_a_day_after_the_due_date(
        self, sdk: Commet, server: StandIn, behind: str
    ) -> None:
        """After the retry of that day has failed, too; the invoice stays outstanding."""
        assert server.control.events("invoice.overdue") == []
        before = len(server.control.events())
        server.control.advance(days=1)
        assert names(server, since=before) == ["payment.failed", "invoice.overdue"]
        told = server.control.events("invoice.overdue")[0]["data"]
        assert (told["invoiceStatus"], told["subscriptionId"], told["total"]) == (
            "outstanding",
            behind,
            3200,
        )
        server.control.advance(days=3)
        assert len(server.control.events("invoice.overdue")) == 1
        assert sdk.invoices.get(told["invoiceId"]).status == "outstanding"

    def test_not_of_what_is_paid_in_time(self, sdk: Commet, server: StandIn, behind: str) -> None:
        """The retry at the same moment comes first."""
        server.control.set_card("usr_1", charge_failure=None)
        server.control.advance(days=5)
        assert sdk.subscriptions.get(behind).status == "active"
        assert server.control.events("invoice.overdue") == []

    def test_a_checkout_that_nobody_pays(self, sdk: Commet, server: StandIn) -> None:
        """Its invoice is outstanding, too."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        server.control.advance(days=2)
        assert len(server.control.events("invoice.overdue")) == 1
        server.control.pay(sub.id)
        assert sdk.subscriptions.get(sub.id).status == "active"

    def test_on_demand(self, sdk: Commet, server: StandIn, behind: str) -> None:
        """At once, and then not again by the clock."""
        assert behind
        owed = sdk.invoices.list(customer_id="usr_1").data[0].id
        server.control.make_overdue(owed)
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            server.control.make_overdue(owed)
        server.control.advance(days=2)
        assert len(server.control.events("invoice.overdue")) == 1


class TestRetriesByHand:
    def test_three_a_day(self, sdk: Commet, server: StandIn, behind: str) -> None:
        """The fourth is refused without a time to wait; tomorrow counts anew."""
        for _ in range(3):
            assert refused(lambda: sdk.subscriptions.reactivate(behind)) == ("charge_failed", 402)
        headers = {"x-api-key": server.api_key}
        path = f"{server.base_url}/subscriptions/{behind}/reactivate"
        fourth = httpx.post(path, headers=headers)
        assert fourth.status_code == 429
        assert fourth.json()["error"]["code"] == "rate_limited"
        assert "Retry-After" not in fourth.headers
        failed = sdk.transactions.list(status=TransactionStatus.FAILED).data[0].id
        assert refused(lambda: sdk.transactions.retry(failed))[0] == "rate_limited"
        server.control.set_card("usr_1", charge_failure=None)
        assert refused(lambda: sdk.subscriptions.reactivate(behind))[0] == "rate_limited"
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=1)
        server.control.set_card("usr_1", charge_failure=None)
        assert sdk.subscriptions.reactivate(behind).status == "succeeded"

    def test_leave_the_calendar_alone(self, sdk: Commet, server: StandIn, behind: str) -> None:
        """The automatic tries stay on days 1, 3, 5 and 7."""
        for _ in range(2):
            assert refused(lambda: sdk.subscriptions.reactivate(behind))[0] == "charge_failed"
        server.control.advance(days=8)
        recoveries = [
            e["data"]["paymentContext"]["recovery"] for e in server.control.events("payment.failed")
        ]
        assert [r and r.get("attempt", "by hand") for r in recoveries] == [
            None, "by hand", "by hand", 1, 2, 3, 4,
        ]  # fmt: skip

    def test_in_the_portal(self, sdk: Commet, server: StandIn, behind: str) -> None:
        """By a button, as often as everywhere; a card that is saved then waits for tomorrow."""
        portal = sdk.portal.get_url(customer_id="usr_1").portal_url
        assert "Try Visa ending 4242 again" in httpx.get(portal).text
        for _ in range(3):
            done = httpx.post(f"{portal}/retry")
            assert done.headers["Location"].endswith("done=declined")
        assert httpx.post(f"{portal}/retry").status_code == 429
        form = CARD | {"card_number": "5555555555554444"}
        saved = httpx.post(f"{portal}/payment-method", data=form).headers["Location"]
        assert "tried often enough today" in httpx.get(saved).text
        assert sdk.subscriptions.get(behind).status == "past_due"
        server.control.advance(days=1)
        assert sdk.subscriptions.get(behind).status == "active"

    def test_nothing_to_retry(self, sdk: Commet, subscribed: str) -> None:
        assert subscribed
        portal = sdk.portal.get_url(customer_id="usr_1").portal_url
        assert httpx.post(f"{portal}/retry").status_code == 409

    def test_a_recovery_link_is_not_limited(
        self, sdk: Commet, server: StandIn, behind: str
    ) -> None:
        """Whoever opens it gives another card."""
        url = sdk.subscriptions.create_recovery_link(behind).url
        declined = CARD | {"card_number": "4000000000000002"}
        assert [httpx.post(url, data=declined).status_code for _ in range(5)] == [402] * 5
        assert httpx.post(url, data=CARD).status_code == 200
        assert sdk.subscriptions.get(behind).status == "active"
        assert len(server.control.events("payment.recovered")) == 1


class TestOtherCards:
    def test_dunning_tries_them_newest_first(
        self, sdk: Commet, server: StandIn, behind: str
    ) -> None:
        """All of it is one try, and the default card stays the default one."""
        server.control.add_card("usr_1", "5555555555554444")
        server.control.add_card("usr_1", "4000002760000016")
        server.control.set_card("usr_1", charge_failure="card_declined", last4="0016")
        before = len(transactions(sdk))
        server.control.advance(days=1)
        assert transactions(sdk)[:-before] == ["succeeded", "failed", "failed"]
        assert sdk.subscriptions.get(behind).status == "active"
        assert len(server.control.events("payment.failed")) == 1
        customer = server.control.customer("usr_1")["customer"]
        assert customer["card"]["last4"] == "4242"
        assert [card["last4"] for card in customer["other_cards"]] == ["0016", "4444"]

    def test_one_event_when_all_are_declined(
        self, sdk: Commet, server: StandIn, behind: str
    ) -> None:
        """The reason is that of the default card."""
        assert behind
        server.control.set_card("usr_1", charge_failure="insufficient_funds")
        server.control.add_card("usr_1", "4000000000000341")
        server.control.advance(days=1)
        failed = [e["data"]["failureCode"] for e in server.control.events("payment.failed")]
        assert failed == ["card_declined", "insufficient_funds"]
        assert transactions(sdk)[:2] == ["failed", "failed"]

    def test_a_retry_by_hand_means_the_default_one(
        self, sdk: Commet, server: StandIn, behind: str
    ) -> None:
        server.control.add_card("usr_1", "5555555555554444")
        assert refused(lambda: sdk.subscriptions.reactivate(behind))[0] == "charge_failed"

    def test_a_resume_tries_them_too(self, sdk: Commet, server: StandIn, subscribed: str) -> None:
        """It has the same calendar."""
        sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=None)
        pass_renewal(server, sdk, subscribed)
        server.control.set_card("usr_1", charge_failure="card_declined")
        assert refused(lambda: sdk.subscriptions.resume(subscribed))[0] == "charge_failed"
        server.control.add_card("usr_1", "5555555555554444")
        server.control.advance(days=1)
        assert sdk.subscriptions.get(subscribed).status == "active"

    def test_the_portal_saves_one_beside_the_default(
        self, sdk: Commet, server: StandIn, subscribed: str
    ) -> None:
        """And shows it; a new default one keeps the old."""
        portal = sdk.portal.get_url(customer_id="usr_1").portal_url
        form = CARD | {"card_number": "5555555555554444", "keep_default": "yes"}
        before = len(server.control.events())
        assert httpx.post(f"{portal}/payment-method", data=form).status_code == 303
        assert names(server, since=before) == ["payment_method.attached"]
        told = server.control.events("payment_method.attached")[-1]["data"]
        assert (told["card"]["last4"], told["subscriptionId"]) == ("4444", subscribed)
        assert "Mastercard ending 4444" in httpx.get(portal).text
        form = CARD | {"card_number": "4000002760000016"}
        assert httpx.post(f"{portal}/payment-method", data=form).status_code == 303
        customer = server.control.customer("usr_1")["customer"]
        assert customer["card"]["last4"] == "0016"
        assert {card["last4"] for card in customer["other_cards"]} == {"4242", "4444"}

    def test_control_names_a_card_that_there_is(self, server: StandIn, subscribed: str) -> None:
        assert subscribed
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            server.control.set_card("usr_1", charge_failure=None, last4="0000")
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            server.control.add_card("usr_1", "4000000000000002")


class TestWhatIsNeverPaid:
    def test_cancelling_while_past_due_voids_the_overage(
        self, sdk: Commet, server: StandIn, behind: str
    ) -> None:
        """Its lines can still be read, and so can what was used."""
        sdk.subscriptions.cancel(behind)
        assert invoices(sdk)[0] == ("recurring", "void", 3200)
        told = server.control.events("invoice.voided")[0]["data"]
        invoice = sdk.invoices.get(told["invoiceId"])
        lines = {line.line_type: (line.amount, line.overage_amount) for line in invoice.line_items}
        assert lines == {"plan_base": (2900, None), "feature_overage": (300, 30)}
        assert "Void" in httpx.get(sdk.invoices.get_download_url(invoice.id).url).text

    def test_exhausted_dunning_leaves_it_uncollectible(
        self, sdk: Commet, server: StandIn, behind: str
    ) -> None:
        """Without an event of its own."""
        server.control.advance(days=8)
        assert sdk.subscriptions.get(behind).status == "canceled"
        assert invoices(sdk)[0] == ("recurring", "uncollectible", 3200)
        assert server.control.events("invoice.voided") == []

    def test_a_last_overage_that_is_declined_is_void(
        self, sdk: Commet, server: StandIn, subscribed: str
    ) -> None:
        """The subscription has ended, and nothing collects it any more: no link either."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        server.control.set_card("usr_1", charge_failure="card_declined")
        before = len(server.control.events())
        sdk.subscriptions.cancel(subscribed, immediate=True)
        assert invoices(sdk)[0] == ("overage", "void", 300)
        assert names(server, since=before) == [
            "invoice.created",
            "payment.failed",
            "invoice.voided",
            "subscription.canceled",
            "customer.state_changed",
        ]
        assert server.control.events("payment.failed")[0]["data"]["recoveryUrl"] is None

    def test_voided_by_hand_nothing_is_owed(
        self, sdk: Commet, server: StandIn, behind: str
    ) -> None:
        """The subscription is active again, and its old link is dead."""
        url = sdk.subscriptions.create_recovery_link(behind).url
        owed = sdk.invoices.list(customer_id="usr_1").data[0].id
        server.control.void(owed)
        assert sdk.subscriptions.get(behind).status == "active"
        assert httpx.get(url).status_code == 404
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            server.control.void(owed)
        server.control.advance(days=8)
        assert sdk.subscriptions.get(behind).status == "active"

    def test_a_first_invoice_is_not_voided_by_hand(self, sdk: Commet, server: StandIn) -> None:
        """Its subscription would wait for ever; cancel that instead."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            server.control.void(sdk.invoices.list().data[0].id)


@contextmanager
def taxed() -> Iterator[tuple[StandIn, Commet, str]]:
    """A subscriber where everything is taxed at 7.5 %."""
    from decimal import Decimal

    with standin(tax_percent=Decimal("7.5")) as server, connect(server) as sdk:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        assert "Pay $31.18" in httpx.get(str(sub.checkout_url)).text
        server.control.pay(sub.id)
        yield server, sdk, sub.id


class TestTax:
    def test_is_added_to_every_charge(self) -> None:
        """29.00 and 7.5 % of it, half a cent up: 2.18. Lines stay without tax."""
        with taxed() as (server, sdk, _):
            invoice = sdk.invoices.get(sdk.invoices.list().data[0].id)
            assert (invoice.subtotal, invoice.tax_amount, invoice.total) == (2900, 218, 3118)
            assert [line.amount for line in invoice.line_items] == [2900]
            told = server.control.events("payment.received")[0]["data"]
            assert (told["invoiceTotal"], told["grossAmount"]) == (3118, 3118)
            created = server.control.events("invoice.created")[0]["data"]
            assert (created["subtotal"], created["total"]) == (2900, 3118)
            paid = sdk.transactions.list().data[0]
            assert (paid.subtotal, paid.tax_amount, paid.gross_amount) == (2900, 218, 3118)
            page = httpx.get(sdk.invoices.get_download_url(invoice.id).url).text
            assert "$2.18" in page
            assert sdk.transactions.refund(paid.id).amount == 3118

    def test_of_a_plan_change(self) -> None:
        """On what is left after the credit."""
        with taxed() as (server, sdk, sub):
            preview = sdk.subscriptions.preview_change(sub, plan_id="pln_usagemax")
            changed: Any = sdk.subscriptions.change_plan(sub, new_plan_id="pln_usagemax")
            billing = changed.billing
            assert (billing.net_amount, billing.tax_amount) == (7000, 525)
            assert billing.total_charged == preview.estimated_total == 7525
            told = server.control.events("subscription.plan_changed")[0]["data"]
            assert told["totalCharged"] == 7525

    def test_of_a_link(self) -> None:
        """On top of the amount that was asked for."""
        with taxed() as (server, sdk, _):
            link = sdk.payments.create(amount=1000, currency="usd", description="Extra")
            assert (link.amount_subtotal, link.tax_amount, link.amount_total) == (1000, 75, 1075)
            assert "Pay $10.75" in httpx.get(str(link.url)).text
            server.control.pay_link(link.id)
            assert server.control.events("payment_link.completed")[0]["data"]["amount"] == 1075

    def test_of_overage_that_was_never_paid(self) -> None:
        """A debt is the lines of a void invoice with their share of its tax."""
        with taxed() as (server, sdk, sub):
            sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
            server.control.set_card("usr_1", charge_failure="card_declined")
            pass_renewal(server, sdk, sub)
            page = httpx.get(sdk.subscriptions.create_recovery_link(sub).url).text
            assert "Pay $34.40" in page
            sdk.subscriptions.cancel(sub)
            invoice = sdk.invoices.get(sdk.invoices.list().data[0].id)
            assert (invoice.status, invoice.subtotal, invoice.tax_amount) == ("void", 3200, 240)
