"""Pausing and resuming: who may, what it keeps, what it costs, and what is told."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from commet import Commet, CommetAPIError, CommetValidationError

from standin.testing import StandIn, standin
from tests.standin.contract.catalogues import with_price
from tests.standin.contract.conftest import connect, storage

CARD = {"card_number": "4242424242424242", "expiry": "12/34", "cvc": "123"}
Complete = Callable[[Any], Any]


def _names(server: StandIn, since: int) -> list[str]:
    return [event["event"] for event in server.control.events()[since:]]


def _refused(call: Callable[[], object]) -> tuple[str | None, int | None]:
    with pytest.raises(CommetAPIError) as caught:
        call()
    return caught.value.code, caught.value.status_code


def _end(sdk: Commet, sub: str) -> datetime:
    period: Any = sdk.subscriptions.get(sub).current_period
    return datetime.fromisoformat(period.end)


class TestImmediate:
    def test_keeps_what_is_left_of_the_period(
        self, sdk: Commet, subscribed: str, server: StandIn, complete: Complete
    ) -> None:
        """No access meanwhile; resuming costs nothing and moves the renewal by the time away."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=42)
        server.control.advance(days=10)
        before, since = _end(sdk, subscribed), len(server.control.events())
        paused = complete(sdk.subscriptions.pause(subscribed, mode="immediate", duration_days=None))
        assert paused.status == "paused"
        assert (paused.pause.status, paused.pause.resume_at) == ("active", None)
        assert paused.next_billing_date is None
        left = paused.current_period.days_remaining
        assert _names(server, since) == ["subscription.paused", "customer.state_changed"]
        assert not storage(sdk).allowed
        assert _refused(lambda: sdk.usage.track(feature_code="storage", customer_id="usr_1")) == (
            "no_active_subscription",
            404,
        )
        server.control.advance(days=100)
        assert sdk.subscriptions.get(subscribed).current_period.days_remaining == left  # type: ignore[union-attr]
        since = len(server.control.events())
        resumed = complete(sdk.subscriptions.resume(subscribed))
        assert (resumed.status, resumed.invoice_id) == ("succeeded", None)
        assert _names(server, since) == ["subscription.resumed", "customer.state_changed"]
        assert timedelta(days=100) <= _end(sdk, subscribed) - before < timedelta(days=100, hours=1)
        assert storage(sdk).consumption.units_used == 42
        back = sdk.subscriptions.get(subscribed)
        assert (back.status, back.pause) == ("active", None)
        server.control.advance(days=left + 1)
        assert [i.total for i in sdk.invoices.list(customer_id="usr_1").data] == [2900, 2900]
        months = _end(sdk, subscribed) - datetime.fromisoformat(
            sdk.subscriptions.get(subscribed).current_period.start  # type: ignore[union-attr]
        )
        assert months >= timedelta(days=28)

    def test_ends_by_itself(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """After the days asked for, changed on the way."""
        sdk.subscriptions.pause(subscribed, mode="immediate", duration_days=7)
        server.control.advance(days=5)
        sdk.subscriptions.update_pause(subscribed, duration_days=14)
        server.control.advance(days=8)
        assert sdk.subscriptions.get(subscribed).status == "paused"
        server.control.advance(days=2)
        assert sdk.subscriptions.get(subscribed).status == "active"
        triggers = [
            e["data"]["trigger"] for e in server.control.events("customer.state_changed")[-2:]
        ]
        assert triggers == ["subscription_paused", "subscription_resumed"]
        assert len(sdk.invoices.list(customer_id="usr_1").data) == 1

    def test_the_credit_of_an_upgrade_ignores_the_time_away(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """What is left counts against the days that were paid for."""
        server.control.advance(days=10)
        total = sdk.subscriptions.preview_change(subscribed, plan_id="pln_usagemax")
        sdk.subscriptions.pause(subscribed, mode="immediate", duration_days=50)
        server.control.advance(days=51)
        after = sdk.subscriptions.preview_change(subscribed, plan_id="pln_usagemax")
        assert after.total_days == total.total_days
        assert after.days_remaining == total.days_remaining - 1

    def test_cancelling_discards_the_rest_and_bills_the_usage(
        self, sdk: Commet, subscribed: str
    ) -> None:
        """At once, whatever was asked for."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        sdk.subscriptions.pause(subscribed, mode="immediate", duration_days=None)
        ended = sdk.subscriptions.cancel(subscribed)
        assert (ended.status, ended.pause) == ("canceled", None)
        last = sdk.invoices.list(customer_id="usr_1").data[0]
        assert (last.invoice_type, last.total) == ("overage", 300)


class TestAtPeriodEnd:
    def test_can_be_changed_and_revoked(
        self, sdk: Commet, subscribed: str, server: StandIn, complete: Complete
    ) -> None:
        """Until it takes effect nothing else happens."""
        since = len(server.control.events())
        planned = complete(sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=30))
        assert (planned.status, planned.pause.status) == ("active", "scheduled")
        assert planned.pause.effective_at == planned.current_period.end
        assert planned.next_billing_date is None
        changed = complete(sdk.subscriptions.update_pause(subscribed, duration_days=None))
        assert changed.pause.resume_at is None
        back = complete(sdk.subscriptions.revoke_pause(subscribed))
        assert back.pause is None
        assert back.next_billing_date == back.current_period.end
        assert _names(server, since) == [
            "subscription.pause_scheduled",
            "subscription.pause_updated",
            "subscription.pause_revoked",
        ]
        server.control.advance(days=31)
        assert sdk.subscriptions.get(subscribed).status == "active"

    def test_skips_the_renewal_and_charges_on_resume(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """Usage is billed when the period ends; a new period is paid for when it comes back."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=None)
        since = len(server.control.events())
        server.control.advance(days=40)
        assert _names(server, since) == [
            "invoice.created",
            "payment.received",
            "subscription.paused",
            "customer.state_changed",
        ]
        assert storage(sdk).consumption.units_used == 0
        since = len(server.control.events())
        invoice = sdk.invoices.get(str(sdk.subscriptions.resume(subscribed).invoice_id))
        assert (invoice.invoice_type, invoice.total, invoice.status) == ("resume", 2900, "paid")
        assert _names(server, since) == [
            "invoice.created",
            "payment.received",
            "subscription.resumed",
            "customer.state_changed",
        ]
        received = server.control.events("payment.received")[-1]["data"]
        assert received["paymentContext"]["reason"] == "subscription_resume"
        sub: Any = sdk.subscriptions.get(subscribed)
        assert sub.status == "active"
        assert sub.current_period.start[:10] == server.control.now().date().isoformat()
        assert (invoice.period_start, invoice.period_end) == (
            sub.current_period.start,
            sub.current_period.end,
        )

    def test_usage_is_billed_once(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """Also when it is cancelled while paused."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=None)
        server.control.advance(days=40)
        sdk.subscriptions.cancel(subscribed)
        totals = [i.total for i in sdk.invoices.list(customer_id="usr_1").data]
        assert totals == [300, 2900]


@pytest.fixture
def stuck(sdk: Commet, subscribed: str, server: StandIn) -> str:
    """Paused at the end of its period, and the charge of its automatic resume was declined."""
    sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=5)
    server.control.set_card("usr_1", charge_failure="card_declined")
    server.control.advance(days=36)
    return subscribed


class TestDeclinedResume:
    def test_stays_paused_and_is_told(self, sdk: Commet, stuck: str, server: StandIn) -> None:
        """With an invoice that can be paid by hand."""
        assert sdk.subscriptions.get(stuck).status == "paused"
        failed = server.control.events("subscription.resume_failed")[0]["data"]
        invoice = sdk.invoices.get(failed["invoiceId"])
        assert (invoice.invoice_type, invoice.status) == ("resume", "outstanding")
        assert server.control.events("subscription.past_due") == []

    def test_retries_bring_it_back(self, sdk: Commet, stuck: str, server: StandIn) -> None:
        """They reuse the invoice; attempts by hand use up none of them."""
        assert _refused(lambda: sdk.subscriptions.resume(stuck)) == ("charge_failed", 402)
        server.control.set_card("usr_1", charge_failure=None)
        server.control.advance(days=2)
        assert sdk.subscriptions.get(stuck).status == "active"
        totals = [(i.invoice_type, i.status) for i in sdk.invoices.list(customer_id="usr_1").data]
        assert totals == [("resume", "paid"), ("recurring", "paid")]
        assert len(server.control.events("payment.recovered")) == 1

    def test_after_the_fourth_failure_it_ends(
        self, sdk: Commet, stuck: str, server: StandIn
    ) -> None:
        """Canceled, and the invoice is uncollectible."""
        server.control.advance(days=10)
        assert sdk.subscriptions.get(stuck).status == "canceled"
        assert len(server.control.events("subscription.resume_failed")) == 5
        assert sdk.invoices.list(customer_id="usr_1").data[0].status == "uncollectible"
        canceled = server.control.events("subscription.canceled")[0]["data"]
        assert canceled["cancelReason"] == "dunning_exhausted"

    def test_its_recovery_page_resumes_it(self, sdk: Commet, stuck: str, server: StandIn) -> None:
        """The link of the failed payment takes another card."""
        url = server.control.events("payment.failed")[0]["data"]["recoveryUrl"]
        refused = CARD | {"card_number": "4000000000000002"}
        assert httpx.post(url, data=refused).status_code == 402
        reason = server.control.events("payment.failed")[-1]["data"]["paymentContext"]["reason"]
        assert reason == "subscription_resume"
        assert httpx.post(url, data=CARD).status_code == 200
        assert sdk.subscriptions.get(stuck).status == "active"

    def test_cancelling_voids_it(self, sdk: Commet, stuck: str) -> None:
        """Nothing is owed after the end."""
        sdk.subscriptions.cancel(stuck)
        assert sdk.invoices.list(customer_id="usr_1").data[0].status == "void"


class TestRefusals:
    def test_who_may_not_pause(self, sdk: Commet, server: StandIn) -> None:
        """Free, unpaid, past due and canceled subscriptions."""
        sdk.customers.create(email="ana@example.com", id="usr_1")

        def pause(sub: str) -> tuple[str | None, int | None]:
            return _refused(
                lambda: sdk.subscriptions.pause(sub, mode="immediate", duration_days=None)
            )

        free = sdk.subscriptions.create(customer_id="usr_1", plan_code="free").id
        assert pause(free) == ("invalid_subscription_status", 409)
        sdk.subscriptions.cancel(free)
        assert pause(free) == ("invalid_subscription_status", 409)
        paid = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro").id
        assert pause(paid) == ("invalid_subscription_status", 409)
        server.control.pay(paid)
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=31)
        assert pause(paid) == ("invalid_subscription_status", 409)

    def test_scheduled_things_exclude_each_other(self, sdk: Commet, subscribed: str) -> None:
        """A cancellation, a plan change and a pause: one at a time."""

        def pause() -> object:
            return sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=None)

        conflict = ("invalid_subscription_status", 409)
        sdk.subscriptions.cancel(subscribed)
        assert _refused(pause) == conflict
        sdk.subscriptions.uncancel(subscribed)
        sdk.subscriptions.change_plan(subscribed, new_plan_id="pln_free")
        assert _refused(pause) == conflict

    def test_while_a_pause_is_scheduled(self, sdk: Commet, subscribed: str) -> None:
        """It has to be revoked before anything else is decided."""
        sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=None)
        conflict = ("invalid_subscription_status", 409)
        assert _refused(lambda: sdk.subscriptions.cancel(subscribed)) == conflict
        change = {"new_plan_id": "pln_usagemax"}
        assert _refused(lambda: sdk.subscriptions.change_plan(subscribed, **change)) == conflict  # type: ignore[arg-type]
        assert _refused(lambda: sdk.subscriptions.resume(subscribed)) == conflict
        assert _refused(
            lambda: sdk.subscriptions.pause(subscribed, mode="immediate", duration_days=None)
        ) == ("already_scheduled", 409)

    def test_while_paused(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """An effective pause is resumed, not revoked, and cannot end in the past."""
        sdk.subscriptions.pause(subscribed, mode="immediate", duration_days=None)
        server.control.advance(days=10)
        conflict = ("invalid_subscription_status", 409)
        assert _refused(lambda: sdk.subscriptions.revoke_pause(subscribed)) == conflict
        with pytest.raises(CommetValidationError) as caught:
            sdk.subscriptions.update_pause(subscribed, duration_days=9)
        assert "durationDays" in caught.value.validation_errors
        assert _refused(
            lambda: sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        ) == ("already_has_active_subscription", 409)
        assert _refused(
            lambda: sdk.subscriptions.change_plan(subscribed, new_plan_id="pln_usagemax")
        ) == ("subscription_not_active", 409)

    def test_without_a_pause(self, sdk: Commet, subscribed: str) -> None:
        """There is nothing to change, revoke or resume."""
        conflict = ("invalid_subscription_status", 409)
        for call in (
            lambda: sdk.subscriptions.update_pause(subscribed, duration_days=1),
            lambda: sdk.subscriptions.revoke_pause(subscribed),
            lambda: sdk.subscriptions.resume(subscribed),
        ):
            assert _refused(call) == conflict

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"mode": "immediate"}, "durationDays"),
            ({"mode": "immediate", "durationDays": 0}, "durationDays"),
            ({"mode": "immediate", "durationDays": "7"}, "durationDays"),
            ({"mode": "later", "durationDays": 7}, "mode"),
        ],
    )
    def test_requests(
        self, server: StandIn, subscribed: str, body: dict[str, object], field: str
    ) -> None:
        """The duration must be given, even if it is null."""
        answer = httpx.post(
            f"{server.base_url}/subscriptions/{subscribed}/pause",
            json=body,
            headers={"x-api-key": server.api_key},
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field


class TestTrial:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[StandIn]:
        with standin(catalogue=with_price(tmp_path, "usage_pro", trialDays=14)) as running:
            yield running

    @pytest.fixture
    def sdk(self, server: StandIn) -> Iterator[Commet]:
        with connect(server) as client:
            yield client

    def test_days_of_a_trial_are_kept(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """It goes on where it stopped, and is charged at its new end."""
        server.control.advance(days=4)
        sdk.subscriptions.pause(subscribed, mode="immediate", duration_days=30)
        server.control.advance(days=31)
        back = sdk.subscriptions.get(subscribed)
        assert back.status == "trialing"
        assert back.trial_ends_at == back.current_period.end  # type: ignore[union-attr]
        assert server.control.events("subscription.resumed")[0]["data"]["status"] == "trialing"
        server.control.advance(days=8)
        assert sdk.subscriptions.get(subscribed).status == "trialing"
        server.control.advance(days=2)
        assert sdk.subscriptions.get(subscribed).status == "active"

    def test_a_pause_at_its_end_postpones_the_first_charge(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """The trial is used up; resuming pays the first period."""
        sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=10)
        server.control.advance(days=15)
        assert sdk.subscriptions.get(subscribed).status == "paused"
        assert sdk.invoices.list(customer_id="usr_1").data == []
        server.control.advance(days=10)
        assert sdk.subscriptions.get(subscribed).status == "active"
        assert len(server.control.events("subscription.activated")) == 1
        assert [i.total for i in sdk.invoices.list(customer_id="usr_1").data] == [2900]
