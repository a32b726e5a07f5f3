"""A metered route of a product, as `make function` writes one, whose work takes what it takes."""

from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from aws_lambda_powertools.event_handler import Response

from billing import wiring
from billing.database.connection import Database
from billing.deadline import LambdaContext
from billing.http import api, metering
from tests.environments import forget
from tests.integration.billing.conftest import NOW, Subscribe
from tests.integration.functions.calling import Answer, ask, event, service_key, start

pytestmark = pytest.mark.handlers

KEY = "svc_product_" + "a" * 64
HELD = Decimal(10)

app = api.resolver()
took: list[Decimal] = []  # what the next piece of work takes; nothing: it fails


@app.post("/work", security=api.by_service("usage:write"), responses=api.answers(None, 204))
def work() -> Response[None]:
    held = metering.hold(app, "usr_ana", "storage", HELD, key="job-1")
    metering.confirm(app, held, took.pop())
    return Response(204)


def handler(given: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, given, context)


@pytest.fixture(autouse=True)
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    keys = [service_key("product", KEY, "usage:write")]
    start(monkeypatch, database_url, keys, {"POWERTOOLS_SERVICE_NAME": "work"})
    monkeypatch.setattr(wiring, "clock", lambda: lambda: NOW)
    took.clear()
    yield
    forget()


def call(takes: str | None) -> Answer:
    took.extend([Decimal(takes)] if takes else [])
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    return ask(SimpleNamespace(handler=handler), event("POST", "/work", "{}", headers, []))


def counted(db: Database) -> list[Decimal]:
    return [row["quantity"] for row in db.all("select quantity from usage_event")]


def held(db: Database) -> int:
    return int(db.value("select count(*) from usage_reservation where state = 'held'"))


@pytest.mark.parametrize("takes", ["2.5", "10", "12"])
def test_what_the_work_took_is_counted(db: Database, subscribe: Subscribe, takes: str) -> None:
    """Less than was held, as much, or more if it fits."""
    subscribe()
    assert call(takes).status == 204
    assert counted(db) == [Decimal(takes)]
    assert held(db) == 0


def test_a_counted_key_buys_nothing_more(db: Database, subscribe: Subscribe) -> None:
    """Whatever the second work would take."""
    subscribe()
    assert call("2.5").status == 204
    assert call("9").code == "already_counted"
    assert took == [Decimal(9)]  # which was not begun
    assert counted(db) == [Decimal("2.5")]


def test_work_that_fails_keeps_the_quantity_for_the_next_try(
    db: Database, subscribe: Subscribe
) -> None:
    """So that nobody takes it meanwhile; the same request may be sent again."""
    subscribe(included=10, overage_enabled=False)
    assert call(None).code == "internal_error"
    assert (counted(db), held(db)) == ([], 1)
    assert call("10").status == 204
    assert (counted(db), held(db)) == ([Decimal(10)], 0)


def test_more_than_was_held_and_than_is_left(db: Database, subscribe: Subscribe) -> None:
    """Refused like any usage, so `MOST` has to be the most."""
    subscribe(included=10, overage_enabled=False)
    assert call("11").code == "limit_reached"
    assert counted(db) == []


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"included": 9, "overage_enabled": False}, "limit_reached"),
        ({"included": 9, "unit_price": None}, "price_unknown"),
    ],
)
def test_who_may_not_is_refused_before_the_work(
    db: Database, subscribe: Subscribe, columns: dict[str, Any], code: str
) -> None:
    subscribe(**columns)
    assert call("1").code == code
    assert took == [Decimal(1)]
    assert held(db) == 0


def test_a_refusal_because_of_the_limit_is_told_once(db: Database, subscribe: Subscribe) -> None:
    """As for usage that is reported, so the product hears of its own routes too."""
    subscribe(included=9, overage_enabled=False)
    assert [call("1").code for _ in range(2)] == ["limit_reached"] * 2
    told = db.all(
        "select user_id, data->>'feature' as feature from outgoing_event"
        " where type = 'usage.limit_reached'"
    )
    assert told == [{"user_id": "usr_ana", "feature": "storage"}]
