"""`GET /projection`: what a period is likely to end with, as the overview says."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import wiring
from billing.pages import formats
from standin.testing import StandIn
from tests.integration.functions.calling import call
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    environment,
    signed_up,
)
from tests.integration.functions.test_debts import KEY, _shop, box, remote  # noqa: F401 - fixtures
from tests.integration.functions.test_pages import Person, person  # noqa: F401 - fixture

pytestmark = pytest.mark.handlers


def projection(person: Person) -> Any:  # noqa: F811
    answer = call("GET", "/projection", token=person._token)
    assert answer.status == 200, answer.text
    return answer.json


def goes_on(person: Person, remote: StandIn, *, days: int = 10, daily: int = 9) -> None:  # noqa: F811
    """Uses as much each day, from the second day of the period on."""
    remote.control.advance(days=1)
    for day in range(days):
        person.use(daily, key=f"day-{day}")
        remote.control.advance(days=1)
    person.sign_in()
    person.browser.cookies["__Host-session"] = person._token


class TestTooEarly:
    def test_there_is_no_range(self, person: Person) -> None:  # noqa: F811
        """What is known already is there: the cost so far, and the plan's price."""
        person.use(150)
        found = projection(person)
        (storage,) = found["usage"]
        assert (storage["used"], storage["cost_so_far"]) == ("150", "5.00")
        empty = ("pace", "pace_before", "likely", "likely_cost", "passes_included_on")
        assert [storage[name] for name in empty] == [None] * 5
        assert found["overage"] == {
            "so_far": "5.00",
            "is_incomplete": False,
            "likely": None,
            "currency": "usd",
        }
        invoice = found["next_invoice"]
        assert (invoice["price"], invoice["so_far"]) == ("29.00", "34.00")
        assert (invoice["low"], invoice["high"]) == (None, None)

    def test_a_user_without_a_plan(self) -> None:
        token = signed_up().json["session"]["token"]
        found = call("GET", "/projection", token=token).json
        assert found["usage"] == []
        assert [found[name] for name in ("overage", "next_invoice_at", "next_invoice")] == [
            None
        ] * 3


class TestARange:
    def test_the_pace_goes_on(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        """Nine a day for ten days; a fifth less and a fifth more of it until the end."""
        goes_on(person, remote)
        (storage,) = projection(person)["usage"]
        assert (storage["used"], storage["pace"]) == ("90", "9")
        likely = {name: Decimal(storage["likely"][name]) for name in ("low", "mid", "high")}
        assert 90 < likely["low"] < likely["mid"] < likely["high"]
        assert not storage["likely"]["is_capped"]
        cost = {name: Decimal(storage["likely_cost"][name]) for name in ("low", "high")}
        exact = [(likely[name] - 100) / 10 for name in ("low", "high")]
        assert list(cost.values()) == [each.quantize(Decimal("0.01")) for each in exact]
        # Ten of a hundred are left, at nine a day.
        passes = (remote.now() + timedelta(days=10) / 9).date()
        assert storage["passes_included_on"] == passes.isoformat()

    def test_the_sums_add_up(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        goes_on(person, remote)
        found = projection(person)
        (storage,) = found["usage"]
        assert found["overage"]["likely"] == storage["likely_cost"]
        invoice = found["next_invoice"]
        for name in ("low", "high"):
            total = Decimal(invoice["price"]) + Decimal(found["overage"]["likely"][name])
            assert Decimal(invoice[name]) == total
        assert found["next_invoice_at"] == storage["period"]["end"]

    def test_the_spend_limit_is_the_highest(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        goes_on(person, remote)
        assert not projection(person)["overage"]["likely"]["is_capped"]
        answer = call("PUT", "/spend-limit", {"amount": "2.50"}, token=person._token)
        assert answer.status == 200
        likely = projection(person)["overage"]["likely"]
        assert (likely["high"], likely["is_capped"]) == ("2.50", True)

    def test_the_page_has_the_same_numbers(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        goes_on(person, remote)
        found = projection(person)
        likely, invoice = found["overage"]["likely"], found["next_invoice"]
        text = person.browser.get("/app").text
        assert f"{formats.money_range(likely['low'], likely['high'], 'usd')}" in text
        assert formats.money_range(invoice["low"], invoice["high"], "usd") in text
        assert formats.money_range(invoice["low"], invoice["high"], "usd") in (
            person.browser.get("/app/billing").text
        )

    def test_a_backend_reads_the_same(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        goes_on(person, remote)
        answer = call("GET", f"/users/{person.id}/projection", token=KEY)
        assert answer.status == 200
        (theirs,), (own,) = answer.json["usage"], projection(person)["usage"]
        assert theirs.keys() == own.keys()
        for name in ("used", "pace", "pace_before", "period", "passes_included_on"):
            assert theirs[name] == own[name]


class TestRefusals:
    def test_nobody_is_signed_in(self) -> None:
        assert call("GET", "/projection").code == "unauthenticated"

    def test_an_unknown_user(self) -> None:
        assert call("GET", "/users/nobody/projection", token=KEY).code == "unknown_user"

    def test_a_price_that_is_not_known(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        goes_on(person, remote, daily=15)
        wiring.database().execute("update entitlements set unit_price = null")
        found = projection(person)
        assert found["overage"]["is_incomplete"]
        assert found["next_invoice"]["is_incomplete"]
        assert found["usage"][0]["cost_so_far"] is None
