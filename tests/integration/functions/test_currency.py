"""BillingCurrency is usd, and the organization at Commet charges in eur."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing import wiring
from functions.deliver_usage import app as deliver_usage
from functions.reconcile import app as reconcile
from standin.catalogue import DEFAULT_FILE
from standin.testing import Receiver, StandIn, standin
from tests.integration.conftest import Context
from tests.integration.functions.calling import call
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    counted,
    environment,
)
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    _shop,
    box,
)
from tests.integration.functions.test_plan_changes import Person

pytestmark = pytest.mark.handlers


def catalogue(folder: Path, currency: str | None) -> Path:
    """What the stand-in sells; `usage_pro` and `usage_max` list a price in `currency` too."""
    content = json.loads(DEFAULT_FILE.read_text())
    for plan in content["plans"]:
        if currency and plan["code"] in ("usage_pro", "usage_max"):
            for price in plan["prices"]:
                listed = {"currency": currency, "price": price["price"] + 200}
                price["regionalPrices"] = [listed]
            listed = {"currency": currency, "overageUnitPrice": 1100}
            plan["features"][0]["regionalPrices"] = [listed]
    file = folder / "catalogue.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def listed() -> str | None:
    """The currency in which prices are listed beside the organization's."""
    return None


@pytest.fixture
def remote(tmp_path: Path, listed: str | None) -> Iterator[StandIn]:
    with standin(currency="eur", catalogue=catalogue(tmp_path, listed)) as running:
        yield running


def shown() -> tuple[str, str, str]:
    """The monthly price of `usage_pro`, its currency, and the price of overage."""
    plans = {plan["code"]: plan for plan in call("GET", "/plans").json["plans"]}
    price = plans["usage_pro"]["prices"][0]
    overage = plans["usage_pro"]["features"][0]["overage"]
    return price["amount"], price["currency"], overage["unit_price"]


def rung(capsys: pytest.CaptureFixture[str]) -> float:
    reconcile.handler({}, Context(55))
    capsys.readouterr()
    deliver_usage.handler({}, Context(55))
    number: float = counted(capsys)["CurrencyNotOffered"]
    return number


class Buyer(Person):
    """Somebody who has begun a checkout, and not paid."""

    def __init__(self, remote: StandIn, box: Receiver) -> None:  # noqa: F811
        from tests.integration.functions.test_api import signed_up

        self._remote, self._box, self._taken = remote, box, 0
        up = signed_up().json
        self.id, self._token = str(up["user"]["id"]), up["session"]["token"]
        self.subscription = self.checkout().json["subscription"]["id"]


class TestAnotherThanBillingCurrency:
    def test_is_known_when_a_checkout_has_begun(
        self,
        remote: StandIn,
        box: Receiver,  # noqa: F811
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Its invoice names the currency before anybody has paid. It rings once."""
        assert shown() == ("29.00", "usd", "0.10")
        buyer = Buyer(remote, box)
        assert "checkout.ready" in buyer.hear()
        assert shown() == ("29.00", "eur", "0.10")
        assert [rung(capsys), rung(capsys)] == [1, 0]
        noted = wiring.database().one(
            "select subject, about from alarm_once where alarm = 'currency_not_offered'"
        )
        assert noted == {"subject": "eur", "about": buyer.id}

    def test_is_known_without_a_webhook(self, remote: StandIn, box: Receiver) -> None:  # noqa: F811
        """The price of overage has a currency of its own."""
        buyer = Buyer(remote, box)
        remote.control.pay(buyer.subscription)
        buyer.lose()
        assert shown()[1] == "usd"
        assert buyer.dashboard()["access"]
        assert shown()[1] == "eur"

    def test_a_change_of_plan(self, remote: StandIn, box: Receiver) -> None:  # noqa: F811
        person = Person(remote, box)
        up: dict[str, Any] = person.change("usage_max").json["change"]
        assert (up["currency"], up["due_now"], up["then_amount"]) == ("eur", "70.00", "99.00")
        down: dict[str, Any] = person.change("free").json["change"]
        assert (down["currency"], down["due_now"], down["then_amount"]) == ("eur", "0.00", "0.00")


class TestBillingCurrencyIsListed:
    """Then it is not the organization's own, and users who pay in it pay the listed price."""

    @pytest.fixture
    def listed(self) -> str:
        return "usd"

    def test_its_own_prices_are_shown(self) -> None:
        assert shown() == ("31.00", "usd", "0.11")

    def test_also_when_others_pay_in_another(
        self,
        remote: StandIn,
        box: Receiver,  # noqa: F811
    ) -> None:
        Person(remote, box)
        assert shown() == ("31.00", "usd", "0.11")
        plans = {plan["code"]: plan for plan in call("GET", "/plans").json["plans"]}
        assert plans["fixed_box"]["prices"][0]["currency"] == "eur"


class TestTheOtherIsListed:
    """A user who pays in a currency that the plan offers tells nothing about the others."""

    @pytest.fixture
    def listed(self) -> str:
        return "eur"

    def test_nothing_rings(
        self,
        remote: StandIn,
        box: Receiver,  # noqa: F811
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        person = Person(remote, box)
        assert shown() == ("29.00", "usd", "0.10")
        assert rung(capsys) == 0
        change = person.change("usage_max").json["change"]
        assert (change["currency"], change["then_amount"]) == ("eur", "101.00")
        (storage,) = [each for each in change["features"] if each["code"] == "storage"]
        assert storage["after"]["overage_unit_price"] == "0.11"
