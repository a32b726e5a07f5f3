"""Only plans that can be used are listed and sold; what is metered works in every plan."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing import wiring
from functions.deliver_usage import app as deliver_usage
from standin.catalogue import DEFAULT_FILE
from standin.testing import Receiver, StandIn, standin
from tests.integration.conftest import Context
from tests.integration.functions.calling import Answer, call
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    counted,
    environment,
    signed_up,
)
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    _shop,
    box,
)
from tests.integration.functions.test_plan_changes import FreePerson, Person

pytestmark = pytest.mark.handlers

FEATURES = [
    {"id": "ftr_seats", "code": "members", "name": "Members", "type": "seats"},
    {"id": "ftr_quota", "code": "numbers", "name": "Numbers", "type": "quota"},
]
STORAGE = {
    "code": "storage", "includedAmount": 10, "overage": {"enabled": True, "unitPrice": 1000}
}  # fmt: skip
SEATS = {"code": "members", "includedAmount": 3}


def plan(code: str, *features: dict[str, Any], model: str | None = "metered", **price: Any) -> Any:
    prices = [{"id": f"pp_{code}", "billingInterval": "monthly", "price": 2900, "isDefault": True}]
    return {
        "id": f"pln_{code}", "code": code, "name": code.title(), "planGroupId": "plg_usage",
        "sortOrder": 15, "consumptionModel": model, "features": list(features),
        "prices": [prices[0] | price],
    }  # fmt: skip


NOT_SOLD = {
    "tokens": plan("tokens", STORAGE, model="credits", includedCredits=100),
    "wallet": plan("wallet", STORAGE, model="balance"),
    "team": plan("team", STORAGE, SEATS),
    "phones": plan("phones", {"code": "numbers", "includedAmount": 3}, model=None),
    # A model that this project has never heard of, and one that only the price tells.
    "granted": plan("granted", STORAGE, model=None, includedCredits=100),
}
SOLD = {
    "switch": plan("switch", {"code": "priority_support"}, model=None),
    "alone": plan("alone", STORAGE, SEATS | {"enabled": False}),
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plans that the stand-in always sells, and one of every other kind."""
    content = json.loads(DEFAULT_FILE.read_text())
    content["features"] += FEATURES
    content["plans"] += [*NOT_SOLD.values(), *SOLD.values()]
    file = tmp_path_factory.mktemp("catalogue") / "catalogue.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def remote(catalogue: Path) -> Iterator[StandIn]:
    with standin(catalogue=catalogue) as running:
        yield running


@pytest.fixture
def free_person(remote: StandIn, box: Receiver) -> FreePerson:  # noqa: F811
    return FreePerson(remote, box)


class Guest(Person):
    """Somebody for whom an operator makes a subscription in Commet's dashboard."""

    def __init__(self, remote: StandIn, box: Receiver, plan_code: str) -> None:  # noqa: F811
        self._remote, self._box, self._taken = remote, box, 0
        up = signed_up().json
        self.id, self._token = str(up["user"]["id"]), up["session"]["token"]
        customer = {"id": self.id, "email": up["user"]["email"]}
        assert self._post("/customers", customer)["externalId"] == self.id
        made = self._post("/subscriptions", {"customerId": self.id, "planCode": plan_code})
        self.subscription = made["id"]
        remote.control.pay(self.subscription)
        self.hear()
        self.run()

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = httpx.post(
            self._remote.base_url + path, headers={"x-api-key": self._remote.api_key}, json=body
        )
        answer.raise_for_status()
        return answer.json()


class TestList:
    def test_what_cannot_be_used_is_not_listed(self) -> None:
        listed = [each["code"] for each in call("GET", "/plans").json["plans"]]
        assert listed == ["free", "fixed_box", "usage_pro", "switch", "alone", "usage_max"]

    def test_the_operator_hears_of_each_plan_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            call("GET", "/plans")
            wiring.database().execute("update plans_cache set as_of = 'epoch', tried_at = null")
        capsys.readouterr()
        deliver_usage.handler({}, Context(55))
        assert counted(capsys)["PlansNotSold"] == len(NOT_SOLD)
        noted = wiring.database().all(
            "select subject from alarm_once where alarm = 'plan_not_sold' order by subject"
        )
        assert [row["subject"] for row in noted] == [
            "granted: credits", "phones: quota", "team: seats", "tokens: credits",
            "wallet: balance",
        ]  # fmt: skip
        deliver_usage.handler({}, Context(55))
        assert counted(capsys)["PlansNotSold"] == 0


class TestSale:
    @pytest.mark.parametrize("code", NOT_SOLD)
    def test_is_refused_before_commet_is_asked(self, code: str, remote: StandIn) -> None:
        token = signed_up().json["session"]["token"]
        answer: Answer = call("POST", "/checkout", {"plan_code": code}, token=token)
        assert (answer.status, answer.code) == (404, "plan_not_found")
        assert answer.json["detail"] == f"There is no public plan with the code {code}."
        assert remote.control.requests(method="POST", path="/customers") == []
        assert remote.control.requests(method="POST", path="/subscriptions") == []

    @pytest.mark.parametrize("code", SOLD)
    def test_what_can_be_used_is_sold(self, code: str) -> None:
        token = signed_up().json["session"]["token"]
        assert call("POST", "/checkout", {"plan_code": code}, token=token).status == 201

    @pytest.mark.parametrize("code", NOT_SOLD)
    def test_no_plan_is_changed_to_it(
        self, free_person: FreePerson, code: str, remote: StandIn
    ) -> None:
        answer = free_person.change(code)
        assert (answer.status, answer.code) == (404, "plan_not_found")
        assert remote.control.requests(method="POST", path="/change-plan") == []

    def test_nor_where_the_plan_was_sold_when_it_was_shown(
        self,
        remote: StandIn,
        box: Receiver,  # noqa: F811
    ) -> None:
        """The plan got a seat between the preview and its confirmation."""
        person = Guest(remote, box, "usage_pro")
        shown = person.change("alone").json["change"]["confirmation"]
        wiring.database().execute(
            "update plans_cache set catalogue = replace("
            "catalogue::text, '\"metered\"', '\"credits\"')::jsonb"
        )
        answer = person.change("alone", shown)
        assert (answer.status, answer.code) == (404, "plan_not_found")
        assert remote.control.requests(method="POST", path="/change-plan") == []


class TestSoldInTheDashboard:
    """Whoever has such a plan all the same uses what is metered of it."""

    def test_seats_beside_a_meter(self, remote: StandIn, box: Receiver) -> None:  # noqa: F811
        person = Guest(remote, box, "team")
        assert person.use(13).json["accepted"] == 1
        seen = person.dashboard()
        assert (seen["access"], seen["subscription"]["plan"]["id"]) == (True, "pln_team")
        (storage,) = seen["usage"]
        assert (storage["feature"], storage["used"], storage["overage"]["cost"]) == (
            "storage", "13", "0.30"
        )  # fmt: skip
        person.deliver()
        assert remote.control.requests(method="POST", path="/usage/events")

    @pytest.mark.parametrize("code", ["tokens", "wallet", "phones", "switch", "granted"])
    def test_without_a_meter(self, remote: StandIn, box: Receiver, code: str) -> None:  # noqa: F811
        person = Guest(remote, box, code)
        seen = person.dashboard()
        assert (seen["access"], seen["subscription"]["plan"]["id"]) == (True, f"pln_{code}")
        if code != "granted":  # its features say that they are metered
            assert seen["usage"] == []
            assert person.use(1).code in ("feature_not_metered", "feature_not_in_plan")
        person.deliver()
        assert person.run()["refresh_failed"] == 0

    @pytest.mark.parametrize("code", ["tokens", "wallet", "team"])
    def test_may_leave_for_a_plan_that_is_sold(
        self,
        remote: StandIn,
        box: Receiver,  # noqa: F811
        code: str,
    ) -> None:
        person = Guest(remote, box, code)
        shown = person.change("usage_max").json["change"]
        assert (shown["state"], shown["then_amount"]) == ("preview", "99.00")
        done = person.change("usage_max", shown["confirmation"])
        assert done.json["change"]["state"] == "completed"
        person.hear()
        assert person.use(130).json["accepted"] == 1
