"""What becomes of usage around the end of a plan for which a change to another plan is booked."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import wiring
from standin.testing import StandIn
from tests.integration.functions.calling import call
from tests.integration.functions.test_api import environment  # noqa: F401 - a fixture
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    KEY,
    _shop,
    box,
)
from tests.integration.functions.test_late_usage import (  # noqa: F401 - fixtures
    SECOND,
    Customer,
    customer,
    remote,
)

pytestmark = pytest.mark.handlers

HOUR = timedelta(hours=1)


def book(customer: Customer, plan: str = "pln_free") -> datetime:  # noqa: F811
    """Books a change to another plan. Returns when it takes effect."""
    path = f"/subscriptions/{customer.subscription}/change-plan"
    customer.commet("POST", path, {"newPlanId": plan})
    customer.hear()
    customer.run()
    row = wiring.database().one("select scheduled_change, period_end from subscriptions")
    assert row is not None
    assert row["scheduled_change"]["plan_id"] == plan
    end = row["period_end"]
    assert isinstance(end, datetime)
    return end


def ask_again() -> None:
    """A minute passes on the database's clock, so that Commet may be asked again."""
    wiring.database().execute(
        "update subscriptions set checked_at = checked_at - interval '1 minute',"
        " confirmed_at = confirmed_at - interval '1 minute'"
    )
    wiring.database().execute(
        "update users set asked_at = asked_at - interval '1 minute',"
        " answered_at = answered_at - interval '1 minute'"
    )


def plans() -> list[Any]:
    """The plan of each period, in the order in which the periods were opened."""
    return [
        r["plan_id"] for r in wiring.database().all("select plan_id from usage_period order by id")
    ]


class TestNobodyHeardOfTheChange:
    """Commet has changed the plan at the end of the period, and its webhooks are lost."""

    @pytest.fixture
    def left(self, customer: Customer, remote: StandIn) -> Customer:  # noqa: F811
        self.end = book(customer)
        assert customer.report(90, "in-time") == "accepted"
        customer.deliver()
        remote.control.advance(to=self.end + 40 * SECOND)
        customer.lose()
        ask_again()
        return customer

    def test_the_next_request_asks(self, left: Customer) -> None:
        """The free plan includes five: no new month of the old plan is opened."""
        assert left.report(6, "six") == "limit_reached"
        assert left.report(5, "five") == "accepted"
        assert plans() == ["pln_usagepro", "pln_free"]
        assert left.used() == "5"

    def test_commet_is_silent(self, left: Customer, remote: StandIn) -> None:  # noqa: F811
        """Nothing is accepted on the terms of a plan that may be over, and nothing is refused."""
        remote.control.fault(match={"method": "GET"}, action={"status": 503}, times=None)
        for passed in (timedelta(seconds=41), 20 * HOUR, 30 * HOUR):
            remote.control.advance(to=self.end + passed)
            ask_again()
            assert left.report(1, "now") == "access_unconfirmed"
            left.run()
        assert plans() == ["pln_usagepro"]
        remote.control.clear_faults()
        ask_again()
        assert left.report(1, "now") == "accepted"
        assert plans() == ["pln_usagepro", "pln_free"]

    def test_before_the_end_nothing_changes(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """Overage is sold until the plan ends."""
        end = book(customer)
        remote.control.advance(to=end - SECOND)
        assert customer.report(150, "over") == "accepted"


class TestTheChangeIsLate:
    def test_what_is_left_of_the_old_period(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """While Commet still says that the change is booked, there is no overage."""
        end = book(customer)
        assert customer.report(90, "in-time") == "accepted"
        customer.deliver()
        remote.control.advance(to=end - 5 * SECOND)
        past = end - 10 * SECOND
        # Commet keeps answering as before the end; only our clock goes on.
        wiring.database().execute(
            "update usage_period set ends_at = %(past)s where closed_at is null", {"past": past}
        )
        wiring.database().execute(
            "update subscriptions set period_end = %(past)s, scheduled_change = scheduled_change"
            " || jsonb_build_object('effective_at', %(past)s::timestamptz),"
            " checked_at = now(), confirmed_at = now()",
            {"past": past},
        )
        assert customer.report(11, "eleven") == "limit_reached"
        assert customer.report(10, "ten") == "accepted"
        assert plans() == ["pln_usagepro"]


class TestUsageBeforeTheChange:
    """The change to the free plan takes effect, and Commet refuses what it was not told before."""

    @pytest.fixture
    def ending(self, customer: Customer, remote: StandIn) -> datetime:  # noqa: F811
        """When the change takes effect; twenty seconds ahead."""
        end = book(customer)
        remote.control.advance(to=end - 20 * SECOND)
        return end

    def change(self, customer: Customer, remote: StandIn, end: datetime) -> None:  # noqa: F811
        """The change has taken effect, and we have heard of it."""
        remote.control.advance(to=end + 40 * SECOND)
        customer.hear()
        customer.run()
        ask_again()
        assert plans() == ["pln_usagepro", "pln_free"]

    def settle(self, customer: Customer) -> None:  # noqa: F811
        """Delivers and compares until nothing is left to do."""
        for _ in range(2):
            customer.deliver()
            customer.compare()

    def test_reported_in_time(self, customer: Customer, remote: StandIn, ending: datetime) -> None:  # noqa: F811
        """It is owed, as after a cancellation: 400 beyond the included hundred."""
        assert customer.report(500, "in-time") == "accepted"
        self.change(customer, remote, ending)
        self.settle(customer)
        assert customer.parked() == [("lost_to_cancellation", "5E+2", Decimal(40), True)]
        assert customer.debts() == [("lost_usage", Decimal(40), None)]
        assert customer.overage_billed() == 0
        assert customer.report(5, "free") == "accepted"
        assert customer.report(1, "more") == "limit_reached"

    def test_what_was_delivered_before(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """Commet billed the first 150; the rest is priced on top of them."""
        end = book(customer)
        assert customer.report(150, "early") == "accepted"
        customer.deliver()
        remote.control.advance(to=end - 20 * SECOND)
        assert customer.report(50, "in-time") == "accepted"
        self.change(customer, remote, end)
        self.settle(customer)
        assert customer.overage_billed() == 500
        assert customer.debts() == [("lost_usage", Decimal(5), None)]

    def test_reported_late(self, customer: Customer, remote: StandIn, ending: datetime) -> None:  # noqa: F811
        """Booked in the period that ended, for an hour; later it counts in the free period."""
        self.change(customer, remote, ending)
        assert customer.report(150, "late", ending - 10 * SECOND) == "accepted"
        entry = customer.entries()["late"]
        assert datetime.fromisoformat(entry["period"]["end"]) == ending
        assert customer.used() == "0"
        self.settle(customer)
        assert customer.parked() == [("lost_to_cancellation", "1.5E+2", Decimal(5), True)]
        remote.control.advance(to=ending + HOUR + SECOND)
        assert customer.report(150, "later", ending - 10 * SECOND) == "limit_reached"

    def test_the_ceiling_holds(self, customer: Customer, remote: StandIn, ending: datetime) -> None:  # noqa: F811
        """What was spent before the change counts: 14 dollars, and 15 are the limit."""
        wiring.database().execute("update users set spend_limit = 15")
        assert customer.report(240, "in-time") == "accepted"
        self.change(customer, remote, ending)
        moment = ending - 10 * SECOND
        assert customer.report(11, "over", moment) == "spend_limit_reached"
        assert customer.report(10, "within", moment) == "accepted"
        assert customer.report(1, "more", moment) == "spend_limit_reached"

    def test_a_feature_that_the_new_plan_lacks(
        self,
        customer: Customer,  # noqa: F811
        remote: StandIn,  # noqa: F811
        ending: datetime,
    ) -> None:
        """Usage from before the change is booked where it occurred; later usage is refused."""
        self.change(customer, remote, ending)
        wiring.database().execute(
            "update entitlements set allowed = false, included = 0, unlimited = false,"
            " overage_enabled = false"
        )
        wiring.database().execute("update subscriptions set refresh_due = null, checked_at = now()")
        assert customer.report(150, "late", ending - 10 * SECOND) == "accepted"
        assert list(customer.entries()) == ["late"]
        assert customer.report(1, "now") in ("feature_not_in_plan", "access_unconfirmed")

    def test_a_reservation(self, customer: Customer, remote: StandIn, ending: datetime) -> None:  # noqa: F811
        """It is confirmed in the period in which it was made; the free plan's five are free."""
        hold = {
            "user_id": customer.id, "feature": "storage", "quantity": "200",
            "idempotency_key": "job", "expires_in": 3600,
        }  # fmt: skip
        held = call("POST", "/usage/reservations", hold, token=KEY)
        assert held.status == 201
        self.change(customer, remote, ending)
        path = f"/usage/reservations/{held.json['id']}/confirm"
        assert call("POST", path, {"quantity": "200"}, token=KEY).status == 200
        entry = customer.entries()["job"]
        assert datetime.fromisoformat(entry["period"]["end"]) == ending
        self.settle(customer)
        assert customer.debts() == [("lost_usage", Decimal(10), None)]
        assert customer.report(5, "free") == "accepted"

    def test_a_correction_lowers_the_debt(
        self,
        customer: Customer,  # noqa: F811
        remote: StandIn,  # noqa: F811
        ending: datetime,
    ) -> None:
        """Nothing of it was billed, so nothing has to be given back, and less is owed."""
        assert customer.report(500, "in-time") == "accepted"
        self.change(customer, remote, ending)
        self.settle(customer)
        assert customer.correct(-300, "in-time").json["needs_credit"] is None
        self.settle(customer)
        open_debts = [debt for debt in customer.debts() if debt[2] is None]
        assert open_debts == [("lost_usage", Decimal(10), None)]

    def test_within_what_was_included(
        self,
        customer: Customer,  # noqa: F811
        remote: StandIn,  # noqa: F811
        ending: datetime,
    ) -> None:
        """The base price paid for it: nothing is owed."""
        assert customer.report(90, "in-time") == "accepted"
        self.change(customer, remote, ending)
        self.settle(customer)
        assert customer.parked() == [("lost_to_cancellation", "9E+1", Decimal(0), True)]
        assert [debt for debt in customer.debts() if debt[1]] == []


class TestAChangeToAPlanThatSellsIt:
    def test_late_usage_counts_in_the_running_period(
        self,
        remote: StandIn,  # noqa: F811
        box: Any,  # noqa: F811
    ) -> None:
        """Commet bills it there, so nothing is lost."""

        class OnMax(Customer):
            plan = "usage_max"

        customer = OnMax(remote, box)  # noqa: F811
        remote.control.advance(days=15)
        customer.hear()
        customer.run()
        end = book(customer, "pln_usagepro")
        remote.control.advance(to=end + 40 * SECOND)
        customer.hear()
        customer.run()
        ask_again()
        assert customer.report(150, "late", end - 10 * SECOND) == "accepted"
        entry = customer.entries()["late"]
        assert datetime.fromisoformat(entry["period"]["start"]) == end
        customer.deliver()
        assert customer.parked() == []


class TestReactivated:
    """Commet refused usage because nothing was active, and the subscription is active again."""

    def refused(self, customer: Customer) -> None:  # noqa: F811
        """The cancellation is not heard of before the reactivation."""
        assert customer.report(1000, "over") == "accepted"
        customer.cancel()
        customer.deliver()
        assert [row[0] for row in customer.parked()] == ["no_active_subscription"]

    def reactivate(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        customer.commet("POST", f"/subscriptions/{customer.subscription}/reactivate", {})
        remote.control.advance(seconds=5)
        customer.hear()

    def test_is_sent_again(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """Once Commet has confirmed that it is active, the usage is sent and billed."""
        self.refused(customer)
        self.reactivate(customer, remote)
        customer.run()
        customer.deliver()
        customer.deliver()
        assert customer.parked() == []
        customer.renew()
        assert customer.overage_billed() == 9000
        assert customer.debts() == []

    def test_not_before_commet_was_asked(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """A mirror that says "active" may only not have heard of the cancellation."""
        self.refused(customer)
        sent = len(remote.control.requests(method="POST", path="/usage/events"))
        assert sent > 0
        for _ in range(3):
            customer.deliver()
        assert len(remote.control.requests(method="POST", path="/usage/events")) == sent
        assert [row[0] for row in customer.parked()] == ["no_active_subscription"]

    def test_not_for_ever(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """If Commet goes on refusing, a person decides."""
        refusal = {"code": "no_active_subscription"}
        remote.control.fault(
            match={"method": "POST", "path": "/usage/events"}, action=refusal, times=None
        )
        assert customer.report(1000, "over") == "accepted"
        for _ in range(6):
            customer.deliver()
            ask_again()
            customer.run()
        generations = wiring.database().value("select max(generation) from usage_delivery")
        assert generations == 4
        assert [row[0] for row in customer.parked()] == ["no_active_subscription"]
