"""Plans, checkout and portal through their handlers: what is asked for is what Commet is told."""

from typing import Any

import pytest

from billing import wiring
from billing.credentials.secrets import Secrets
from standin.testing import StandIn
from tests.integration.conftest import Context
from tests.integration.functions.calling import ORIGIN, Answer, Store, call
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    Environment,
    counted,
    environment,
    signed_up,
)

pytestmark = pytest.mark.handlers


@pytest.fixture(autouse=True)
def _shop(
    environment: Environment,  # noqa: F811
    remote: StandIn,
    migrated_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An environment that speaks to the stand-in for Commet, and sells for yen."""
    environment(COMMET_BASE_URL=remote.base_url, BILLING_CURRENCY="jpy")
    store = Store(migrated_url, [])
    store._values["commet"] = {"api_key": remote.api_key}
    secrets = Secrets(store)
    monkeypatch.setattr(wiring, "secrets", lambda: secrets)


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
        assert storage["overage"] == {"enabled": True, "unit_price": "0.1"}


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
