"""What the stand-in does where the sources disagree, and that no parameter is passed over."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from commet import Commet, CommetAPIError

from standin.testing import StandIn, receiver, standin
from tests.standin.contract.conftest import connect, storage
from tests.standin.contract.test_payments import refused

Call = Callable[[Commet], Any]


def order(sdk: Commet, plan_code: str = "usage_pro", **more: Any) -> Any:
    return sdk.subscriptions.create(customer_id="usr_1", plan_code=plan_code, **more)


@pytest.fixture
def ana(sdk: Commet) -> str:
    return sdk.customers.create(email="ana@example.com", id="usr_1").id


@pytest.mark.usefixtures("ana")
class TestCreateParameters:
    @pytest.mark.parametrize(
        ("more", "code", "param"),
        [
            ({"prepaid_periods": 3}, "validation_error", "prepaidPeriods"),
            ({"initial_seats": {"editor": 2}}, "feature_not_found", "initialSeats"),
            ({"provider": "dlocal"}, "provider_unsupported", "provider"),
            ({"start_date": "2031-01-01T00:00:00Z"}, "validation_error", "startDate"),
            ({"card_promotion_id": "cpr_1"}, "card_promotions_not_available", "cardPromotionId"),
            ({"offer_id": "ofr_1"}, "offer_not_found", "offerId"),
            ({"promo_code": "X"}, "promo_code_not_found", "promoCode"),
            ({"custom_trial_days": 7, "skip_trial": True}, "validation_error", "body"),
            ({"offer_id": "ofr_1", "promo_code": "X"}, "validation_error", "body"),
            (
                {"custom_trial_days": 7, "cancel_at_period_end": True},
                "validation_error",
                "body",
            ),
            (
                {"price_id": "pp_usagepro_m", "billing_interval": "yearly"},
                "validation_error",
                "billingInterval",
            ),
            ({"plan_code": "free", "custom_trial_days": 7}, "validation_error", "customTrialDays"),
            (
                {"plan_code": "free", "cancel_at_period_end": True},
                "validation_error",
                "cancelAtPeriodEnd",
            ),
            ({"plan_code": "free", "price_id": "pp_1"}, "price_not_found", "priceId"),
            ({"plan_code": "free", "prepaid_periods": 2}, "validation_error", "prepaidPeriods"),
        ],
    )
    def test_what_cannot_be_honoured_is_refused(
        self, sdk: Commet, more: dict[str, Any], code: str, param: str
    ) -> None:
        """By name, and nothing is created."""
        with pytest.raises(CommetAPIError) as caught:
            order(sdk, **more)
        assert (caught.value.code, caught.value.param) == (code, param)
        assert sdk.subscriptions.list(customer_id="usr_1").data == []

    def test_what_changes_nothing_is_accepted(self, sdk: Commet, server: StandIn) -> None:
        """Today, one period, our provider, no seats."""
        made = order(
            sdk,
            prepaid_periods=1,
            initial_seats={},
            provider="stripe",
            start_date=server.control.now().isoformat(),
        )
        assert made.status == "pending_payment"

    def test_no_trial_days_mean_no_trial(self, tmp_path: Any) -> None:
        """Also where the price has some; and so does an end at the end of the period."""
        from tests.standin.contract.catalogues import with_price

        with (
            standin(catalogue=with_price(tmp_path, "usage_pro", 0, trialDays=14)) as server,
            connect(server) as sdk,
        ):
            sdk.customers.create(email="ana@example.com", id="usr_1")
            for more in ({"custom_trial_days": 0}, {"cancel_at_period_end": True}):
                server.control.pay(order(sdk, **more).id)
                active = sdk.subscriptions.get_active(customer_id="usr_1")
                assert active is not None
                assert active.status == "active"
                sdk.subscriptions.cancel(active.id, immediate=True)

    @pytest.mark.parametrize(
        "call",
        [
            lambda c, s: c.subscriptions.change_plan(s, new_plan_id="x", offer_id="ofr_1"),
            lambda c, s: c.subscriptions.preview_change(s, plan_id="x", offer_id="ofr_1"),
            lambda c, s: c.subscriptions.reactivate(s, offer_id="ofr_1"),
        ],
    )
    def test_an_offer_is_unknown_everywhere(self, sdk: Commet, call: Any) -> None:
        sub = order(sdk)
        assert refused(lambda: call(sdk, sub.id)) == ("offer_not_found", 404)

    @pytest.mark.parametrize(
        ("more", "field"),
        [({"id": "a", "external_id": "b"}, "body"), ({"address_id": "x"}, "addressId")],
    )
    def test_of_customers(self, sdk: Commet, more: dict[str, Any], field: str) -> None:
        """Two ids that differ, and an address that nobody knows."""
        with pytest.raises(CommetAPIError) as caught:
            sdk.customers.create(email="b@example.com", **more)
        assert (caught.value.code, caught.value.param) == ("validation_error", field)


class TestFreePlans:
    def test_have_no_invoices(self, sdk: Commet, server: StandIn, ana: str) -> None:
        """Neither at the start nor when the month turns; the allowance is fresh all the same."""
        assert ana
        order(sdk, "free")
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=5)
        server.control.advance(days=62)
        assert storage(sdk).consumption.units_used == 0
        assert sdk.invoices.list().data == []
        told = {e["event"] for e in server.control.events()}
        assert not told & {"invoice.created", "subscription.activated", "payment.received"}

    def test_are_not_reactivated(self, sdk: Commet, ana: str) -> None:
        """The answer would have to name an invoice."""
        assert ana
        sub = order(sdk, "free")
        sdk.subscriptions.cancel(sub.id)
        assert refused(lambda: sdk.subscriptions.reactivate(sub.id)) == (
            "invalid_subscription_status",
            409,
        )


class TestVersions:
    @pytest.mark.parametrize("asked", ["banana", "2020-01-01", "2026-08-27"])
    def test_every_one_is_answered_as_the_current_one(self, server: StandIn, asked: str) -> None:
        """And never echoed."""
        headers = {"x-api-key": server.api_key, "Commet-Version": asked}
        for answer in (
            httpx.get(f"{server.base_url}/plans", headers=headers),
            httpx.get(f"{server.base_url}/nowhere", headers=headers),
        ):
            assert answer.headers["Commet-Version"] == "2026-08-27"

    def test_of_webhooks(self, sdk: Commet, server: StandIn) -> None:
        """Pinned to what does not exist, an endpoint gets the current one."""
        with receiver() as box:
            made = sdk.webhooks.create(
                url=box.url, events=["customer.created"], api_version="banana"
            )
            assert made.api_version == "2026-08-27"
            changed = sdk.webhooks.update(made.id, api_version="2020-01-01")
            assert changed.api_version == "2026-08-27"
            sdk.customers.create(email="a@example.com")
            server.control.settle()
            assert box.received[0].json["apiVersion"] == "2026-08-27"


class TestDeclinedCheckout:
    def test_can_send_its_event(self) -> None:
        """By a switch: the checkout is where it can be paid."""
        with standin(declined_checkout="event") as server, connect(server) as sdk:
            sdk.customers.create(email="ana@example.com", id="usr_1")
            sub = order(sdk)
            with pytest.raises(httpx.HTTPStatusError):
                server.control.pay(sub.id, card_number="4000000000000002")
            failed = server.control.events("payment.failed")[0]["data"]
            assert failed["failureCode"] == "card_declined"
            assert failed["recoveryUrl"] == sub.checkout_url
            assert failed["paymentContext"]["reason"] == "first_subscription_payment"


class TestPendingAccess:
    def test_is_none_by_default(self, sdk: Commet, ana: str) -> None:
        assert ana
        order(sdk)
        assert refused(lambda: storage(sdk)) == ("no_active_subscription", 404)
        assert sdk.feature_access.list(customer_id="usr_1").data == []

    def test_can_be_shown_as_denied(self) -> None:
        """By a switch: the features of the plan, complete, and none allowed."""
        with standin(pending_access="denied") as server, connect(server) as sdk:
            sdk.customers.create(email="ana@example.com", id="usr_1")
            assert refused(lambda: storage(sdk)) == ("no_active_subscription", 404)
            sub = order(sdk, "usage_max")
            found = sdk.feature_access.list(customer_id="usr_1").data
            assert [(f.code, f.allowed) for f in found] == [
                ("storage", False),
                ("priority_support", False),
            ]
            assert storage(sdk).consumption.included_units == 1000
            track = lambda: sdk.usage.track(feature_code="storage", customer_id="usr_1")  # noqa: E731
            assert refused(track) == ("no_active_subscription", 404)
            server.control.pay(sub.id)
            assert storage(sdk).allowed
            assert storage(sdk).consumption.units_used == 0


class TestLinkedEmails:
    def test_an_address_finds_its_customer(self) -> None:
        """By a switch: the same customer, who moves to the id that was asked for last."""
        with standin(repeated_email="link") as server, connect(server) as sdk:
            first = sdk.customers.create(email="ana@example.com", id="usr_1")
            again = sdk.customers.create(email="ana@example.com", id="usr_2")
            assert (again.id, again.external_id) == (first.id, "usr_2")
            assert sdk.customers.list(external_id="usr_1").data == []
            told = server.control.events("customer.updated")
            assert [e["data"]["externalId"] for e in told] == ["usr_2"]
            nobody = sdk.customers.create(email="ana@example.com")
            assert (nobody.id, nobody.external_id) == (first.id, "usr_2")
            assert len(server.control.events("customer.created")) == 1

    def test_one_from_the_dashboard_gets_an_id(self) -> None:
        """Made without one, found by the address."""
        with standin(repeated_email="link") as server, connect(server) as sdk:
            made = sdk.customers.create(email="ana@example.com")
            linked = sdk.customers.create(email="ana@example.com", id="usr_1")
            assert (linked.id, linked.external_id) == (made.id, "usr_1")
            order(sdk)
            assert server.control.customer("usr_1")["subscriptions"]


@pytest.mark.usefixtures("subscribed")
def test_a_set_total_is_told_in_whole_numbers(sdk: Commet, server: StandIn) -> None:
    """The contract has integers there; what is counted stays exact."""
    sdk.usage.track(feature_code="storage", customer_id="usr_1", value=30.5)
    headers = {"x-api-key": server.api_key}
    body = {"customerId": "usr_1", "featureCode": "storage", "value": 7}
    answer = httpx.put(f"{server.base_url}/usage", json=body, headers=headers).json()
    told = (answer["previousValue"], answer["value"], answer["adjustment"])
    assert told == (31, 7, -24)
    assert all(isinstance(number, int) for number in told)
    assert storage(sdk).consumption.units_used == 7


def test_a_card_tells_its_country(sdk: Commet, server: StandIn, ana: str) -> None:
    """Test cards of every country pay, also the two whose check digit is wrong."""
    for number, country in (("4000002760000016", "DE"), ("4000007600000002", "BR")):
        sub = order(sdk)
        server.control.pay(sub.id, card_number=number)
        assert server.control.customer(ana)["customer"]["card"]["country"] == country
        sdk.subscriptions.cancel(sub.id, immediate=True)


def test_a_late_start_date_is_a_day(sdk: Commet, server: StandIn, ana: str) -> None:
    """Any time of today will do, none of tomorrow."""
    assert ana
    today = server.control.now().replace(hour=0, minute=0)
    assert order(sdk, start_date=today.isoformat())
    tomorrow = (today + timedelta(days=1)).isoformat()
    assert refused(lambda: order(sdk, start_date=tomorrow)) == ("validation_error", 400)
