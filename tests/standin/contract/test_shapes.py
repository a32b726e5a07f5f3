"""Every endpoint, driven by the official SDK: each field of each answer is there and typed."""

from collections.abc import Callable
from typing import Any

import pytest
from commet import Commet
from commet.types import BatchCreateCustomersParamsCustomersItem as Entry
from commet.types import Timezone

from standin.testing import Receiver, StandIn
from tests.standin.contract.conftest import storage

LastAnswer = Callable[[], Any]
Complete = Callable[[Any], Any]


class TestCustomers:
    def test_create_get_update_and_list(self, sdk: Commet, complete: Complete) -> None:
        """A customer's answers are complete, whichever way they are asked for."""
        created = sdk.customers.create(
            email="ana@example.com",
            id="usr_1",
            full_name="Ana Ruiz",
            tax_document="X-1",
            timezone=Timezone.EUROPE_MADRID,
            metadata={"source": "signup"},
        )
        complete(created)
        assert created.external_id == "usr_1"
        assert created.metadata == {"source": "signup"}
        assert not created.livemode

        complete(sdk.customers.get(created.id))
        updated = sdk.customers.update(created.id, full_name="Ana R.")
        complete(updated)
        assert updated.full_name == "Ana R."
        assert updated.tax_document == "X-1"
        complete(sdk.customers.list(external_id="usr_1"))

    def test_batch(self, sdk: Commet, complete: Complete) -> None:
        """A batch tells of each entry by itself."""
        batch = sdk.customers.create_batch(
            customers=[Entry(email="a@example.com", id="a"), Entry(email="no", id="b")]
        )
        complete(batch)
        assert [item.external_id for item in batch.successful] == ["a"]
        assert [item.index for item in batch.failed] == [1]


class TestCatalogue:
    def test_plans(self, sdk: Commet, complete: Complete) -> None:
        """Plans come with features and prices, in sort order."""
        plans = sdk.plans.list()
        complete(plans)
        assert [p.code for p in plans.data] == ["free", "fixed_box", "usage_pro", "usage_max"]
        pro = sdk.plans.get(plans.data[2].id)
        complete(pro)
        assert {(p.billing_interval.value, p.price) for p in pro.prices if p.billing_interval} == {
            ("monthly", 2900),
            ("yearly", 29000),
        }
        storage = pro.features[0]
        assert storage.included_amount == 100
        assert storage.overage is not None
        assert storage.overage.unit_price == 1000

    def test_features(self, sdk: Commet, complete: Complete) -> None:
        """Features of the catalogue."""
        features = sdk.features.list()
        complete(features)
        assert [f.code for f in features.data] == ["storage", "priority_support"]
        complete(sdk.features.get("storage"))


class TestSubscriptions:
    def test_pending(self, sdk: Commet, complete: Complete) -> None:
        """A new paid subscription waits for payment, in all its shapes."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        created = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        complete(created)
        assert created.status == "pending_payment"
        assert created.checkout_url
        assert created.current_period is None
        complete(sdk.subscriptions.get(created.id))
        complete(sdk.subscriptions.list(customer_id="usr_1"))

    def test_active(self, sdk: Commet, complete: Complete, subscribed: str) -> None:
        """An active subscription has its period, price and use."""
        active = sdk.subscriptions.get_active(customer_id="usr_1")
        assert active is not None
        complete(active)
        assert active.id == subscribed
        assert active.status == "active"
        assert active.plan is not None
        assert active.plan.base_price == 2900
        assert active.current_period is not None
        assert active.next_billing_date == active.current_period.end
        assert active.checkout_url is None

    def test_cancel_and_uncancel(self, sdk: Commet, complete: Complete, subscribed: str) -> None:
        """A scheduled cancellation shows, and can be taken back."""
        canceled = sdk.subscriptions.cancel(subscribed, reason="too expensive")
        complete(canceled)
        assert canceled.status == "active"
        assert canceled.cancel_at_period_end
        assert canceled.cancellation is not None
        assert canceled.cancellation.reason == "too expensive"
        assert canceled.current_period is not None
        assert canceled.cancellation.effective_at == canceled.current_period.end
        back = sdk.subscriptions.uncancel(subscribed)
        complete(back)
        assert not back.cancel_at_period_end
        assert back.cancellation is None

    def test_recover_and_reactivate(
        self, sdk: Commet, complete: Complete, subscribed: str, server: StandIn
    ) -> None:
        """What is owed can be paid, what has ended can begin again."""
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=31)
        complete(sdk.subscriptions.create_recovery_link(subscribed))
        sdk.subscriptions.cancel(subscribed)
        server.control.set_card("usr_1", charge_failure=None)
        complete(sdk.subscriptions.reactivate(subscribed))
        complete(sdk.subscriptions.get(subscribed))

    def test_update_payment_method(self, sdk: Commet, complete: Complete, subscribed: str) -> None:
        """A checkout session."""
        complete(sdk.subscriptions.update_payment_method(subscribed))

    def test_null_when_there_is_none(self, sdk: Commet, last_answer: LastAnswer) -> None:
        """No relationship is JSON null, not an error."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        assert sdk.subscriptions.get_active(customer_id="usr_1") is None
        assert last_answer() is None


@pytest.mark.usefixtures("subscribed")
class TestUsage:
    def test_track(self, sdk: Commet, last_answer: LastAnswer, complete: Complete) -> None:
        """A usage event keeps its fraction, its id and its labels."""
        event = sdk.usage.track(
            feature_code="storage",
            customer_id="usr_1",
            value=1.5,
            event_id="upload_1",
            properties=[{"property": "bucket", "value": "eu"}],  # type: ignore[list-item]
        )
        complete(event)
        assert event.value == 1.5
        assert event.event_id == "upload_1"
        assert last_answer()["properties"] == [{"property": "bucket", "value": "eu"}]

    def test_check(self, sdk: Commet, last_answer: LastAnswer) -> None:
        """The SDK leaves this answer a dictionary; its keys are held against the type."""
        sdk.usage.check(customer_id="usr_1", feature_code="storage", quantity=60)
        raw = last_answer()
        required = {
            "allowed", "subscriptionStatus", "featureCode", "quantity", "consumptionModel",
            "current", "remaining", "unlimited", "included", "overageEnabled",
            "overageUnitPrice", "object", "livemode",
        }  # fmt: skip
        assert raw.keys() == required
        assert raw["allowed"] is True
        assert raw["remaining"] == 100

    def test_set(self, sdk: Commet, complete: Complete) -> None:
        """Setting the total tells the difference."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=10)
        adjusted = sdk.usage.set(
            customer_id="usr_1", feature_code="storage", value=7, reason="recount"
        )
        complete(adjusted)
        assert (adjusted.previous_value, adjusted.adjustment, adjusted.value) == (10, -3, 7)

    def test_feature_access(self, sdk: Commet, complete: Complete) -> None:
        """Access to each feature, one by one and as a list."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=44)
        access = storage(sdk)
        complete(access)
        assert access.consumption.units_used == 44
        assert access.consumption.remaining_units == 56
        both = sdk.feature_access.list(customer_id="usr_1")
        complete(both)
        assert [item.code for item in both.data] == ["storage", "priority_support"]


@pytest.mark.usefixtures("subscribed")
class TestBilling:
    def test_invoices(self, sdk: Commet, complete: Complete) -> None:
        """The first invoice is paid and has the plan's line."""
        invoices = sdk.invoices.list(customer_id="usr_1")
        complete(invoices)
        invoice = sdk.invoices.get(invoices.data[0].id)
        complete(invoice)
        assert invoice.status == "paid"
        assert invoice.total == 2900
        assert [line.line_type for line in invoice.line_items] == ["plan_base"]
        complete(sdk.invoices.get_download_url(invoice.id))

    def test_portal(self, sdk: Commet, complete: Complete, server: StandIn) -> None:
        """A portal address of ours, by either identifier."""
        access = sdk.portal.get_url(customer_id="usr_1", return_url="https://app.example.com")
        complete(access)
        assert access.portal_url.startswith(f"{server.public_url}/portal/")
        assert sdk.portal.get_url(email="ana@example.com").portal_url != access.portal_url


class TestWebhookEndpoints:
    def test_lifecycle(
        self, sdk: Commet, last_answer: LastAnswer, complete: Complete, webhooks: Receiver
    ) -> None:
        """Create shows the secret once; the rest never does."""
        created = sdk.webhooks.create(
            url=webhooks.url, events=["customer.created"], description="ours"
        )
        complete(created)
        assert created.secret_key.startswith("whsec_")
        assert created.api_version == "2026-08-27"
        fetched = sdk.webhooks.get(created.id)
        complete(fetched)
        assert "secretKey" not in last_answer()
        updated = sdk.webhooks.update(created.id, events=["customer.updated"], is_active=False)
        complete(updated)
        assert updated.events == ["customer.updated"]
        assert not updated.is_active
        complete(sdk.webhooks.list())
        gone = sdk.webhooks.delete(created.id)
        complete(gone)
        assert gone.deleted
        assert sdk.webhooks.list().data == []

    def test_test_delivery(self, sdk: Commet, complete: Complete, webhooks: Receiver) -> None:
        """A test event reaches the endpoint, and the answer says whether it was taken."""
        endpoint = sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
        outcome = sdk.webhooks.test(endpoint.id)
        complete(outcome)
        assert outcome.success
        assert len(webhooks.received) == 1
        webhooks.default = 500
        assert not sdk.webhooks.test(endpoint.id).success


class TestTestClock:
    @pytest.mark.usefixtures("subscribed")
    def test_advance(self, sdk: Commet, complete: Complete, server: StandIn) -> None:
        """Advancing answers at once with a run, whose end the clock shows."""
        before = sdk.test_clock.get()
        complete(before)
        assert before.simulated_time is None
        run = sdk.test_clock.advance(advance_days=31)
        complete(run)
        server.control.settle()
        after = sdk.test_clock.get()
        complete(after)
        assert after.latest_run is not None
        assert after.latest_run.id == run.id
        assert after.latest_run.status == "completed"
        assert [item.outcome for item in after.latest_run.items] == ["notified", "paid"]
        assert after.now >= run.target_time
