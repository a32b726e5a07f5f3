"""Changing plans through POST /checkout: shown, confirmed, and performed once."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from billing import wiring
from billing.accounts.accounts import User
from billing.deadline import Deadline
from billing.errors import Conflict
from billing.subscriptions.plan_changes import PlanChanges
from standin.testing import Receiver, StandIn
from tests.integration.billing.conftest import own_database
from tests.integration.functions.calling import Answer, call
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    environment,
    signed_up,
)
from tests.integration.functions.test_debts import (
    Person as Payer,
)
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    _shop,
    box,
    remote,
)

pytestmark = pytest.mark.handlers


class Person(Payer):
    """Somebody who pays for `usage_pro` monthly, and asks for other plans."""

    def change(self, plan: str, confirmation: str | None = None, **fields: Any) -> Answer:
        body = {"plan_code": plan, "confirmation": confirmation} | fields
        return call("POST", "/checkout", body, token=self._token)

    def dashboard(self) -> dict[str, Any]:
        answer: dict[str, Any] = call("GET", "/dashboard", token=self._token).json
        return answer


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:  # noqa: F811
    return Person(remote, box)


class FreePerson(Person):
    """Somebody on the free plan."""

    def __init__(self, remote: StandIn, box: Receiver) -> None:  # noqa: F811
        self._remote, self._box, self._taken = remote, box, 0
        up = signed_up().json
        self.id = str(up["user"]["id"])
        self._token = up["session"]["token"]
        self.subscription = self.checkout("free").json["subscription"]["id"]
        self.hear()


@pytest.fixture
def free_person(remote: StandIn, box: Receiver) -> FreePerson:  # noqa: F811
    return FreePerson(remote, box)


def asked(remote: StandIn) -> list[dict[str, Any]]:  # noqa: F811
    """The bodies with which Commet was asked to change a plan."""
    return [each["body"] for each in remote.control.requests(method="POST", path="/change-plan")]


class TestBooked:
    """A change that waits for the end of the period is in the dashboard until it happens."""

    def scheduled(self, person: Person) -> Any:
        return person.dashboard()["subscription"]["scheduled_change"]

    def book(self, person: Person, plan: str = "free") -> None:
        shown = person.change(plan).json["change"]
        assert person.change(plan, shown["confirmation"]).json["change"]["state"] == "scheduled"

    def test_is_shown_until_it_happens(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        assert self.scheduled(person) is None
        self.book(person)
        end = person.dashboard()["subscription"]["current_period"]["end"]
        booked = {
            "plan": {"id": "pln_free", "name": "Free"}, "interval": None, "effective_at": end
        }  # fmt: skip
        assert self.scheduled(person) == booked  # by the answer, before any webhook
        assert "subscription.plan_change_scheduled" in person.hear()
        assert self.scheduled(person) == booked
        assert person.run(command="show", user=person.id)["subscriptions"][0]["scheduled_change"]
        remote.control.advance(days=32)
        assert "subscription.plan_changed" in person.hear()
        person.sign_in()
        person.run()
        seen = person.dashboard()["subscription"]
        assert (seen["plan"]["id"], seen["scheduled_change"]) == ("pln_free", None)

    def test_by_webhooks_alone(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        """Booked in the portal, and replaced by an upgrade."""
        body = {"newPlanId": "pln_free"}
        url = f"{remote.base_url}/subscriptions/{person.subscription}/change-plan"
        headers = {"x-api-key": remote.api_key}
        httpx.post(url, json=body, headers=headers).raise_for_status()
        assert "subscription.plan_change_scheduled" in person.hear()
        assert self.scheduled(person)["plan"] == {"id": "pln_free", "name": "Free"}
        httpx.post(url, json={"newPlanId": "pln_usagemax"}, headers=headers).raise_for_status()
        assert "subscription.plan_changed" in person.hear()
        assert self.scheduled(person) is None


class TestUpgrade:
    def test_is_shown_and_then_performed_once(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        """130 GB are used, so the change bills 30 of them, and the new price, with 19 % tax."""
        assert person.use(130).status == 202
        shown = person.change("usage_max")
        assert shown.status == 200
        change = shown.json["change"]
        # (99.00 for the new month - 29.00 for the old one, not begun + 3.00) and 19 % of it.
        assert (change["state"], change["due_now"], change["credit"]) == (
            "preview", "86.87", "29.00"
        )  # fmt: skip
        assert (change["then_amount"], change["then_interval"]) == ("99.00", "monthly")
        assert change["effective_at"] is None
        assert asked(remote) == []

        performed = person.change("usage_max", change["confirmation"])
        assert performed.status == 200
        assert performed.json["change"]["state"] == "completed"
        assert performed.json["change"]["due_now"] == "86.87"
        assert performed.json["subscription"]["plan"]["name"] == "Usage Max"
        assert asked(remote) == [{"newPlanId": "pln_usagemax", "newBillingInterval": "monthly"}]

        again = person.change("usage_max", change["confirmation"])
        assert again.json == performed.json
        assert len(asked(remote)) == 1
        assert person.dashboard()["usage"][0]["included"] == "1000"

    def test_what_is_gained_and_lost(self, person: Person) -> None:
        features = {f["code"]: f for f in person.change("usage_max").json["change"]["features"]}
        assert features["priority_support"]["change"] == "gained"
        storage = features["storage"]
        assert (storage["change"], storage["used_beyond"]) == ("changed", "0")
        assert storage["before"] == {
            "enabled": True, "included": "100", "unlimited": False, "overage_unit_price": "0.10"
        }  # fmt: skip
        assert storage["after"] == {
            "enabled": True, "included": "1000", "unlimited": False, "overage_unit_price": "0.08"
        }  # fmt: skip

    def test_the_longer_interval_of_the_same_plan(self, person: Person) -> None:
        change = person.change("usage_pro", billing_interval="yearly").json["change"]
        assert (change["then_amount"], change["then_interval"]) == ("290.00", "yearly")
        assert change["features"] == []

    @pytest.mark.parametrize("plans", [["usage_max"], ["usage_max", "free"]])
    def test_twenty_confirmations_at_once(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
        database_url: str,
        plans: list[str],
    ) -> None:
        """One change is performed. Whoever asks hears so, or that it is being performed.

        If the booking of a downgrade is first, an upgrade may follow: it replaces the booking.
        """
        shown = [(plan, person.change(plan).json["change"]["confirmation"]) for plan in plans]
        user = User(person.id, "ana@example.com", None)

        def confirm(number: int) -> str:
            plan, confirmation = shown[number % len(shown)]
            with own_database(database_url) as db:
                changes = PlanChanges(
                    db, wiring.commet(), wiring.clock(), lambda *_: True, currency="usd"
                )
                try:
                    return changes.perform(
                        user,
                        confirmation,
                        plan_code=plan,
                        billing_interval=None,
                        deadline=Deadline.after(20),
                    ).outcome
                except Conflict as conflict:
                    return conflict.code

        with ThreadPoolExecutor(8) as pool:
            outcomes = Counter(pool.map(confirm, range(20)))
        assert outcomes["completed"] + outcomes["scheduled"] >= 1
        assert set(outcomes) <= {
            "completed", "scheduled", "checkout_in_progress", "confirmation_expired"
        }  # fmt: skip
        assert len(asked(remote)) <= len(plans)
        assert len(remote.control.events("subscription.plan_changed")) <= 1

    def test_two_confirmations_perform_one_change(self, person: Person) -> None:
        """The second was shown for the plan that the user had before the first."""
        first = person.change("usage_max").json["change"]["confirmation"]
        second = person.change("usage_pro", billing_interval="yearly").json["change"]
        assert person.change("usage_max", first).status == 200
        late = person.change("usage_pro", second["confirmation"], billing_interval="yearly")
        assert (late.status, late.code) == (409, "confirmation_expired")

    def test_a_card_that_is_declined(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        confirmation = person.change("usage_max").json["change"]["confirmation"]
        remote.control.set_card(person.id, charge_failure="card_declined")
        for _ in range(2):
            refused = person.change("usage_max", confirmation)
            assert (refused.status, refused.code) == (402, "payment_failed")
        assert len(asked(remote)) == 1
        assert person.dashboard()["subscription"]["plan"]["name"] == "Usage Pro"


class TestDowngrade:
    def test_waits_for_the_end_of_the_period(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        """Nothing is charged; what was used beyond the smaller plan is told."""
        assert person.use(80).status == 202
        change = person.change("free").json["change"]
        end = person.dashboard()["subscription"]["current_period"]["end"]
        assert (change["due_now"], change["effective_at"]) == ("0.00", end)
        assert (change["then_amount"], change["then_interval"]) == ("0.00", None)
        [storage] = change["features"]
        assert (storage["used"], storage["used_beyond"]) == ("80", "75")
        performed = person.change("free", change["confirmation"]).json["change"]
        assert (performed["state"], performed["effective_at"]) == ("scheduled", end)
        assert person.dashboard()["access"] is True
        assert asked(remote) == [{"newPlanId": "pln_free"}]


class TestFreePlan:
    def test_buys_on_the_page_that_commet_asks_for(
        self,
        free_person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        bought = free_person.change("usage_pro", success_url=None)
        assert bought.status == 201
        assert bought.json["change"] is None
        assert bought.json["subscription"]["status"] == "active"
        assert bought.json["checkout_url"].startswith(remote.public_url)
        assert free_person.change("usage_pro").json["checkout_url"] == bought.json["checkout_url"]
        remote.control.pay(bought.json["subscription"]["id"])
        free_person.hear()
        assert free_person.dashboard()["subscription"]["plan"]["name"] == "Usage Pro"

    def test_is_charged_nothing_that_was_not_shown(
        self,
        free_person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        """The user has paid on another page, and our mirror does not know that yet."""
        bought = free_person.change("usage_pro")
        remote.control.pay(bought.json["subscription"]["id"])
        free_person.lose()
        wiring.database().execute("update users set asked_at = now()")
        before = len(asked(remote))
        late = free_person.change("usage_max")
        assert late.status in {200, 409}
        assert late.json.get("code") in {None, "confirmation_expired"}
        assert len(asked(remote)) == before


class TestRefusals:
    def test_the_plan_that_the_user_has(self, person: Person) -> None:
        refused = person.change("usage_pro")
        assert (refused.status, refused.code) == (409, "already_subscribed")

    def test_a_plan_that_is_not_offered_for_changes(self, person: Person) -> None:
        refused = person.change("fixed_box")
        assert (refused.status, refused.code) == (409, "plan_change_not_offered")

    def test_a_subscription_that_is_to_end(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        httpx.post(
            f"{remote.base_url}/subscriptions/{person.subscription}/cancel",
            headers={"x-api-key": remote.api_key}, json={},
        ).raise_for_status()  # fmt: skip
        person.hear()
        refused = person.change("usage_max")
        assert (refused.status, refused.code) == (409, "plan_change_not_possible")
        assert asked(remote) == []

    @pytest.mark.parametrize(
        "confirmation", ["chg_" + "x" * 22, "own of another user", "own of another plan", "old"]
    )
    def test_a_confirmation_that_is_not_good(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
        confirmation: str,
    ) -> None:
        if confirmation == "own of another user":
            confirmation = person.change("usage_max").json["change"]["confirmation"]
            other = signed_up().json["user"]["id"]
            wiring.database().execute("update plan_change set user_id = %s", [other])
        elif confirmation == "own of another plan":
            confirmation = person.change("free").json["change"]["confirmation"]
        elif confirmation == "old":
            confirmation = person.change("usage_max").json["change"]["confirmation"]
            wiring.database().execute("update plan_change set expires_at = now()")
        refused = person.change("usage_max", confirmation)
        assert (refused.status, refused.code) == (409, "confirmation_expired")
        assert asked(remote) == []

    def test_a_confirmation_that_is_malformed(self, person: Person) -> None:
        assert person.change("usage_max", "chg_\x00").status == 422

    def test_usage_that_cannot_be_delivered(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        """Commet would not bill what it does not know."""
        confirmation = person.change("usage_max").json["change"]["confirmation"]
        assert person.use(30).status == 202
        remote.control.fault(match={"path": "/usage/events"}, action={"status": 500}, times=None)
        refused = person.change("usage_max", confirmation)
        assert (refused.status, refused.code) == (503, "usage_pending")
        assert refused.headers["retry-after"]
        assert asked(remote) == []
        remote.control.clear_faults()
        wiring.database().execute("update usage_delivery set due_at = now()")
        assert person.change("usage_max", confirmation).status == 200

    def test_thirty_previews_an_hour(self, person: Person) -> None:
        statuses = [person.change("usage_max").status for _ in range(31)]
        assert statuses == [200] * 30 + [429]


class TestAnAnswerThatIsLost:
    def test_is_found_out_with_the_same_confirmation(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        """Commet has changed the plan, and its answer did not come: charged once."""
        confirmation = person.change("usage_max").json["change"]["confirmation"]
        remote.control.fault(
            match={"path": "*/change-plan"},
            action={"reset": "after"},
            times=None,
        )
        assert person.change("usage_max", confirmation).status in {502, 503}
        remote.control.clear_faults()
        wiring.database().execute("update plan_change set expires_at = now()")
        found = person.change("usage_max", confirmation)
        assert (found.status, found.json["change"]["state"]) == (200, "completed")
