"""Changing plans: what happens now, what waits, what it costs, and what is told."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from commet import Commet, CommetAPIError

from standin.testing import StandIn, standin
from tests.standin.contract.catalogues import with_price
from tests.standin.contract.conftest import connect, storage

PRO, MAX, FREE, FIXED = "pln_usagepro", "pln_usagemax", "pln_free", "pln_fixedbox"
CARD = {"card_number": "4242424242424242", "expiry": "12/34", "cvc": "123"}
Complete = Callable[[Any], Any]


def _names(server: StandIn, since: int) -> list[str]:
    return [event["event"] for event in server.control.events()[since:]]


def _refused(call: Callable[[], object]) -> tuple[str | None, int | None]:
    with pytest.raises(CommetAPIError) as caught:
        call()
    return caught.value.code, caught.value.status_code


def _half_a_period(server: StandIn, sdk: Commet, sub: str) -> tuple[int, int]:
    """Move on by 15 days; days remaining, today included, and days in the period."""
    server.control.advance(days=15)
    period: Any = sdk.subscriptions.get(sub).current_period
    total = (datetime.fromisoformat(period.end) - datetime.fromisoformat(period.start)).days
    return total - 15, total


class TestUpgrade:
    def test_charges_the_new_price_less_what_is_left(
        self, sdk: Commet, subscribed: str, server: StandIn, complete: Complete
    ) -> None:
        """Full new price, credit by days, usage so far: one invoice, and a period from today."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        remaining, total = _half_a_period(server, sdk, subscribed)
        credit = (2900 * remaining * 2 + total) // (2 * total)
        preview = complete(sdk.subscriptions.preview_change(subscribed, plan_id=MAX))
        assert (preview.current_plan_credit, preview.new_plan_charge) == (credit, 9900)
        assert (preview.days_remaining, preview.total_days) == (remaining, total)
        assert preview.estimated_total == 9900 + 300 - credit
        assert preview.is_upgrade

        before = len(server.control.events())
        changed: Any = complete(sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX))
        assert changed.outcome == "completed"
        assert (changed.previous_plan.id, changed.current_plan.id) == (PRO, MAX)
        assert (changed.billing.credit, changed.billing.charge) == (credit, 9900)
        assert changed.billing.total_charged == preview.estimated_total
        invoice = complete(sdk.invoices.get(changed.invoice_id))
        assert (invoice.invoice_type, invoice.status) == ("plan_change", "paid")
        assert [(line.line_type, line.amount) for line in invoice.line_items] == [
            ("plan_base", 9900),
            ("feature_overage", 300),
            ("credit", -credit),
        ]
        assert invoice.total == preview.estimated_total
        assert _names(server, before) == [
            "invoice.created",
            "payment.received",
            "subscription.plan_changed",
            "customer.state_changed",
        ]
        told = server.control.events("subscription.plan_changed")[0]["data"]
        assert (told["credit"], told["charge"]) == (credit, 9900)
        assert told["totalCharged"] == invoice.total
        assert server.control.events("customer.state_changed")[-1]["data"]["trigger"] == (
            "plan_change"
        )

    def test_begins_a_period_and_an_allowance_today(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """Counting starts anew, on the new plan's terms."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        server.control.advance(days=15)
        sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)
        sub: Any = sdk.subscriptions.get(subscribed)
        today = server.control.now().date().isoformat()
        assert sub.current_period.start[:10] == today
        assert (sub.plan.id, sub.plan.base_price, sub.name) == (MAX, 9900, "Usage Max")
        consumption = storage(sdk).consumption
        assert (consumption.units_used, consumption.included_units) == (0, 1000)

    def test_a_longer_interval_takes_effect_now(self, sdk: Commet, subscribed: str) -> None:
        """Also on the same plan."""
        changed: Any = sdk.subscriptions.change_plan(subscribed, new_billing_interval="yearly")
        assert (changed.outcome, changed.billing_interval) == ("completed", "yearly")
        assert changed.billing.total_charged == 29000 - 2900

    def test_interval_outranks_sort_order(self, sdk: Commet, subscribed: str) -> None:
        """Up in interval and down in plan is now; the reverse waits."""
        sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)
        now: Any = sdk.subscriptions.change_plan(
            subscribed, new_plan_id=PRO, new_billing_interval="yearly"
        )
        assert now.outcome == "completed"
        later: Any = sdk.subscriptions.change_plan(
            subscribed, new_plan_id=MAX, new_billing_interval="monthly"
        )
        assert (later.outcome, later.change_type) == ("scheduled", "subscription.interval_change")

    def test_the_credit_never_exceeds_the_charge(self, tmp_path: Path) -> None:
        """A higher plan may cost less; nothing is paid out, and usage is paid with the rest."""
        cheap = with_price(tmp_path, "usage_max", price=1000)
        with standin(catalogue=cheap) as server, connect(server) as sdk:
            sdk.customers.create(email="ana@example.com", id="usr_1")
            sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
            server.control.pay(sub.id)
            sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
            changed: Any = sdk.subscriptions.change_plan(sub.id, new_plan_id=MAX)
            assert (changed.billing.credit, changed.billing.total_charged) == (1300, 0)
            invoice = sdk.invoices.get(changed.invoice_id)
            assert [line.amount for line in invoice.line_items] == [1000, 300, -1300]
            assert (invoice.total, invoice.status) == (0, "paid")

    def test_a_declined_charge_changes_nothing(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """402; the attempt is told, its invoice is void, plan, period and usage stay."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        server.control.set_card("usr_1", charge_failure="insufficient_funds")
        before = sdk.subscriptions.get(subscribed)
        since = len(server.control.events())
        assert _refused(lambda: sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)) == (
            "charge_failed",
            402,
        )
        assert sdk.subscriptions.get(subscribed) == before
        assert _names(server, since) == ["invoice.created", "payment.failed", "invoice.voided"]
        failed = server.control.events("payment.failed")[0]["data"]
        assert failed["paymentContext"]["reason"] == "plan_change"
        assert failed["recoveryUrl"] is None
        assert storage(sdk).consumption.units_used == 130


class TestDowngrade:
    def test_waits_for_the_end_of_the_period(
        self, sdk: Commet, subscribed: str, server: StandIn, complete: Complete
    ) -> None:
        """Booked, shown, told; then the renewal is billed at the new price."""
        sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)
        before = len(server.control.events())
        booked: Any = complete(sdk.subscriptions.change_plan(subscribed, new_plan_id=PRO))
        assert (booked.outcome, booked.change_type, booked.new_plan_id) == (
            "scheduled",
            "subscription.plan_downgrade",
            PRO,
        )
        sub: Any = complete(sdk.subscriptions.get(subscribed))
        assert sub.plan.id == MAX
        assert sub.scheduled_plan_change.new_plan_name == "Usage Pro"
        assert sub.scheduled_plan_change.scheduled_for == sub.current_period.end
        assert _names(server, before) == ["subscription.plan_change_scheduled"]
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=1010)
        before = len(server.control.events())
        server.control.advance(days=31)
        assert _names(server, before) == [
            "invoice.upcoming",
            "invoice.created",
            "payment.received",
            "subscription.plan_changed",
            "customer.state_changed",
        ]
        after: Any = sdk.subscriptions.get(subscribed)
        assert (after.plan.id, after.scheduled_plan_change) == (PRO, None)
        assert sdk.invoices.list(customer_id="usr_1").data[0].total == 2900 + 80

    def test_its_preview_says_that_it_waits(self, sdk: Commet, subscribed: str) -> None:
        """There is nothing to prorate."""
        sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)
        assert _refused(lambda: sdk.subscriptions.preview_change(subscribed, plan_id=PRO)) == (
            "plan_change_scheduled",
            400,
        )

    def test_another_change_replaces_it(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """Revoked and scheduled; the same one again is refused; an upgrade revokes it, too."""
        sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)
        sdk.subscriptions.change_plan(subscribed, new_plan_id=PRO)
        assert _refused(lambda: sdk.subscriptions.change_plan(subscribed, new_plan_id=PRO)) == (
            "already_scheduled",
            409,
        )
        before = len(server.control.events())
        sdk.subscriptions.change_plan(subscribed, new_plan_id=FREE)
        assert _names(server, before) == [
            "subscription.plan_change_revoked",
            "subscription.plan_change_scheduled",
        ]
        revoked = server.control.events("subscription.plan_change_revoked")[0]["data"]
        assert revoked["revokedPlan"]["id"] == PRO
        before = len(server.control.events())
        sdk.subscriptions.change_plan(subscribed, new_billing_interval="yearly")
        assert "subscription.plan_change_revoked" in _names(server, before)
        assert sdk.subscriptions.get(subscribed).scheduled_plan_change is None

    def test_to_a_free_plan(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """At the end of the period; the overage is billed, then it is free."""
        booked: Any = sdk.subscriptions.change_plan(subscribed, new_plan_id=FREE)
        assert booked.outcome == "scheduled"
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        server.control.advance(days=31)
        free: Any = sdk.subscriptions.get(subscribed)
        assert (free.status, free.plan.id, free.billing_interval) == ("active", FREE, None)
        last = sdk.invoices.list(customer_id="usr_1").data[0]
        assert (last.invoice_type, last.total) == ("overage", 300)
        server.control.advance(days=62)
        assert len(sdk.invoices.list(customer_id="usr_1").data) == 2

    def test_a_declined_renewal_on_the_new_plan_is_past_due(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """The change happens all the same."""
        sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)
        sdk.subscriptions.change_plan(subscribed, new_plan_id=PRO)
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=31)
        sub: Any = sdk.subscriptions.get(subscribed)
        assert (sub.status, sub.plan.id) == ("past_due", PRO)
        told = server.control.events("subscription.plan_changed")[-1]["data"]
        assert (told["charge"], told["totalCharged"]) == (2900, 0)


class TestFromFree:
    @pytest.fixture
    def free(self, sdk: Commet) -> str:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        return sdk.subscriptions.create(customer_id="usr_1", plan_code="free").id

    def test_has_to_be_paid(
        self, sdk: Commet, free: str, server: StandIn, complete: Complete
    ) -> None:
        """A checkout; a refused card changes nothing; the same subscription is upgraded."""
        preview = complete(sdk.subscriptions.preview_change(free, plan_id=PRO))
        assert (preview.current_plan_credit, preview.estimated_total) == (0, 2900)
        asked: Any = complete(
            sdk.subscriptions.change_plan(
                free, new_plan_id=PRO, success_url="https://app.example.com/back"
            )
        )
        assert (asked.outcome, asked.requires_checkout) == ("requires_checkout", True)
        assert "$29.00" in httpx.get(asked.checkout_url).text
        refused = CARD | {"card_number": "4000000000000002"}
        assert httpx.post(asked.checkout_url, data=refused).status_code == 402
        assert sdk.subscriptions.get(free).plan.id == FREE  # type: ignore[union-attr]
        before = len(server.control.events())
        paid = httpx.post(asked.checkout_url, data=CARD)
        assert (paid.status_code, paid.headers["Location"]) == (303, "https://app.example.com/back")
        sub: Any = sdk.subscriptions.get(free)
        assert (sub.status, sub.plan.id, sub.billing_interval) == ("active", PRO, "monthly")
        assert sorted(_names(server, before)) == [
            "customer.state_changed",
            "invoice.created",
            "payment.received",
            "payment_method.attached",
            "subscription.plan_changed",
        ]
        assert "Payment received" in httpx.get(asked.checkout_url).text
        assert httpx.post(asked.checkout_url, data=CARD).status_code == 303
        assert len(sdk.invoices.list(customer_id="usr_1").data) == 1

    def test_the_link_is_kept_for_the_same_plan_only(
        self, sdk: Commet, free: str, server: StandIn
    ) -> None:
        """Another target kills the old link; so does the end of the subscription."""

        def url(plan: str) -> str:
            changed: Any = sdk.subscriptions.change_plan(free, new_plan_id=plan)
            return str(changed.checkout_url)

        first = url(PRO)
        assert url(PRO) == first
        second = url(MAX)
        assert second != first
        assert httpx.get(first).status_code == 404
        assert server.control.pay(free)["status"] == "active"
        assert sdk.subscriptions.get(free).plan.id == MAX  # type: ignore[union-attr]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "code", "status"),
        [
            ({}, "no_change_requested", 400),
            ({"new_plan_id": PRO}, "no_change_requested", 400),
            ({"new_billing_interval": "monthly"}, "no_change_requested", 400),
            ({"new_plan_id": "pln_none"}, "plan_not_found", 404),
            ({"new_plan_id": "usage_max"}, "plan_not_found", 404),
            ({"new_plan_id": FIXED}, "plans_not_in_same_group", 400),
            ({"new_billing_interval": "weekly"}, "price_not_found", 404),
            ({"new_billing_interval": "one_time"}, "validation_error", 400),
            (
                {"new_plan_id": FREE, "new_billing_interval": "monthly"},
                "free_plan_change_not_supported",
                400,
            ),
        ],
    )
    def test_requests(
        self, sdk: Commet, subscribed: str, change: dict[str, Any], code: str, status: int
    ) -> None:
        """What cannot be changed, and why."""
        assert _refused(lambda: sdk.subscriptions.change_plan(subscribed, **change)) == (
            code,
            status,
        )

    def test_previews(self, sdk: Commet, subscribed: str) -> None:
        """The same reasons, under the preview's own field names."""
        for plan, code in (
            (PRO, "no_change_requested"),
            (FIXED, "plans_not_in_same_group"),
            (FREE, "plan_change_scheduled"),
        ):
            preview = partial(sdk.subscriptions.preview_change, subscribed, plan_id=plan)
            assert _refused(preview) == (code, 400)

    def test_only_in_good_standing(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """Neither when it will end, nor when money is owed, nor after the end."""

        def upgrade() -> object:
            return sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)

        sdk.subscriptions.cancel(subscribed)
        assert _refused(upgrade) == ("invalid_subscription_status", 409)
        sdk.subscriptions.uncancel(subscribed)
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=31)
        assert _refused(upgrade) == ("subscription_not_active", 409)
        sdk.subscriptions.cancel(subscribed)
        assert _refused(upgrade) == ("subscription_not_active", 409)

    def test_a_cancellation_outranks_a_booked_change(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """It ends; nothing is left of the change."""
        sdk.subscriptions.change_plan(subscribed, new_plan_id=FREE)
        sdk.subscriptions.cancel(subscribed)
        server.control.advance(days=31)
        ended = sdk.subscriptions.get(subscribed)
        assert (ended.status, ended.scheduled_plan_change) == ("canceled", None)
        assert server.control.events("subscription.plan_changed") == []


class TestTrial:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[StandIn]:
        with standin(catalogue=with_price(tmp_path, "usage_pro", trialDays=14)) as running:
            yield running

    @pytest.fixture
    def sdk(self, server: StandIn) -> Iterator[Commet]:
        with connect(server) as client:
            yield client

    def test_an_upgrade_ends_it(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """The full price is charged at once: nothing was paid that could be credited."""
        before = len(server.control.events())
        changed: Any = sdk.subscriptions.change_plan(subscribed, new_plan_id=MAX)
        assert (changed.billing.credit, changed.billing.total_charged) == (0, 9900)
        sub = sdk.subscriptions.get(subscribed)
        assert (sub.status, sub.trial_ends_at) == ("active", None)
        assert {"trial.converted", "subscription.plan_changed"} < set(_names(server, before))
        last = server.control.events("customer.state_changed")[-1]["data"]
        assert (last["trigger"], last["status"]) == ("trial_converted", "active")

    @pytest.mark.parametrize(("target", "totals"), [(FREE, []), (PRO, [2900])])
    def test_a_downgrade_waits_for_its_end(
        self, sdk: Commet, server: StandIn, target: str, totals: list[int]
    ) -> None:
        """The trial is used up first."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(
            customer_id="usr_1", plan_code="usage_max", custom_trial_days=7
        )
        server.control.pay(sub.id)
        sdk.subscriptions.change_plan(sub.id, new_plan_id=target)
        server.control.advance(days=8)
        after: Any = sdk.subscriptions.get(sub.id)
        assert (after.status, after.plan.id) == ("active", target)
        assert [i.total for i in sdk.invoices.list(customer_id="usr_1").data] == totals
