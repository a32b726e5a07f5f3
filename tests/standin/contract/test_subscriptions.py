"""The life of a subscription: checkout, cancellation, renewal, dunning, trials, free plans."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from commet import Commet, CommetAPIError

from standin.catalogue import DEFAULT_FILE
from standin.testing import StandIn, standin
from tests.standin.contract.conftest import connect, storage

MONTH = 31


@pytest.fixture
def ana(sdk: Commet) -> str:
    return str(sdk.customers.create(email="ana@example.com", id="usr_1").external_id)


def _triggers(server: StandIn) -> list[tuple[str, str]]:
    changed = server.control.events("customer.state_changed")
    return [(event["data"]["trigger"], event["data"]["status"]) for event in changed]


def _names(server: StandIn, *, since: int) -> list[str]:
    return [event["event"] for event in server.control.events()[since:]]


class TestCheckout:
    def test_the_same_request_reuses_the_pending_one(self, sdk: Commet, ana: str) -> None:
        """Same plan and price: same subscription, same link."""
        first = sdk.subscriptions.create(customer_id=ana, plan_code="usage_pro")
        again = sdk.subscriptions.create(
            customer_id=ana, plan_id="pln_usagepro", billing_interval="monthly"
        )
        assert (again.id, again.checkout_url) == (first.id, first.checkout_url)

    def test_another_plan_replaces_the_pending_one(
        self, sdk: Commet, ana: str, server: StandIn
    ) -> None:
        """The old link dies, and nothing is told about access that never was."""
        first = sdk.subscriptions.create(customer_id=ana, plan_code="usage_pro")
        second = sdk.subscriptions.create(
            customer_id=ana, plan_code="usage_pro", billing_interval="yearly"
        )
        assert second.id != first.id
        assert sdk.subscriptions.get(first.id).status == "canceled"
        assert first.checkout_url is not None
        assert httpx.get(first.checkout_url).status_code == 404
        assert server.control.events("subscription.canceled") == []
        statuses = [i.status for i in sdk.invoices.list(customer_id=ana).data]
        assert statuses == ["outstanding", "void"]

    def test_a_declined_card_leaves_it_pending(
        self, sdk: Commet, ana: str, server: StandIn
    ) -> None:
        """Never past due; the same link can be paid afterwards."""
        sub = sdk.subscriptions.create(customer_id=ana, plan_code="usage_pro")
        with pytest.raises(httpx.HTTPStatusError):
            server.control.pay(sub.id, card_number="4000000000000002")
        assert sdk.subscriptions.get(sub.id).status == "pending_payment"
        assert server.control.events("payment.failed") == []
        server.control.pay(sub.id)
        assert sdk.subscriptions.get(sub.id).status == "active"

    def test_payment_tells_its_events(self, sdk: Commet, ana: str, server: StandIn) -> None:
        """Access is told, with the snapshot at that moment."""
        sub = sdk.subscriptions.create(customer_id=ana, plan_code="usage_pro")
        assert _names(server, since=1) == [
            "subscription.created",
            "customer.state_changed",
            "invoice.created",
            "checkout.ready",
        ]
        server.control.pay(sub.id)
        assert _names(server, since=5) == [
            "payment.received",
            "subscription.activated",
            "payment_method.attached",
            "customer.state_changed",
        ]
        assert _triggers(server) == [
            ("subscription_created", "pending_payment"),
            ("subscription_activated", "active"),
        ]

    def test_a_free_plan_is_active_at_once(self, sdk: Commet, ana: str, server: StandIn) -> None:
        """Nothing to pay, no interval, a monthly allowance, a hard stop."""
        sub = sdk.subscriptions.create(customer_id=ana, plan_code="free")
        assert (sub.status, sub.checkout_url, sub.billing_interval) == ("active", None, None)
        sdk.usage.track(feature_code="storage", customer_id=ana, value=5)
        with pytest.raises(CommetAPIError) as caught:
            sdk.usage.track(feature_code="storage", customer_id=ana, value=1)
        assert caught.value.code == "included_limit_reached"
        server.control.advance(days=MONTH)
        sdk.usage.track(feature_code="storage", customer_id=ana, value=1)
        assert sdk.invoices.list(customer_id=ana).data == []
        assert _names(server, since=1)[:3] == [
            "subscription.created",
            "customer.state_changed",
            "customer.state_changed",
        ]


class TestCancel:
    def test_asked_for_from_the_start(self, sdk: Commet, ana: str, server: StandIn) -> None:
        """It ends with its first period, as if it had been cancelled once it was paid."""
        sub = sdk.subscriptions.create(
            customer_id=ana, plan_code="usage_pro", cancel_at_period_end=True
        )
        server.control.pay(sub.id)
        paid = sdk.subscriptions.get(sub.id)
        assert (paid.status, paid.cancel_at_period_end) == ("active", True)
        server.control.advance(days=MONTH)
        assert sdk.subscriptions.get(sub.id).status == "canceled"

    def test_at_period_end(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """Access stays until the period is over, then ends by itself."""
        sdk.subscriptions.cancel(subscribed)
        server.control.advance(days=20)
        assert sdk.subscriptions.get(subscribed).status == "active"
        server.control.advance(days=12)
        ended = sdk.subscriptions.get(subscribed)
        assert ended.status == "canceled"
        assert ended.cancellation is not None
        assert ended.end_date == ended.cancellation.effective_at
        assert sdk.subscriptions.get_active(customer_id="usr_1") is None
        assert _triggers(server)[-2:] == [
            ("cancellation_scheduled", "active"),
            ("subscription_canceled", "none"),
        ]
        assert len(sdk.invoices.list(customer_id="usr_1").data) == 1

    def test_at_once(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """Access ends now; no notice comes before."""
        before = len(server.control.events())
        assert sdk.subscriptions.cancel(subscribed, immediate=True).status == "canceled"
        assert _names(server, since=before) == ["subscription.canceled", "customer.state_changed"]
        again = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        assert again.status == "pending_payment"

    def test_bills_the_overage_so_far(self, sdk: Commet, subscribed: str) -> None:
        """What was used beyond the included amount is not given away."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        sdk.subscriptions.cancel(subscribed, immediate=True)
        last = sdk.invoices.list(customer_id="usr_1").data[0]
        assert (last.invoice_type, last.total, last.status) == ("overage", 300, "paid")

    def test_a_pending_one_ends_at_once(self, sdk: Commet, ana: str) -> None:
        """There is no period to wait for; its invoice is void."""
        sub = sdk.subscriptions.create(customer_id=ana, plan_code="usage_pro")
        assert sdk.subscriptions.cancel(sub.id).status == "canceled"
        assert sdk.invoices.list(customer_id=ana).data[0].status == "void"

    def test_uncancel_tells_its_events(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """Both directions are told."""
        before = len(server.control.events())
        sdk.subscriptions.cancel(subscribed)
        sdk.subscriptions.uncancel(subscribed)
        assert _names(server, since=before) == [
            "subscription.cancellation_scheduled",
            "subscription.updated",
            "customer.state_changed",
            "subscription.cancellation_revoked",
            "subscription.updated",
            "customer.state_changed",
        ]
        server.control.advance(days=MONTH)
        assert sdk.subscriptions.get(subscribed).status == "active"


class TestRenewal:
    def test_bills_base_in_advance_and_overage_in_arrears(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """130 GB of 100 at $0.10 is $3.00 on top of the next $29.00, and counting starts anew."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        first = sdk.subscriptions.get(subscribed).current_period
        before = len(server.control.events())
        server.control.advance(days=MONTH)
        assert _names(server, since=before) == [
            "invoice.upcoming",
            "invoice.created",
            "payment.received",
        ]
        invoice = sdk.invoices.get(sdk.invoices.list(customer_id="usr_1").data[0].id)
        assert [(line.line_type, line.amount) for line in invoice.line_items] == [
            ("plan_base", 2900),
            ("feature_overage", 300),
        ]
        assert (invoice.total, invoice.status) == (3200, "paid")
        second = sdk.subscriptions.get(subscribed).current_period
        assert first is not None
        assert second is not None
        assert second.start == first.end
        access = storage(sdk)
        assert access.consumption.units_used == 0

    def test_a_yearly_plan_bills_overage_each_month(
        self, sdk: Commet, ana: str, server: StandIn
    ) -> None:
        """The allowance is monthly, the price yearly."""
        sub = sdk.subscriptions.create(
            customer_id=ana, plan_code="usage_pro", billing_interval="yearly"
        )
        server.control.pay(sub.id)
        sdk.usage.track(feature_code="storage", customer_id=ana, value=101)
        server.control.advance(days=62)
        invoices = sdk.invoices.list(customer_id=ana).data
        assert [(i.invoice_type, i.total) for i in invoices] == [
            ("overage", 10),
            ("recurring", 29000),
        ]

    def test_missed_periods_are_billed_one_by_one(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """A long jump processes every renewal in time order."""
        assert subscribed
        server.control.advance(days=100)
        starts = [i.period_start for i in sdk.invoices.list(customer_id="usr_1").data]
        assert len(starts) == 4
        assert starts == sorted(starts, reverse=True)


class TestDunning:
    def test_recovery_keeps_the_anchor(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """A retry that succeeds brings it back, as if the renewal had been paid."""
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=MONTH)
        behind = sdk.subscriptions.get(subscribed)
        assert behind.status == "past_due"
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=1)
        server.control.set_card("usr_1", charge_failure=None)
        before = len(server.control.events())
        server.control.advance(days=3)
        back = sdk.subscriptions.get(subscribed)
        assert back.status == "active"
        assert back.current_period == behind.current_period or (
            back.current_period is not None
            and behind.current_period is not None
            and back.current_period.end == behind.current_period.end
        )
        assert _names(server, since=before) == [
            "payment.received",
            "payment.recovered",
            "customer.state_changed",
        ]

    def test_after_the_fourth_failure_it_ends(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """Retries on days 1, 3, 5 and 7, then canceled and uncollectible."""
        server.control.set_card("usr_1", charge_failure="insufficient_funds")
        server.control.advance(days=MONTH + 10)
        assert sdk.subscriptions.get(subscribed).status == "canceled"
        failed = [e["data"] for e in server.control.events("payment.failed")]
        attempts = [(f["paymentContext"]["recovery"] or {}).get("attempt") for f in failed]
        assert attempts == [None, 1, 2, 3, 4]
        days = [e["timestamp"][:10] for e in server.control.events("payment.failed")]
        assert len(set(days)) == 5
        canceled = server.control.events("subscription.canceled")[0]["data"]
        assert canceled["cancelReason"] == "dunning_exhausted"
        assert sdk.invoices.list(customer_id="usr_1").data[0].status == "uncollectible"

    def test_cancelling_while_behind_voids_the_debt(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """It ends at once, whatever was asked for."""
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=MONTH)
        assert sdk.subscriptions.cancel(subscribed).status == "canceled"
        assert sdk.invoices.list(customer_id="usr_1").data[0].status == "void"


@pytest.fixture
def behind(subscribed: str, server: StandIn) -> str:
    """A subscription whose renewal was declined."""
    server.control.set_card("usr_1", charge_failure="card_declined")
    server.control.advance(days=MONTH)
    return subscribed


class TestRecovery:
    def test_by_link(self, sdk: Commet, behind: str, server: StandIn) -> None:
        """The page takes another card, charges it and brings the subscription back."""
        link = sdk.subscriptions.create_recovery_link(behind)
        failed = server.control.events("payment.failed")[0]["data"]
        assert failed["recoveryUrl"] == link.url
        assert link.url.endswith(link.token)
        assert "$29.00" in httpx.get(link.url).text
        form = {"card_number": "4000000000000002", "expiry": "12/34", "cvc": "123"}
        assert httpx.post(link.url, data=form).status_code == 402
        assert sdk.subscriptions.get(behind).status == "past_due"
        form["card_number"] = "4242424242424242"
        assert "Payment received" in httpx.post(link.url, data=form).text
        assert sdk.subscriptions.get(behind).status == "active"
        assert httpx.get(link.url).status_code == 404
        received = server.control.events("payment.received")[-1]["data"]
        assert received["paymentContext"]["recovery"] == {"type": "payment_recovery"}

    def test_by_reactivate(self, sdk: Commet, behind: str, server: StandIn) -> None:
        """A declined charge tells where to pay; a good one brings it back."""
        with pytest.raises(CommetAPIError) as caught:
            sdk.subscriptions.reactivate(behind)
        assert (caught.value.code, caught.value.status_code) == ("charge_failed", 402)
        assert isinstance(caught.value.details, dict)
        url = caught.value.details.get("recoveryUrl") or caught.value.details["recovery_url"]
        assert httpx.get(url).status_code == 200
        server.control.set_card("usr_1", charge_failure=None)
        assert sdk.subscriptions.reactivate(behind).status == "succeeded"
        assert sdk.subscriptions.get(behind).status == "active"

    def test_nothing_is_owed_in_good_standing(self, sdk: Commet, subscribed: str) -> None:
        """Neither a link nor a charge."""
        with pytest.raises(CommetAPIError) as caught:
            sdk.subscriptions.create_recovery_link(subscribed)
        assert caught.value.code == "no_outstanding_invoice"
        with pytest.raises(CommetAPIError) as caught:
            sdk.subscriptions.reactivate(subscribed)
        assert caught.value.code == "invalid_subscription_status"


class TestReactivation:
    def test_a_canceled_one_starts_anew(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """The saved card is charged, and a new period begins today."""
        sdk.subscriptions.cancel(subscribed, immediate=True)
        server.control.advance(days=45)
        result = sdk.subscriptions.reactivate(subscribed)
        assert sdk.invoices.get(result.invoice_id).invoice_type == "reactivation"
        back = sdk.subscriptions.get(subscribed)
        assert (back.status, back.cancellation, back.end_date) == ("active", None, None)
        assert back.current_period is not None
        assert back.current_period.start[:10] == server.control.now().date().isoformat()
        last = [e["event"] for e in server.control.events()][-3:]
        assert sorted(last) == [
            "customer.state_changed",
            "payment.received",
            "subscription.reactivated",
        ]

    def test_a_declined_charge_changes_nothing(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """It stays canceled, and the attempt is told."""
        sdk.subscriptions.cancel(subscribed, immediate=True)
        server.control.set_card("usr_1", charge_failure="insufficient_funds")
        with pytest.raises(CommetAPIError) as caught:
            sdk.subscriptions.reactivate(subscribed)
        assert caught.value.code == "charge_failed"
        assert sdk.subscriptions.get(subscribed).status == "canceled"
        assert server.control.events("payment.failed")[-1]["data"]["failureCode"] == (
            "insufficient_funds"
        )

    def test_without_a_card(self, sdk: Commet, ana: str) -> None:
        """There is nothing to charge, or nothing that ever began."""
        pending = sdk.subscriptions.create(customer_id=ana, plan_code="usage_pro")
        sdk.subscriptions.cancel(pending.id)
        with pytest.raises(CommetAPIError) as caught:
            sdk.subscriptions.reactivate(pending.id)
        assert caught.value.code == "invalid_subscription_status"


class TestTrial:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[StandIn]:
        catalogue = json.loads(DEFAULT_FILE.read_text())
        next(p for p in catalogue["plans"] if p["code"] == "usage_pro")["prices"][0][
            "trialDays"
        ] = 14
        file = tmp_path / "catalogue.json"
        file.write_text(json.dumps(catalogue))
        with standin(catalogue=file) as running:
            yield running

    @pytest.fixture
    def sdk(self, server: StandIn) -> Iterator[Commet]:
        with connect(server) as client:
            yield client

    def test_begins_with_a_card_and_ends_with_a_charge(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """Trialing for 14 days, then the price is charged."""
        trial = sdk.subscriptions.get(subscribed)
        assert trial.status == "trialing"
        assert trial.trial_ends_at
        assert sdk.invoices.list(customer_id="usr_1").data == []
        server.control.advance(days=15)
        assert sdk.subscriptions.get(subscribed).status == "active"
        assert [i.total for i in sdk.invoices.list(customer_id="usr_1").data] == [2900]
        reasons = [
            e["data"]["paymentContext"]["reason"] for e in server.control.events("payment.received")
        ]
        assert reasons == ["trial_conversion"]

    def test_overage_is_blocked(self, sdk: Commet, subscribed: str) -> None:
        """A trial stops at what is included."""
        assert subscribed
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=100)
        with pytest.raises(CommetAPIError) as caught:
            sdk.usage.track(feature_code="storage", customer_id="usr_1", value=1)
        assert caught.value.code == "included_limit_reached"

    def test_a_declined_charge_at_its_end_is_past_due(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """The grace of dunning applies to it as well."""
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=14)
        assert sdk.subscriptions.get(subscribed).status == "past_due"
