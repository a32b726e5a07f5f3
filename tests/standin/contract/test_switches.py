"""Switches of the command line and of control that no other test turns."""

from threading import Event
from typing import Any

import httpx
import pytest
from commet import Commet

from standin.testing import Receiver, StandIn, receiver, standin
from tests.standin.contract.conftest import connect


def ask(server: StandIn, path: str, **query: str) -> httpx.Response:
    headers = {"x-api-key": server.api_key}
    return httpx.get(f"{server.base_url}{path}", params=query, headers=headers)


def currencies(value: Any) -> set[str]:
    """Of everything that is priced in an answer, however deep."""
    if isinstance(value, list):
        return set().union(*(currencies(item) for item in value))
    if isinstance(value, dict):
        own = {text for name, text in value.items() if name in {"currency", "invoiceCurrency"}}
        return own.union(*(currencies(item) for item in value.values()))
    return set()


def test_currency_is_that_of_every_price() -> None:
    """In invoices and events, and on the page that people pay on."""
    with standin(currency="eur") as server, connect(server) as sdk:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        assert "Pay €29.00" in httpx.get(str(sub.checkout_url)).text
        server.control.pay(sub.id)
        assert currencies(ask(server, "/invoices", customerId="usr_1").json()) == {"eur"}
        assert currencies(server.control.events()) == {"eur"}


@pytest.mark.parametrize(("lookup", "pending"), [("any", True), ("live", False)])
def test_active_lookup_tells_whether_one_that_is_not_paid_is_found(
    lookup: str, *, pending: bool
) -> None:
    """Once it is paid, it is found in any case."""
    with standin(active_lookup=lookup) as server, connect(server) as sdk:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")

        def found() -> bool:
            return ask(server, "/subscriptions/active", customerId="usr_1").json() is not None

        assert found() is pending
        server.control.pay(sub.id)
        assert found()


@pytest.mark.parametrize(
    ("when", "status"), [("emission", "pending_payment"), ("delivery", "active")]
)
def test_state_snapshot_tells_of_which_moment_a_late_webhook_speaks(when: str, status: str) -> None:
    """Of a subscription that was paid before the webhook about its creation came."""
    with standin(state_snapshot=when) as server, connect(server) as sdk, receiver() as box:
        sdk.webhooks.create(url=box.url, events=["customer.state_changed"])
        server.control.fault(webhooks={"delay_ms": 3_600_000})
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        server.control.pay(sub.id)
        server.control.advance(seconds=3601)
    told = {r.json["data"]["trigger"]: r.json["data"]["status"] for r in box.received}
    assert told == {"subscription_created": status, "subscription_activated": "active"}


def test_a_webhook_rule_can_be_about_one_endpoint(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """The other endpoint gets what this one loses."""
    with receiver() as other:
        for box in (webhooks, other):
            sdk.webhooks.create(url=box.url, events=["customer.created"])
        server.control.fault(match={"url": webhooks.url}, webhooks={"drop": True}, times=None)
        sdk.customers.create(email="ana@example.com", id="usr_1")
        server.control.settle()
        assert (webhooks.events(), other.events()) == ([], ["customer.created"])


def test_deliveries_can_be_asked_for_by_endpoint_and_event(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """Each filter alone, and together."""
    first, second = (
        sdk.webhooks.create(url=webhooks.url, events=["customer.created"]).id for _ in range(2)
    )
    for number in range(2):
        sdk.customers.create(email=f"{number}@example.com")
    server.control.settle()
    event = server.control.events("customer.created")[0]["id"]

    def found(**filters: Any) -> set[tuple[str, bool]]:
        deliveries = server.control.deliveries(**filters)
        return {(d["endpoint_id"], d["event_id"] == event) for d in deliveries}

    assert found(endpoint=first) == {(first, True), (first, False)}
    assert found(event_id=event) == {(first, True), (second, True)}
    assert found(endpoint=second, event_id=event) == {(second, True)}


def test_settling_gives_up_when_it_takes_too_long(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """504, while a receiver keeps its webhook; once it has answered, all is settled."""
    answer = Event()
    webhooks.before_answer = lambda: answer.wait(30)
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    sdk.customers.create(email="ana@example.com")
    with pytest.raises(httpx.HTTPStatusError, match="504"):
        server.control.settle(timeout=0.05)
    answer.set()
    server.control.settle()
    assert webhooks.events() == ["customer.created"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/clock", {"days": 1, "timeout": 5}),
        ("/pay", {"subscription_id": "sub_1", "expiry": "12/34"}),
        ("/customers/usr_1/card", {"failure": "card_declined"}),
        ("/customers/usr_1/cards", {"card": "4242424242424242"}),
        ("/payments/pay_1/pay", {"expiry": "12/34"}),
        ("/transactions/txn_1/refund", {"cents": 1}),
        ("/transactions/txn_1/dispute", {"why": "fraudulent"}),
        ("/transactions/txn_1/resolve", {"result": "won"}),
        ("/events", {"name": "payment.failed"}),
    ],
)
def test_a_switch_that_control_does_not_have_is_refused(
    server: StandIn, path: str, body: dict[str, Any]
) -> None:
    """Not passed over: whoever turned it would wait for its effect."""
    answer = httpx.post(f"{server.public_url}/_standin{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "validation_error"
