"""`POST /plans/estimate`: the cost of a month's usage on each plan, as on the page of prices."""

from decimal import Decimal
from typing import Any

import pytest

from billing.amounts import MAX_QUANTITY
from billing.pages import formats
from tests.integration.functions.calling import Answer, call
from tests.integration.functions.test_api import environment  # noqa: F401 - fixture
from tests.integration.functions.test_debts import _shop, box, remote  # noqa: F401 - fixtures
from tests.integration.functions.visiting import Visitor

pytestmark = pytest.mark.handlers


def asked(quantity: object = "140", feature: str = "storage", **more: Any) -> Answer:
    usage = [{"feature": feature, "quantity": quantity}]
    return call("POST", "/plans/estimate", {"usage": usage, **more})


def plans(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.text
    return {each["code"]: each for each in answer.json["plans"]}


class TestEstimate:
    def test_each_plan_has_its_sums_and_how_they_come_about(self) -> None:
        """A stranger may ask. 40 of 140 GB are beyond, at 0.10 each."""
        found = plans(asked())
        assert list(found) == [each["code"] for each in call("GET", "/plans").json["plans"]]
        pro = found["usage_pro"]
        assert pro == {
            "id": "pln_usagepro",
            "code": "usage_pro",
            "name": "Usage Pro",
            "interval": "monthly",
            "periods": 1,
            "price": "29.00",
            "overage": "4.00",
            "total": "33.00",
            "currency": "usd",
            "usage": [
                {
                    "feature": "storage",
                    "name": "Storage",
                    "unit": "GB",
                    "quantity": "140",
                    "included": "100",
                    "overage_quantity": "40",
                    "unit_price": "0.10",
                    "cost": "4.00",
                }
            ],
            "obstacle": None,
            "is_cheapest": True,
        }
        fixed = found["fixed_box"]
        assert (fixed["price"], fixed["overage"], fixed["total"]) == (None, None, None)
        assert fixed["obstacle"] == {
            "reason": "limit_reached",
            "feature": "storage",
            "included": "50",
        }

    def test_a_year_has_twelve_months_of_overage(self) -> None:
        pro = plans(asked(interval="yearly"))["usage_pro"]
        assert (pro["interval"], pro["periods"]) == ("yearly", 12)
        assert (pro["price"], pro["overage"], pro["total"]) == ("290.00", "48.00", "338.00")
        assert pro["usage"][0]["cost"] == "4.00"

    def test_one_plan_is_asked_for(self) -> None:
        assert list(plans(asked(plan_code="usage_max"))) == ["usage_max"]

    def test_nothing_used_costs_the_price(self) -> None:
        found = plans(asked("0"))
        assert (found["usage_pro"]["total"], found["usage_pro"]["overage"]) == ("29.00", "0.00")
        assert found["free"]["is_cheapest"]

    def test_the_largest_quantity(self) -> None:
        """Exact to the cent."""
        pro = plans(asked(str(MAX_QUANTITY)))["usage_pro"]
        assert pro["overage"] == str((MAX_QUANTITY - 100) / 10 + Decimal("0.00"))

    @pytest.mark.parametrize("interval", ["monthly", "yearly"])
    def test_the_page_has_the_same_numbers(self, interval: str) -> None:
        text = Visitor().get(f"/?interval={interval}&q_storage=1,234.5").text
        found = plans(asked("1234.5", interval=interval))
        sums = [each for each in found.values() if each["total"] is not None]
        assert len(sums) == 2
        for each in sums:
            row = [formats.money(each[name], "usd") for name in ("price", "overage", "total")]
            assert " ".join(row) in text


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "field", "code"),
        [
            ({}, "usage", "missing"),
            ({"usage": []}, "usage", "too_short"),
            (
                {"usage": [{"feature": "sms", "quantity": 1}]},
                "usage.0.feature",
                "unknown_feature",
            ),
            # the catalogue has it, and it is not metered
            (
                {"usage": [{"feature": "priority_support", "quantity": 1}]},
                "usage.0.feature",
                "unknown_feature",
            ),
            (
                {"usage": [{"feature": "storage", "quantity": 1}] * 2},
                "usage.1.feature",
                "given_twice",
            ),
            (
                {"usage": [{"feature": "storage", "quantity": -1}]},
                "usage.0.quantity",
                "greater_than_equal",
            ),
            (
                {"usage": [{"feature": "storage", "quantity": "1000000000000000"}]},
                "usage.0.quantity",
                "less_than_equal",
            ),
            (
                {"usage": [{"feature": "storage", "quantity": "0.0000001"}]},
                "usage.0.quantity",
                "decimal_max_places",
            ),
            (
                {"usage": [{"feature": "storage", "quantity": "many"}]},
                "usage.0.quantity",
                "decimal_parsing",
            ),
            (
                {"usage": [{"feature": "storage", "quantity": 1}], "interval": "daily"},
                "interval",
                "literal_error",
            ),
            (
                {"usage": [{"feature": "storage", "quantity": 1}], "currency": "eur"},
                "currency",
                "extra_forbidden",
            ),
        ],
    )
    def test_a_wrong_field_is_named(self, body: Any, field: str, code: str) -> None:
        answer = call("POST", "/plans/estimate", body)
        assert (answer.status, answer.code) == (422, "invalid_request")
        assert [(each["field"], each["code"]) for each in answer.json["errors"]] == [(field, code)]

    def test_a_plan_that_is_not_sold(self) -> None:
        answer = asked(plan_code="gold")
        assert (answer.status, answer.code) == (404, "plan_not_found")
