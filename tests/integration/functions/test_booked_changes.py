"""What becomes of usage around the end of a plan for which a change to another plan is booked."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import wiring
from standin.testing import StandIn
from tests.integration.functions.test_api import environment  # noqa: F401 - a fixture
from tests.integration.functions.test_debts import _shop, box  # noqa: F401 - fixtures
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
