"""Counting usage: totals, limits, dedupe, thresholds, visibility."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest
from commet import Commet, CommetAPIError

from standin.testing import StandIn, standin
from tests.standin.contract.conftest import connect, storage


def _used(sdk: Commet) -> float:
    access = storage(sdk)
    return float(access.consumption.units_used)


def _on_plan(server: StandIn, sdk: Commet, plan: str) -> None:
    sdk.customers.create(email="ana@example.com", id="usr_1")
    sub = sdk.subscriptions.create(customer_id="usr_1", plan_code=plan)
    server.control.pay(sub.id)


class TestTrack:
    @pytest.mark.usefixtures("subscribed")
    def test_fractions_add_up_exactly(self, sdk: Commet) -> None:
        """Ten times 0.1 is 1, as no binary float would have it."""
        for _ in range(10):
            sdk.usage.track(feature_code="storage", customer_id="usr_1", value=0.1)
        assert _used(sdk) == 1.0

    @pytest.mark.usefixtures("subscribed")
    def test_a_repeated_event_id_counts_once(self, sdk: Commet) -> None:
        """The second is a conflict, and nothing is added."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=2, event_id="e1")
        with pytest.raises(CommetAPIError) as caught:
            sdk.usage.track(feature_code="storage", customer_id="usr_1", value=2, event_id="e1")
        assert (caught.value.code, caught.value.status_code) == ("duplicate", 409)
        assert _used(sdk) == 2

    def test_a_repeated_event_id_can_be_replayed_instead(self) -> None:
        """The other reading of the contract, by a switch."""
        with standin(repeated_event_id="replay") as server, connect(server) as sdk:
            _on_plan(server, sdk, "usage_pro")
            first = sdk.usage.track(
                feature_code="storage", customer_id="usr_1", value=2, event_id="e1"
            )
            again = sdk.usage.track(
                feature_code="storage", customer_id="usr_1", value=2, event_id="e1"
            )
            assert again == first
            assert _used(sdk) == 2

    @pytest.mark.usefixtures("subscribed")
    def test_a_boolean_feature_is_not_metered(self, sdk: Commet) -> None:
        """There is nothing to count."""
        with pytest.raises(CommetAPIError) as caught:
            sdk.usage.track(feature_code="priority_support", customer_id="usr_1")
        assert (caught.value.code, caught.value.status_code) == ("feature_disabled", 402)

    def test_no_access_no_usage(self, server: StandIn, sdk: Commet) -> None:
        """Neither while payment is pending nor after the end."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        with pytest.raises(CommetAPIError) as caught:
            sdk.usage.track(feature_code="storage", customer_id="usr_1")
        assert caught.value.code == "no_active_subscription"
        server.control.pay(sub.id)
        sdk.usage.track(feature_code="storage", customer_id="usr_1")
        sdk.subscriptions.cancel(sub.id, immediate=True)
        with pytest.raises(CommetAPIError) as caught:
            sdk.usage.track(feature_code="storage", customer_id="usr_1")
        assert caught.value.code == "no_active_subscription"


class TestOldTimestamps:
    def test_count_now(self, server: StandIn, sdk: Commet) -> None:
        """Unless told otherwise, an event counts in the allowance that is open."""
        _on_plan(server, sdk, "usage_pro")
        then = server.control.now().isoformat()
        server.control.advance(days=31)
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=3, timestamp=then)
        assert _used(sdk) == 3

    def test_can_count_where_they_belong(self) -> None:
        """By a switch: in the allowance of their time, which is billed and over."""
        with standin(usage_period="timestamp") as server, connect(server) as sdk:
            _on_plan(server, sdk, "usage_pro")
            then = server.control.now()
            server.control.advance(days=31)
            track = partial(sdk.usage.track, feature_code="storage", customer_id="usr_1", value=130)
            event = track(timestamp=then.isoformat())
            assert event.ts[:16] == then.isoformat()[:16]
            assert _used(sdk) == 0
            assert server.control.events("quota.exceeded") == []
            meters = server.control.state()["meters"]
            assert [Decimal(str(meter["used"])) for meter in meters] == [130]
            server.control.advance(days=31)
            assert {i.total for i in sdk.invoices.list(customer_id="usr_1").data} == {2900}
            with pytest.raises(CommetAPIError) as caught:
                track(timestamp=(then - timedelta(days=40)).isoformat())
            assert caught.value.code == "validation_error"


class TestLimits:
    def test_with_overage_off_the_limit_holds(self, server: StandIn, sdk: Commet) -> None:
        """Up to the limit, not a unit beyond; checks agree with it."""
        _on_plan(server, sdk, "fixed_box")
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=49.5)
        check = sdk.usage.check(customer_id="usr_1", feature_code="storage", quantity=1)
        assert check["allowed"] is False  # type: ignore[index]
        assert check["reason"] == "included_limit_reached"  # type: ignore[index]
        with pytest.raises(CommetAPIError) as caught:
            sdk.usage.track(feature_code="storage", customer_id="usr_1", value=1)
        assert (caught.value.code, caught.value.status_code) == ("included_limit_reached", 402)
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=0.5)
        assert _used(sdk) == 50
        assert not storage(sdk).allowed

    def test_concurrent_calls_do_not_pass_it(self, server: StandIn, sdk: Commet) -> None:
        """80 at once, 50 fit."""
        _on_plan(server, sdk, "fixed_box")

        def track(number: int) -> bool:
            try:
                sdk.usage.track(feature_code="storage", customer_id="usr_1", event_id=f"e{number}")
            except CommetAPIError as error:
                assert error.code == "included_limit_reached"  # noqa: PT017 - in a thread
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(track, range(80)))
        assert sum(taken) == 50
        assert _used(sdk) == 50

    @pytest.mark.usefixtures("subscribed")
    def test_with_overage_on_usage_goes_on(self, sdk: Commet) -> None:
        """Beyond the included amount it is counted as overage."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        access = storage(sdk)
        assert access.allowed
        assert access.consumption.overage.units == 30
        assert access.consumption.overage.unit_price.amount == 1000


class TestThresholds:
    @pytest.mark.usefixtures("subscribed")
    def test_each_is_told_once(self, sdk: Commet, server: StandIn) -> None:
        """At 80 %, and when the included amount is passed."""
        for value in (79, 1, 5, 16, 10):
            sdk.usage.track(feature_code="storage", customer_id="usr_1", value=value)
        reached = server.control.events("quota.threshold_reached")
        exceeded = server.control.events("quota.exceeded")
        assert [e["data"]["currentUsage"] for e in reached] == [80]
        assert [e["data"]["currentUsage"] for e in exceeded] == [101]
        assert exceeded[0]["data"]["overageEnabled"] is True

    @pytest.mark.usefixtures("subscribed")
    def test_a_jump_tells_only_the_second(self, sdk: Commet, server: StandIn) -> None:
        """From 0 to 130 in one event."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        assert server.control.events("quota.threshold_reached") == []
        assert len(server.control.events("quota.exceeded")) == 1

    def test_a_hard_limit_also_changes_the_state(self, server: StandIn, sdk: Commet) -> None:
        """With overage off, the entitlement is gone, and that is told."""
        _on_plan(server, sdk, "fixed_box")
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=50)
        assert server.control.events("quota.exceeded")[0]["data"]["overageEnabled"] is False
        last = server.control.events("customer.state_changed")[-1]["data"]
        assert last["trigger"] == "quota_exceeded"
        assert last["features"][0]["allowed"] is False


def test_usage_can_show_up_late() -> None:
    """With a lag, reads trail behind; the limit and the bill do not."""
    with standin(usage_lag=60) as server, connect(server) as sdk:
        _on_plan(server, sdk, "fixed_box")
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=50)
        assert _used(sdk) == 0
        with pytest.raises(CommetAPIError):
            sdk.usage.track(feature_code="storage", customer_id="usr_1", value=1)
        server.control.advance(seconds=61)
        assert _used(sdk) == 50
