"""Plans, checkout and portal through their handlers: what is asked for is what Commet is told."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from billing import wiring
from billing.clock import wall_clock
from billing.commet.call_budget import Budget
from billing.credentials.secrets import Secrets
from billing.database.connection import Database
from billing.usage.accepting import UsageEvent, accept
from billing.usage.rules import Rules
from standin.testing import StandIn
from tests.integration.billing.conftest import Subscribe
from tests.integration.conftest import Context
from tests.integration.functions.calling import ORIGIN, Answer, Store, call
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    Environment,
    counted,
    environment,
    signed_up,
)

pytestmark = pytest.mark.handlers

CARD = {"card_number": "4242424242424242", "expiry": "12/34", "cvc": "123"}


@pytest.fixture(autouse=True)
def shop(
    environment: Environment,  # noqa: F811
    remote: StandIn,
    migrated_url: str,
    shared: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], None]:
    """An environment that speaks to the stand-in for Commet, and sells for yen.

    Called with a number of calls to Commet per second, it is another one. Nothing is known of the
    currencies in which Commet charged the customers of other tests, nor of their plans.
    """
    shared.execute("delete from charged_currency")
    shared.execute("delete from plans_cache")

    def begin(calls_per_second: str) -> None:
        environment(
            COMMET_BASE_URL=remote.base_url,
            BILLING_CURRENCY="jpy",
            COMMET_CALLS_PER_SECOND=calls_per_second,
        )
        store = Store(migrated_url, [])
        store._values["commet"] = {"api_key": remote.api_key}
        secrets = Secrets(store)
        monkeypatch.setattr(wiring, "secrets", lambda: secrets)

    begin("1000")
    return begin


@pytest.fixture
def person() -> dict[str, Any]:
    """The answer to a sign-up."""
    answer: dict[str, Any] = signed_up().json
    return answer


def told(remote: StandIn, path: str) -> dict[str, Any]:
    """The body of the last POST to a path below the API."""
    body: dict[str, Any] = remote.control.requests(method="POST", path=path)[-1]["body"]
    return body


def checkout(person: dict[str, Any], **fields: Any) -> Answer:
    body = {"plan_code": "usage_pro"} | fields
    return call("POST", "/checkout", body, token=person["session"]["token"])


class TestPlans:
    def test_prices_are_in_the_currency_that_is_set(self) -> None:
        """2,900 smallest units of it are 29 dollars, and 2,900 yen."""
        plans = {plan["code"]: plan for plan in call("GET", "/plans").json["plans"]}
        assert [(p["amount"], p["currency"]) for p in plans["usage_pro"]["prices"]] == [
            ("2900", "jpy"),
            ("29000", "jpy"),
        ]
        storage = plans["usage_pro"]["features"][0]
        assert storage["overage"] == {
            "enabled": True,
            "unit_price": "0.1",
            "currency": "jpy",
        }

    def test_whoever_had_a_trial_sees_none(
        self, subscribe: Subscribe, person: dict[str, Any], shared: Database, remote: StandIn
    ) -> None:
        """Everybody else sees it, also with a session that has ended."""
        shared.execute("delete from plans_cache")
        remote.control.fault(match={"path": "/plans"}, action={"status": 500}, times=None)
        price = {"billing_interval": "monthly", "price": 2900, "trial_days": 14}
        plan = {"id": "pln_1", "code": "p", "name": "P", "prices": [price]}
        shared.execute(
            "insert into plans_cache (id, catalogue, as_of) values (1, %s, now())",
            [Jsonb([plan])],
        )
        token = person["session"]["token"]

        def days(token: str | None) -> int:
            answer = call("GET", "/plans", token=token)
            assert answer.status == 200
            found: int = answer.json["plans"][0]["prices"][0]["trial_days"]
            return found

        assert [days(None), days(token), days("ses_" + "0" * 64)] == [14, 14, 14]
        subscribe(person["user"]["id"], status="trialing")
        shared.execute("update subscriptions set status = 'canceled'")
        assert [days(None), days(token), days("ses_" + "0" * 64)] == [14, 0, 14]
        shared.execute("delete from plans_cache")


class TestCheckout:
    def test_all_that_is_asked_for(self, person: dict[str, Any], remote: StandIn) -> None:
        target = f"{ORIGIN}/thanks?for=you"
        answer = checkout(person, billing_interval="yearly", success_url=target)
        assert answer.status == 201
        asked = told(remote, "/subscriptions")
        assert (asked["planCode"], asked["billingInterval"]) == ("usage_pro", "yearly")
        assert asked["successUrl"] == target
        assert asked["customerId"] == person["user"]["id"]

    def test_who_names_no_address_comes_back_to_the_app(
        self, person: dict[str, Any], remote: StandIn
    ) -> None:
        assert checkout(person).status == 201
        assert told(remote, "/subscriptions")["successUrl"] == ORIGIN

    def test_one_that_is_still_to_be_paid(
        self, person: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The same one, and it was started once."""
        first, second = checkout(person), checkout(person)
        assert (first.status, second.status) == (201, 200)
        assert first.json == second.json
        assert counted(capsys)["CheckoutsStarted"] == 1


class TestPortal:
    @pytest.fixture
    def customer(self, person: dict[str, Any]) -> str:
        """The session of somebody whom Commet knows."""
        assert checkout(person).status == 201
        return str(person["session"]["token"])

    def test_a_visit(
        self, customer: str, remote: StandIn, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """To the page that Commet names, and from there back to the app."""
        capsys.readouterr()
        answer = call("GET", "/portal", token=customer)
        assert answer.status == 303
        assert answer.headers["location"].startswith(remote.public_url)
        assert told(remote, "/portal/sessions")["returnUrl"] == ORIGIN
        assert counted(capsys)["PortalVisits"] == 1

    def test_an_address_to_come_back_to(self, customer: str, remote: StandIn) -> None:
        target = f"{ORIGIN}/account"
        answer = call("POST", "/portal", {"return_url": target}, token=customer)
        assert answer.status == 201
        assert answer.json["portal_url"].startswith(remote.public_url)
        assert told(remote, "/portal/sessions")["returnUrl"] == target


class TestLeaving:
    """In the portal somebody may cancel at once, and Commet bills what it was told before."""

    @pytest.fixture
    def leaving(
        self, subscribe: Subscribe, person: dict[str, Any], shared: Database, remote: StandIn
    ) -> str:
        """The session of somebody who pays, whose usage has not been delivered."""
        begun = checkout(person).json
        user = person["user"]["id"]
        origin = {"Origin": remote.public_url}
        assert httpx.post(begun["checkout_url"], data=CARD, headers=origin).status_code < 400
        now = wall_clock()
        begins, ends = now - timedelta(days=1), now + timedelta(days=29)
        shared.execute("delete from subscriptions")
        subscribe(user, starts_at=begins, ends_at=ends)
        event = UsageEvent(user, "storage", Decimal(130), "k")
        (verdict,) = accept(
            shared, [event], rules=Rules({"active"}, {"usd": None}), now=wall_clock()
        )
        assert verdict.status == "accepted"
        return str(person["session"]["token"])

    def test_usage_is_delivered_first(self, leaving: str, remote: StandIn) -> None:
        assert call("POST", "/portal", token=leaving).status == 201
        told_usage = remote.control.requests(method="POST", path="/usage/events")
        told_portal = remote.control.requests(method="POST", path="/portal/sessions")
        assert told_usage[-1]["body"]["value"] == 130
        assert told_usage[-1]["at"] <= told_portal[-1]["at"]

    def test_a_link_is_given_whatever_came_of_it(self, leaving: str, remote: StandIn) -> None:
        """Usage that Commet does not take in two seconds is sent by the next run."""
        remote.control.fault(
            match={"path": "/usage/events"}, action={"latency_ms": 8_000}, times=None
        )
        assert call("POST", "/portal", token=leaving).status == 201
        (asked,) = remote.control.requests(method="POST", path="/portal/sessions")[-1:]
        assert asked["status"] == 201


class TestDebts:
    @pytest.mark.parametrize("plan", ["free", "usage_pro"])
    def test_a_debtor_is_told_where_to_pay(
        self, person: dict[str, Any], shared: Database, remote: StandIn, plan: str
    ) -> None:
        """Also for the free plan: with the amount, and a link at which it can be paid."""
        assert checkout(person).status == 201
        user = person["user"]["id"]
        shared.execute("delete from debt_floor")
        shared.execute("insert into debt_floor (currency, amount) values ('usd', 5)")
        debt = "select open_debt(%s, 'lost_dispute', %s, 29, 'usd', now())"
        shared.execute(debt, [user, f"txn_{user}"])
        refused = checkout(person, plan_code=plan)
        assert (refused.status, refused.code) == (402, "debt_open")
        assert (refused.json["amount"][:2], refused.json["currency"]) == ("29", "usd")
        assert refused.json["pay_url"].startswith(remote.public_url)
        link = shared.value("select payment_id from debt_link where user_id = %s", [user])
        remote.control.pay_link(link)
        assert checkout(person, plan_code=plan).status in (200, 201)
        shared.execute("delete from debt_floor")


class TestTime:
    def test_a_request_that_is_nearly_over_asks_nobody(
        self, person: dict[str, Any], remote: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second is kept for the answer: a call that Lambda cuts off would be told nobody."""
        token = person["session"]["token"]
        assert checkout(person).status == 201
        before = len(remote.control.requests())
        monkeypatch.setattr(Context, "get_remaining_time_in_millis", lambda _: 1_000)
        wiring.database().execute("delete from plans_cache")
        refused = [
            call("GET", "/plans"),
            checkout(person, plan_code="usage_max"),
            call("POST", "/portal", {}, token=token),
            call("GET", "/portal", token=token),
        ]
        assert {answer.code for answer in refused} == {"billing_provider_unavailable"}
        assert len(remote.control.requests()) == before


class TestLimits:
    """Ten checkouts and thirty portal links for a user in an hour."""

    @pytest.fixture(autouse=True)
    def _within_an_hour(self, monkeypatch: pytest.MonkeyPatch) -> None:
        moment = wall_clock()
        monkeypatch.setattr(wiring, "clock", lambda: lambda: moment)

    def refused(self, answer: Answer) -> bool:
        if answer.status != 429:
            return False
        assert answer.code == "too_many_requests"
        assert 1 <= int(answer.headers["retry-after"]) <= 3600
        return True

    def test_checkouts(self, person: dict[str, Any], remote: StandIn) -> None:
        """Of any plans. Somebody else goes on."""
        answers = [checkout(person, plan_code=("usage_pro", "usage_max")[n % 2]) for n in range(10)]
        assert {answer.status for answer in answers} <= {200, 201}
        before = len(remote.control.requests())
        assert all(self.refused(checkout(person)) for _ in range(5))
        assert len(remote.control.requests()) == before
        assert checkout(signed_up().json).status == 201

    def test_portal(self, person: dict[str, Any], remote: StandIn) -> None:
        """Redirects and links together; checkouts are counted apart."""
        token = person["session"]["token"]
        assert checkout(person).status == 201
        answers = [call("GET", "/portal", token=token) for _ in range(15)]
        answers += [call("POST", "/portal", {}, token=token) for _ in range(15)]
        assert {answer.status for answer in answers} == {201, 303}
        before = len(remote.control.requests())
        assert self.refused(call("GET", "/portal", token=token))
        assert self.refused(call("POST", "/portal", {}, token=token))
        assert len(remote.control.requests()) == before
        assert checkout(person).status == 200

    def test_requests_that_are_not_valid(self, person: dict[str, Any]) -> None:
        """They cost no call and are not counted."""
        foreign = "https://elsewhere.example/"
        token = person["session"]["token"]
        for _ in range(11):
            assert checkout(person, success_url=foreign).status == 422
            assert checkout(person, plan_code="no_such_plan").code == "plan_not_found"
        for _ in range(31):
            assert call("POST", "/portal", {}, token=token).code == "no_billing_account"
        assert checkout(person).status == 201
        for _ in range(31):
            assert call("POST", "/portal", {"return_url": foreign}, token=token).status == 422
        assert call("POST", "/portal", {}, token=token).status == 201


class TestBudget:
    """What people ask for is counted in the calls that the whole stack may make."""

    @pytest.fixture(autouse=True)
    def _full(self) -> Iterator[None]:
        wiring.database().execute("delete from call_budget")
        yield
        wiring.database().execute("delete from call_budget")

    def taken(self) -> int:
        """How many calls were taken since the budget was full. At one a second, none comes back."""
        left = wiring.database().value("select tokens from call_budget")
        return 32 - int(left)

    def test_each_call_is_taken(
        self,
        shop: Callable[[str], None],
        person: dict[str, Any],
        remote: StandIn,
    ) -> None:
        shop("1")
        wiring.database().execute("delete from plans_cache")
        before = len(remote.control.requests())
        token = person["session"]["token"]
        assert call("GET", "/plans").status == 200
        assert self.taken() == len(remote.control.requests()) - before == 1
        assert checkout(person).status == 201
        assert self.taken() == len(remote.control.requests()) - before == 4
        assert call("POST", "/portal", {}, token=token).status == 201
        assert self.taken() == len(remote.control.requests()) - before == 5

    def test_a_spent_budget(self, person: dict[str, Any], remote: StandIn) -> None:
        """Plans come from the catalogue that is known; the rest may be tried again soon."""
        token = person["session"]["token"]
        assert checkout(person).status == 201
        known = call("GET", "/plans").json
        wiring.database().execute(
            "update plans_cache set tried_at = null, as_of = as_of - interval '1 hour'"
        )
        Budget(wiring.database(), 20).pause(60)
        before = len(remote.control.requests())
        refused = [
            checkout(person),
            call("POST", "/portal", {}, token=token),
            call("GET", "/portal", token=token),
        ]
        assert {answer.code for answer in refused} == {"billing_provider_unavailable"}
        assert {answer.status for answer in refused} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert call("GET", "/plans").json["plans"] == known["plans"]
        assert len(remote.control.requests()) == before
        wiring.database().execute("delete from plans_cache")
        assert call("GET", "/plans").code == "billing_provider_unavailable"

    def test_a_pause_that_commet_asks_for(self, person: dict[str, Any], remote: StandIn) -> None:
        """It is kept by the whole stack."""
        assert checkout(person).status == 201
        limited = {"status": 429, "code": "rate_limited", "retry_after": 60}
        remote.control.fault(match={"path": "/portal/sessions"}, action=limited)
        answer = call("POST", "/portal", {}, token=person["session"]["token"])
        assert (answer.status, answer.headers["retry-after"]) == (503, "60")
        assert not Budget(wiring.database(), 20).take(1)
