"""Documented errors become the SDK's exceptions, with code, type, status and request id."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from commet import Commet, CommetAPIError, CommetValidationError
from commet.types import BatchCreateCustomersParamsCustomersItem

from standin.errors import ERROR_TYPES
from standin.testing import StandIn, standin
from tests.standin.contract.conftest import connect

Call = Callable[[Commet], Any]


def _customer(sdk: Commet) -> None:
    sdk.customers.create(email="ana@example.com", id="usr_1")


@pytest.mark.parametrize(
    ("call", "code", "status"),
    [
        (lambda c: c.customers.get("cus_none"), "customer_not_found", 404),
        (lambda c: c.customers.get("usr_1"), "customer_not_found", 404),
        (lambda c: c.plans.get("pln_none"), "plan_not_found", 404),
        (lambda c: c.features.get("none"), "feature_not_found", 404),
        (lambda c: c.subscriptions.get("sub_none"), "subscription_not_found", 404),
        (lambda c: c.subscriptions.cancel("sub_none"), "subscription_not_found", 404),
        (lambda c: c.subscriptions.get_active(customer_id="x"), "customer_not_found", 404),
        (
            lambda c: c.subscriptions.create(customer_id="usr_1", plan_code="none"),
            "plan_not_found",
            404,
        ),
        (
            lambda c: c.subscriptions.create(
                customer_id="usr_1", plan_code="usage_pro", price_id="pp_none"
            ),
            "price_not_found",
            404,
        ),
        (
            lambda c: c.subscriptions.create(
                customer_id="usr_1", plan_code="usage_pro", billing_interval="weekly"
            ),
            "price_not_found",
            404,
        ),
        (
            lambda c: c.usage.track(feature_code="storage", customer_id="usr_1"),
            "no_active_subscription",
            404,
        ),
        (
            lambda c: c.usage.check(feature_code="storage", customer_id="usr_1"),
            "no_active_subscription",
            404,
        ),
        (
            lambda c: c.usage.set(feature_code="storage", customer_id="usr_1", value=1),
            "no_active_subscription",
            404,
        ),
        (
            lambda c: c.usage.track(feature_code="none", customer_id="usr_1"),
            "feature_not_found",
            404,
        ),
        (
            lambda c: c.feature_access.get("storage", customer_id="usr_1"),
            "no_active_subscription",
            404,
        ),
        (lambda c: c.invoices.get("inv_none"), "invoice_not_found", 404),
        (lambda c: c.invoices.get_download_url("inv_none"), "invoice_not_found", 404),
        (
            lambda c: c.subscriptions.update_payment_method("sub_none"),
            "subscription_not_found",
            404,
        ),
        (
            lambda c: c.subscriptions.change_plan("sub_none", new_plan_id="pln_free"),
            "subscription_not_found",
            404,
        ),
        (
            lambda c: c.subscriptions.preview_change("sub_none", plan_id="pln_free"),
            "subscription_not_found",
            404,
        ),
        (
            lambda c: c.subscriptions.pause("sub_none", mode="immediate", duration_days=1),
            "subscription_not_found",
            404,
        ),
        (lambda c: c.subscriptions.resume("sub_none"), "subscription_not_found", 404),
        (
            lambda c: c.subscriptions.create(
                customer_id="usr_1", plan_code="usage_pro", offer_id="ofr_none"
            ),
            "offer_not_found",
            404,
        ),
        (
            lambda c: c.subscriptions.create(
                customer_id="usr_1", plan_code="usage_pro", promo_code="NONE"
            ),
            "promo_code_not_found",
            404,
        ),
        (lambda c: c.payments.get("pay_none"), "payment_not_found", 404),
        (lambda c: c.payments.cancel("pay_none"), "payment_not_found", 404),
        (lambda c: c.transactions.get("txn_none"), "transaction_not_found", 404),
        (lambda c: c.transactions.refund("txn_none"), "transaction_not_found", 404),
        (lambda c: c.transactions.retry("txn_none"), "transaction_not_found", 404),
        (lambda c: c.webhooks.get("whe_none"), "webhook_not_found", 404),
        (lambda c: c.webhooks.delete("whe_none"), "webhook_not_found", 404),
        (lambda c: c.portal.get_url(email="nobody@example.com"), "customer_not_found", 404),
        (lambda c: c.test_clock.process_billing(), "endpoint_deprecated", 410),
        (lambda c: c.offers.list(), "endpoint_not_available", 404),
    ],
)
def test_errors(sdk: Commet, call: Call, code: str, status: int) -> None:
    """Each refusal carries its code, a link to its documentation and a request id."""
    _customer(sdk)
    with pytest.raises(CommetAPIError) as caught:
        call(sdk)
    error = caught.value
    assert (error.code, error.status_code) == (code, status)
    assert error.type
    assert error.doc_url is not None
    assert error.doc_url.endswith(f"/2026-08-27/errors/{code}.md")
    assert error.request_id is not None
    assert error.request_id.startswith("req_")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda c: c.customers.create(email="nonsense"), "email"),
        (lambda c: c.customers.create(email="a@b.co", id="x" * 101), "id"),
        (lambda c: c.customers.create(email="a@b.co", timezone="Mars/Base"), "timezone"),
        (lambda c: c.customers.list(cursor="nonsense"), "cursor"),
        (lambda c: c.customers.list(limit=101), "limit"),
        (lambda c: c.subscriptions.create(customer_id="usr_1"), "body"),
        (
            lambda c: c.subscriptions.create(customer_id="usr_1", plan_id="a", plan_code="b"),
            "body",
        ),
        (lambda c: c.usage.track(feature_code="storage", customer_id="u", value=-1), "value"),
        (lambda c: c.usage.track(feature_code="storage", customer_id="u", value="1"), "value"),
        (lambda c: c.usage.track(feature_code="Storage!", customer_id="u"), "featureCode"),
        (
            lambda c: c.usage.track(feature_code="storage", customer_id="u", event_id="x" * 201),
            "eventId",
        ),
        (
            lambda c: c.usage.track(feature_code="storage", customer_id="u", timestamp="soon"),
            "timestamp",
        ),
        (lambda c: c.usage.check(feature_code="storage", customer_id="u", quantity=0), "quantity"),
        (lambda c: c.usage.set(feature_code="storage", customer_id="u", value=1.5), "value"),
        (lambda c: c.payments.create(amount=0, currency="usd", description="x"), "amount"),
        (lambda c: c.payments.create(amount=1, currency="$", description="x"), "currency"),
        (lambda c: c.payments.create(amount=1, currency="usd", description=""), "description"),
        (lambda c: c.portal.get_url(), "body"),
        (lambda c: c.webhooks.create(url="http://example.com", events=["customer.created"]), "url"),
        (lambda c: c.webhooks.create(url="https://example.com", events=["nope"]), "events"),
        (lambda c: c.test_clock.advance(), "body"),
        (lambda c: c.test_clock.advance(frozen_time="2020-01-01T00:00:00Z"), "frozenTime"),
        (lambda c: c.subscriptions.list(status="nope"), "status"),
        (lambda c: c.invoices.list(status="nope"), "status"),
        (lambda c: c.transactions.list(status="nope"), "status"),
    ],
)
def test_validation_errors_name_the_field(sdk: Commet, call: Call, field: str) -> None:
    """A request that is wrong in itself says where."""
    _customer(sdk)
    with pytest.raises(CommetValidationError) as caught:
        call(sdk)
    assert caught.value.status_code == 400
    assert field in caught.value.validation_errors


@pytest.mark.parametrize(
    ("setting", "status"),
    [("no_active_subscription", 404), ("feature_not_in_plan", 402), ("subscription_required", 409)],
)
def test_access_without_a_subscription_can_fail_in_other_ways(setting: str, status: int) -> None:
    """Commet does not say how; a client has to cope with any."""
    with standin(access_without_subscription=setting) as server, connect(server) as sdk:
        _customer(sdk)
        with pytest.raises(CommetAPIError) as caught:
            sdk.feature_access.get("storage", customer_id="usr_1")
        assert (caught.value.code, caught.value.status_code) == (setting, status)
        assert sdk.feature_access.list(customer_id="usr_1").data == []


def test_emails_can_be_unique() -> None:
    """By a switch; the caller's own id still finds the same customer."""
    with standin(repeated_email="conflict") as server, connect(server) as sdk:
        _customer(sdk)
        _customer(sdk)
        with pytest.raises(CommetAPIError) as caught:
            sdk.customers.create(email="ana@example.com", id="usr_2")
        assert (caught.value.code, caught.value.status_code) == ("duplicate", 409)
        entry = BatchCreateCustomersParamsCustomersItem(email="ana@example.com", id="usr_3")
        batch = sdk.customers.create_batch(customers=[entry])
        assert [item.index for item in batch.failed] == [0]


def test_a_wrong_key_is_unauthorized(server: StandIn) -> None:
    """A key that is not ours opens nothing."""
    with (
        connect(server, api_key="ck_sandbox_wrong") as stranger,
        pytest.raises(CommetAPIError) as caught,
    ):
        stranger.plans.list()
    assert (caught.value.status_code, caught.value.code) == (401, "unauthorized")


def test_a_second_live_subscription_is_refused(sdk: Commet, subscribed: str) -> None:
    """One relationship per customer."""
    assert subscribed
    with pytest.raises(CommetAPIError) as caught:
        sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_max")
    assert (caught.value.status_code, caught.value.code) == (409, "already_has_active_subscription")


def test_cancelling_twice(sdk: Commet, subscribed: str) -> None:
    """What is over cannot be cancelled, and what was not scheduled cannot be taken back."""
    with pytest.raises(CommetAPIError) as caught:
        sdk.subscriptions.uncancel(subscribed)
    assert caught.value.code == "not_scheduled_for_cancellation"
    sdk.subscriptions.cancel(subscribed)
    with pytest.raises(CommetAPIError) as caught:
        sdk.subscriptions.cancel(subscribed)
    assert caught.value.code == "already_scheduled"
    sdk.subscriptions.cancel(subscribed, immediate=True)
    with pytest.raises(CommetAPIError) as caught:
        sdk.subscriptions.cancel(subscribed)
    assert caught.value.code == "subscription_already_canceled"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"value": NaN}', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"", "validation_error"),
    ],
)
def test_bodies_that_are_not_json_objects(server: StandIn, body: bytes, code: str) -> None:
    """A body that cannot be read is told apart from one that lacks something."""
    answer = httpx.post(
        f"{server.base_url}/usage/events", content=body, headers={"x-api-key": server.api_key}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


def test_every_answer_is_json_with_our_headers(server: StandIn) -> None:
    """Unknown paths and methods, too."""
    for method, path in (("GET", "/nowhere"), ("PUT", "/plans"), ("DELETE", "/customers/cus_x")):
        answer = httpx.request(
            method, server.base_url + path, headers={"x-api-key": server.api_key}
        )
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "not_found_error"
        assert answer.headers["x-request-id"]
        assert answer.headers["Commet-Version"] == "2026-08-27"


# The catalogue as Commet documents it: type, then status where it is known or inferred, and codes.
CATALOGUE = [
    ("validation_error", 400, "plan_change_scheduled plans_not_in_same_group invalid_json"),
    ("validation_error", 400, "no_change_requested offer_not_applicable"),
    ("validation_error", 400, "free_plan_change_not_supported validation_error"),
    ("authentication_error", 401, "unauthorized"),
    ("authentication_error", 403, "forbidden sandbox_only"),
    ("not_found_error", 404, "customer_not_found plan_not_found price_not_found"),
    ("not_found_error", 404, "feature_not_found subscription_not_found invoice_not_found"),
    ("not_found_error", 404, "webhook_not_found not_found no_active_subscription"),
    ("not_found_error", 404, "endpoint_not_available offer_not_found promo_code_not_found"),
    ("not_found_error", 404, "transaction_not_found payment_not_found payment_method_not_found"),
    ("not_found_error", 410, "endpoint_deprecated"),
    ("conflict_error", 409, "already_has_active_subscription subscription_not_active"),
    ("conflict_error", 409, "invalid_subscription_status charge_in_progress duplicate"),
    ("conflict_error", 409, "subscription_already_canceled not_scheduled_for_cancellation"),
    ("conflict_error", 409, "already_scheduled one_time_subscription_not_cancelable"),
    ("conflict_error", 409, "no_outstanding_invoice no_prices_configured subscription_required"),
    ("conflict_error", 409, "idempotency_key_mismatch idempotency_in_progress"),
    ("conflict_error", 409, "payment_not_cancelable provider_unsupported"),
    ("conflict_error", 409, "card_promotions_not_available"),
    ("conflict_error", 422, "no_payment_method plan_unavailable"),
    ("billing_error", 402, "charge_failed included_limit_reached insufficient_credits"),
    ("billing_error", 402, "insufficient_balance feature_not_in_plan feature_disabled"),
    ("billing_error", 402, "missing_regional_price pricing_mode_mismatch payment_failed"),
    ("billing_error", 402, "seat_limit_exceeded"),
    ("rate_limit_error", 429, "rate_limited"),
    ("internal_error", 500, "internal_error subscription_creation_failed"),
    ("internal_error", 500, "subscription_activation_failed subscription_cancel_failed"),
    ("internal_error", 500, "idempotency_unavailable"),
    ("internal_error", 409, "subscription_uncancel_failed subscription_has_open_dispute"),
]


def test_every_documented_error_can_be_forced(server: StandIn) -> None:
    """Those that only Commet's inner life produces, too: by code alone, with type and status."""
    with connect(server, retries=0) as sdk:
        for kind, status, codes in CATALOGUE:
            named = codes.split()
            assert named
            for code in named:
                server.control.fault(match={"path": "/plans"}, action={"code": code})
                with pytest.raises(CommetAPIError) as caught:
                    sdk.plans.list()
                error = caught.value
                assert (error.code, error.type, error.status_code) == (code, kind, status)


def test_the_catalogue_is_the_stand_ins() -> None:
    """No code is known here that is not documented there."""
    documented = {code for _, _, codes in CATALOGUE for code in codes.split()}
    assert set(ERROR_TYPES) == documented
