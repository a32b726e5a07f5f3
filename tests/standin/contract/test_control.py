"""Looking inside: what the control endpoints tell of requests, events and customers."""

from decimal import Decimal

import httpx
import pytest
from commet import Commet

from standin.journal import Entry, Journal
from standin.testing import StandIn


class TestCustomer:
    def test_everything_of_one_customer(
        self, sdk: Commet, server: StandIn, subscribed: str
    ) -> None:
        """By either id: subscription, use, invoice, events; nothing of anybody else."""
        other = sdk.customers.create(email="bea@example.com", id="usr_2")
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=2.5)
        told = server.control.customer("usr_1")
        assert server.control.customer(told["customer"]["id"]) == told
        assert [(s["id"], s["status"]) for s in told["subscriptions"]] == [(subscribed, "active")]
        used = {f["code"]: f.get("consumption", {}).get("unitsUsed") for f in told["features"]}
        assert used == {"storage": 2.5, "priority_support": None}
        assert [i["status"] for i in told["invoices"]] == ["paid"]
        assert told["events"][0]["event"] == "usage.recorded"
        assert server.control.customer(other.id)["subscriptions"] == []

    def test_the_live_subscription_comes_first(
        self, sdk: Commet, server: StandIn, subscribed: str
    ) -> None:
        """Also beside one that was canceled before it was paid."""
        sdk.subscriptions.cancel(subscribed, immediate=True)
        ended = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_max").id
        live = sdk.subscriptions.create(customer_id="usr_1", plan_code="free").id
        told = server.control.customer("usr_1")["subscriptions"]
        assert [s["id"] for s in told] == [live, ended, subscribed]

    def test_nobody(self, server: StandIn) -> None:
        """Said with a status."""
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            server.control.customer("usr_404")


def test_requests_are_told_as_they_were(server: StandIn) -> None:
    """Query, the headers that matter, no key, and both bodies; newest last."""
    url = f"{server.base_url}/customers"
    headers = {"x-api-key": server.api_key, "Idempotency-Key": "k1"}
    httpx.post(url, json={"id": "usr_1", "email": "a@example.com"}, headers=headers)
    answer = httpx.get(url, params={"limit": 1}, headers=headers)
    created, listed = server.control.requests(path="/customers")
    assert created["body"] == {"id": "usr_1", "email": "a@example.com"}
    assert created["response"]["externalId"] == "usr_1"
    assert created["headers"]["idempotency-key"] == "k1"
    assert "x-api-key" not in created["headers"]
    assert (listed["query"], listed["body"], listed["status"]) == ({"limit": "1"}, None, 200)
    assert listed["id"] == answer.headers["x-request-id"]
    assert server.control.requests(method="GET") == [listed]


def test_the_journal_forgets_the_oldest() -> None:
    """It is bounded, whatever comes."""
    from datetime import UTC, datetime

    now = datetime(2026, 9, 1, tzinfo=UTC)
    journal = Journal()
    for number in range(2_001):
        journal.add(Entry(f"req_{number}", now, "GET", "/plans", {}, {}, b""))
    assert len(journal) == 2_000
    assert journal.entries(limit=1)[0]["id"] == "req_2000"
    assert journal.entries(limit=3_000)[-1]["id"] == "req_1"
    assert journal.entries(path="/nothing") == []


def test_quantities_are_told_exactly(sdk: Commet, server: StandIn, subscribed: str) -> None:
    """Not rounded to what a binary float can hold."""
    body = '{"customerId": "usr_1", "featureCode": "storage", "value": 0.1000000000000000055511}'
    answer = httpx.post(
        f"{server.base_url}/usage/events", content=body, headers={"x-api-key": server.api_key}
    )
    assert answer.status_code == 201
    raw = httpx.get(f"{server.public_url}/_standin/customers/usr_1").text
    assert f'"unitsUsed":{Decimal("0.1000000000000000055511")}' in raw
    assert sdk.subscriptions.get(subscribed).status == "active"
