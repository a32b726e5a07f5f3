"""Every event we can tell is valid against the schemas that ship with the official SDK."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import httpx
import pytest
from commet import Commet
from commet.types import TransactionStatus
from jsonschema import Draft202012Validator

from standin import announcing
from standin.events import EVENT_NAMES
from standin.testing import Receiver, StandIn, receiver, standin
from tests.standin.contract.catalogues import with_price
from tests.standin.contract.conftest import connect

IN_SCOPE = {
    "customer.created",
    "customer.updated",
    "customer.state_changed",
    "subscription.created",
    "subscription.activated",
    "subscription.updated",
    "subscription.canceled",
    "subscription.cancellation_scheduled",
    "subscription.cancellation_revoked",
    "subscription.past_due",
    "subscription.reactivated",
    "subscription.plan_changed",
    "subscription.plan_change_scheduled",
    "subscription.plan_change_revoked",
    "subscription.pause_scheduled",
    "subscription.pause_updated",
    "subscription.pause_revoked",
    "subscription.paused",
    "subscription.resumed",
    "subscription.resume_failed",
    "trial.started",
    "trial.converted",
    "trial.will_end",
    "trial.expired",
    "trial.checkout_ready",
    "checkout.ready",
    "payment.received",
    "payment.failed",
    "payment.recovered",
    "payment.retry_failed",
    "payment.refunded",
    "payment.disputed",
    "payment.dispute_resolved",
    "payment_link.created",
    "payment_link.completed",
    "payment_link.failed",
    "payment_link.canceled",
    "invoice.created",
    "invoice.overdue",
    "invoice.voided",
    "invoice.upcoming",
    "payment_method.attached",
    "payment_method.updated",
    "usage.recorded",
    "quota.threshold_reached",
    "quota.exceeded",
}


@cache
def _contract() -> dict[str, Any]:
    text = files("commet").joinpath("docs/webhooks.openapi.json").read_text()
    document: dict[str, Any] = json.loads(text)
    return document


@cache
def _validator(event: str) -> Draft202012Validator:
    operation = _contract()["webhooks"][event]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return Draft202012Validator(
        schema | {"components": _contract()["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def _problems(body: dict[str, Any]) -> list[str]:
    found = _validator(body["event"]).iter_errors(body)
    return [f"{body['event']} {error.json_path}: {error.message}" for error in found]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Lives of customers that between them tell every event in scope."""
    with (
        standin(
            catalogue=with_price(tmp_path_factory.mktemp("c"), "usage_pro", 1, trialDays=14)
        ) as server,
        connect(server) as sdk,
        receiver() as box,
    ):
        sdk.webhooks.create(url=box.url, events=sorted(EVENT_NAMES))  # type: ignore[arg-type]
        _a_year_in_good_standing(server, sdk)
        _a_declining_card(server, sdk)
        _trials(server, sdk)
        _changes_of_mind(server, sdk)
        _changes_of_plan(server, sdk)
        _pauses(server, sdk)
        _one_time_payments(server, sdk)
        _refunds_and_disputes(server, sdk)
        server.control.settle()
        yield box


def _subscribe(server: StandIn, sdk: Commet, customer: str, **order: Any) -> str:
    sdk.customers.create(email=f"{customer}@example.com", id=customer, metadata={"n": 0.5})
    sub = sdk.subscriptions.create(customer_id=customer, **order)
    if sub.status == "pending_payment":
        server.control.pay(sub.id)
    return sub.id


def _a_year_in_good_standing(server: StandIn, sdk: Commet) -> None:
    sub = _subscribe(server, sdk, "ana", plan_code="usage_pro")
    customer = sdk.customers.list(external_id="ana").data[0]
    sdk.customers.update(customer.id, full_name="Ana Ruiz")
    for value in (85.5, 44.5):
        sdk.usage.track(feature_code="storage", customer_id="ana", value=value)
    server.control.advance(days=31)
    sdk.subscriptions.cancel(sub, reason="too expensive")
    sdk.subscriptions.uncancel(sub)
    sdk.subscriptions.cancel(sub)
    server.control.advance(days=31)


def _a_declining_card(server: StandIn, sdk: Commet) -> None:
    sub = _subscribe(server, sdk, "bob", plan_code="usage_max")
    server.control.set_card("bob", charge_failure="card_declined")
    server.control.advance(days=31)
    server.control.set_card("bob", charge_failure=None)
    server.control.advance(days=2)
    server.control.set_card("bob", charge_failure="insufficient_funds")
    server.control.advance(days=40)
    assert sdk.subscriptions.get(sub).status == "canceled"
    server.control.set_card("bob", charge_failure=None)
    sdk.subscriptions.reactivate(sub)


def _trials(server: StandIn, sdk: Commet) -> None:
    _subscribe(server, sdk, "eve", plan_code="usage_pro", billing_interval="yearly")
    server.control.advance(days=15)


def _changes_of_mind(server: StandIn, sdk: Commet) -> None:
    sdk.customers.create(email="kim@example.com", id="kim")
    sdk.subscriptions.create(customer_id="kim", plan_code="usage_pro")
    sdk.subscriptions.create(customer_id="kim", plan_code="usage_max")
    sub = sdk.subscriptions.create(customer_id="kim", plan_code="fixed_box")
    server.control.pay(sub.id)
    sdk.usage.track(feature_code="storage", customer_id="kim", value=50)
    portal = sdk.portal.get_url(customer_id="kim").portal_url
    _save_card(portal)
    _subscribe(server, sdk, "joe", plan_code="free")


def _changes_of_plan(server: StandIn, sdk: Commet) -> None:
    sub = _subscribe(server, sdk, "pat", plan_code="usage_pro")
    for plan in ("pln_usagemax", "pln_usagepro", "pln_free"):
        sdk.subscriptions.change_plan(sub, new_plan_id=plan)
    server.control.advance(days=31)
    sdk.subscriptions.change_plan(sub, new_plan_id="pln_usagemax")
    server.control.pay(sub)
    trial = _subscribe(server, sdk, "ted", plan_code="usage_pro", billing_interval="yearly")
    sdk.subscriptions.change_plan(trial, new_plan_id="pln_usagemax")


def _pauses(server: StandIn, sdk: Commet) -> None:
    sub = _subscribe(server, sdk, "zoe", plan_code="usage_pro")
    sdk.subscriptions.pause(sub, mode="period_end", duration_days=5)
    sdk.subscriptions.update_pause(sub, duration_days=None)
    sdk.subscriptions.revoke_pause(sub)
    sdk.subscriptions.pause(sub, mode="immediate", duration_days=None)
    sdk.subscriptions.resume(sub)
    sdk.subscriptions.pause(sub, mode="period_end", duration_days=5)
    server.control.set_card("zoe", charge_failure="card_declined")
    server.control.advance(days=37)
    server.control.set_card("zoe", charge_failure=None)
    sdk.subscriptions.resume(sub)


def _one_time_payments(server: StandIn, sdk: Commet) -> None:
    for customer in (None, "zoe"):
        link = sdk.payments.create(
            amount=5000, currency="usd", description="Onboarding", customer_id=customer
        )
        with pytest.raises(httpx.HTTPStatusError):
            server.control.pay_link(link.id, card_number="4000000000000002")
        server.control.pay_link(link.id)
    sdk.payments.charge(customer_id="zoe", amount=500, currency="eur", description="Extra")
    open_one = sdk.payments.create(amount=5000, currency="usd", description="Onboarding")
    sdk.payments.cancel(open_one.id)


def _refunds_and_disputes(server: StandIn, sdk: Commet) -> None:
    of_charge, of_link, *others = sdk.transactions.list(status=TransactionStatus.SUCCEEDED).data
    sdk.transactions.refund(of_charge.id)
    server.control.refund(of_link.id, amount=100)
    server.control.dispute(of_link.id, reason=None)
    server.control.resolve_dispute(of_link.id, outcome="won")
    server.control.dispute(others[-1].id)
    server.control.resolve_dispute(others[-1].id, outcome="lost")
    failed = sdk.transactions.list(status=TransactionStatus.FAILED).data
    for about in (others[-1], next(t for t in failed if t.invoice_id)):
        for event in announcing.EVENTS:
            server.control.announce(event, about=about.id, outcome="lost")
    without_invoice = next(t for t in failed if t.invoice_id is None)
    for event in announcing.OF_TRANSACTIONS:
        server.control.announce(event, about=without_invoice.id)


def _save_card(portal: str) -> None:
    form = {"card_number": "4242424242424242", "expiry": "12/34", "cvc": "123"}
    assert httpx.post(f"{portal}/payment-method", data=form).status_code == 303


def test_every_event_in_scope_is_told(story: Receiver) -> None:
    """The walk through is complete, and tells nothing we did not list."""
    assert set(story.events()) == IN_SCOPE


def test_every_body_fits_its_schema(story: Receiver) -> None:
    """The shipped schemas allow no unknown and no missing field."""
    problems = [problem for request in story.received for problem in _problems(request.json)]
    assert problems == []


def test_the_schemas_would_notice(story: Receiver) -> None:
    """A missing and an unknown field are both problems."""
    body = story.received[0].json
    assert _problems({key: value for key, value in body.items() if key != "id"})
    assert _problems(body | {"data": body["data"] | {"surprise": 1}})


def test_ids_are_unique_and_times_never_tie_for_a_customer(story: Receiver) -> None:
    """What receivers dedupe and order by."""
    bodies = [request.json for request in story.received]
    assert len({body["id"] for body in bodies}) == len(bodies)
    of_ana = [b["timestamp"] for b in bodies if b["data"].get("customerId") == "ana"]
    assert len(set(of_ana)) == len(of_ana)


def test_headers_and_signature(story: Receiver) -> None:
    """The headers repeat the envelope."""
    request = story.received[0]
    body = request.json
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-commet-event"] == body["event"]
    assert request.headers["x-commet-event-id"] == body["id"]
    assert request.headers["x-commet-timestamp"] == body["timestamp"]
    assert (body["mode"], body["apiVersion"]) == ("sandbox", "2026-08-27")


def test_all_names_are_known_to_the_contract() -> None:
    """The list endpoints are checked against is Commet's own."""
    assert set(_contract()["webhooks"]) == EVENT_NAMES


def test_the_sdk_accepts_our_signature(sdk: Commet, server: StandIn, webhooks: Receiver) -> None:
    """Over the raw bytes, accents included, with the whole secret as the key."""
    endpoint = sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    sdk.customers.create(email="ana@example.com", full_name="Ana Peña ✓")
    server.control.settle()
    request = webhooks.received[0]
    signature = request.headers["x-commet-signature"]
    assert "Peña ✓".encode() in request.body
    assert sdk.webhooks.verify(
        payload=request.body.decode(), signature=signature, secret=endpoint.secret_key
    )
    expected = hmac.new(endpoint.secret_key.encode(), request.body, hashlib.sha256).hexdigest()
    assert signature == expected
