"""Turns each of Commet's webhooks into a change. These are pure functions.

No field is trusted to exist, to have the right type or to hold a known value. A field that cannot
be read is left out of the change. The fields of each type: commet-api, webhook contract 2026-08-27.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from billing import email_address
from billing.commet.webhook_fields import (
    MADE_FOR,
    Data,
    is_null,
    iso,
    nested,
    number,
    text,
    time_of,
)
from billing.payments import from_webhook as payments
from billing.subscriptions.changes import AllowancePeriod, Change, entitlement, scheduled_change

# Every status of a subscription that the contract knows.
STATUSES = frozenset(
    {"draft", "pending_payment", "trialing", "active", "past_due", "paused", "canceled"}
)


class Unreadable(Exception):
    """A signed body that is not JSON, or not a JSON object."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """The parts of a webhook that we read. `customer` is our user's id, or Commet's customer id."""

    id: str
    type: str
    mode: str | None
    occurred_at: datetime | None
    customer: str | None
    data: Data


def body_id(body: bytes) -> str:
    """Returns an id for a webhook that has none. The same body always gets the same id."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def parse(body: bytes) -> Webhook:
    """Returns the webhook in a body. Raises Unreadable."""
    try:
        envelope = json.loads(body, parse_float=str)  # as text, because a float is inexact
    except (ValueError, RecursionError) as error:
        raise Unreadable(type(error).__name__) from None
    if not isinstance(envelope, dict):
        raise Unreadable("not an object")
    data = envelope.get("data")
    data = data if isinstance(data, dict) else {}
    event = text(envelope, "event") or ""
    return Webhook(
        id=text(envelope, "id") or body_id(body),
        type=event,
        mode=text(envelope, "mode"),
        occurred_at=time_of(envelope.get("timestamp")),
        # Old API versions send Commet's customer id as customerId and our user id as externalId.
        # A webhook about a customer is the customer itself.
        customer=text(data, "id")
        if event in _ABOUT_CUSTOMERS
        else text(data, "externalId") or text(data, "customerId"),
        data=data,
    )


# Names of fields that may say who somebody is, or hold text that somebody wrote.
_PERSONAL = re.compile(
    r"email|name$|address|phone|recipient|description|metadata|cardholder|taxid|taxnumber|url|note",
    re.IGNORECASE,
)
# Exceptions from _PERSONAL: names of plans and features, and a page that the mirror knows.
_NOT_PERSONAL = frozenset({"planName", "unitName", "featureName", "checkoutUrl", "name"})


def stripped(body: bytes) -> bytes:
    """Returns a webhook's body without personal fields; b"{}" if it is not JSON."""
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return b"{}"
    return json.dumps(_without_personal(envelope, inside="")).encode()


def _without_personal(value: Any, *, inside: str) -> Any:
    if isinstance(value, list):
        return [_without_personal(each, inside=inside) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_personal(each, inside=key)
        for key, each in value.items()
        if not _PERSONAL.search(key)
        or (key in _NOT_PERSONAL and inside.lower() not in ("customer", "billingdetails"))
    }


def change_of(webhook: Webhook) -> Change | None:
    """Returns what the webhook says about its customer; None if it changes nothing here."""
    if webhook.customer is None:
        return None
    if webhook.type in _ABOUT_CUSTOMERS:
        return Change(customer=_customer_news(webhook.customer, webhook.data))
    change, debt = _subscription_change(webhook), _debt_news(webhook)
    news = payments.news_of(webhook.type, webhook.data)
    if news is None and debt is None:
        return change
    payment = news.parameter(dated=webhook.occurred_at is not None) if news else None
    return replace(change or Change(), payment=payment, debt=debt)


def _subscription_change(webhook: Webhook) -> Change | None:
    if webhook.type == "customer.state_changed":
        change = _state_changed(webhook.data)
    else:
        subscription_id = text(webhook.data, "subscriptionId")
        rule = _RULES.get(webhook.type)
        if rule is None or subscription_id is None:
            return None
        known = {c: value for c, value in rule.known(webhook.data).items() if value is not None}
        known |= dict.fromkeys(rule.ends)
        currency = text(webhook.data, rule.currency, longest=3) if rule.currency else None
        change = Change(subscription_id, known, mark=rule.mark, currency=currency)
    if change.known.get("status", "active") not in STATUSES:
        # A status that we do not know takes nothing away. It marks the subscription, so that Commet
        # is asked.
        known = {column: value for column, value in change.known.items() if column != "status"}
        change = Change(change.subscription_id, known, mark=True)
    if webhook.occurred_at is None:
        # A webhook without a time may be older than the mirror. It only marks the subscription, so
        # that Commet is asked.
        return Change(change.subscription_id, mark=True) if change.subscription_id else None
    return change


@dataclass(frozen=True, slots=True)
class _Rule:
    known: Callable[[Data], dict[str, Any]]
    mark: bool = False
    ends: tuple[str, ...] = ()  # columns that become null
    currency: str | None = None  # the field that has the currency of the subscription's invoice


def _status(data: Data) -> dict[str, Any]:
    return {"status": text(data, "status")}


def _period(data: Data) -> dict[str, Any]:
    return _status(data) | {
        "period_start": iso(data, "currentPeriodStart"),
        "period_end": iso(data, "currentPeriodEnd"),
    }


def _plan(data: Data) -> dict[str, Any]:
    return _status(data) | {
        "plan_id": text(data, "planId"),
        "plan_name": text(data, "planName"),
        "trial_ends_at": iso(data, "trialEndsAt"),
    }


def _plan_changed(data: Data) -> dict[str, Any]:
    plan = nested(data, "currentPlan")
    return {
        "plan_id": text(plan, "id"),
        "plan_name": text(plan, "name"),
        "billing_interval": text(data, "billingInterval"),
    }


def _plan_change_scheduled(data: Data) -> dict[str, Any]:
    plan = nested(data, "scheduledPlan")
    plan_id, effective_at = text(plan, "id"), iso(data, "effectiveAt")
    if plan_id is None or effective_at is None:
        return _status(data)
    return _status(data) | {
        "scheduled_change": scheduled_change(
            plan_id=plan_id,
            plan_name=text(plan, "name"),
            interval=text(data, "scheduledBillingInterval"),
            effective_at=effective_at,
        )
    }


def _nothing(_: Data) -> dict[str, Any]:
    return {}


_RULES: dict[str, _Rule] = {
    "subscription.created": _Rule(_plan),
    "subscription.activated": _Rule(_period, currency="invoiceCurrency"),
    "subscription.reactivated": _Rule(_period, mark=True, currency="invoiceCurrency"),
    "subscription.updated": _Rule(_status, mark=True),
    # Marked, because the webhook does not contain the last plan and period. If we missed a change
    # of them, the mirror would show wrong ones for ever.
    "subscription.canceled": _Rule(
        lambda _: {"status": "canceled"}, mark=True, ends=("scheduled_change",)
    ),
    "subscription.cancellation_scheduled": _Rule(
        lambda data: _status(data) | {"cancel_at_period_end": True}
    ),
    "subscription.cancellation_revoked": _Rule(
        lambda data: (
            _status(data)
            | {"cancel_at_period_end": False, "period_end": iso(data, "currentPeriodEnd")}
        )
    ),
    "subscription.past_due": _Rule(_status),
    "subscription.plan_changed": _Rule(_plan_changed, mark=True, ends=("scheduled_change",)),
    "subscription.plan_change_scheduled": _Rule(_plan_change_scheduled),
    # Marked, because another change may have replaced this one, and the times of the two webhooks
    # do not show which came first.
    "subscription.plan_change_revoked": _Rule(_status, mark=True, ends=("scheduled_change",)),
    "subscription.pause_scheduled": _Rule(_status),
    "subscription.pause_updated": _Rule(_status),
    "subscription.pause_revoked": _Rule(_status),
    "subscription.paused": _Rule(lambda _: {"status": "paused"}),
    "subscription.resumed": _Rule(_status, mark=True),
    "subscription.resume_failed": _Rule(_status),
    "trial.started": _Rule(_plan, mark=True),
    "trial.will_end": _Rule(_plan, mark=True),
    "trial.expired": _Rule(_nothing, mark=True),
    "trial.converted": _Rule(_plan, mark=True),
    "trial.checkout_ready": _Rule(lambda data: {"checkout_url": text(data, "checkoutUrl")}),
    "checkout.ready": _Rule(
        lambda data: {"checkout_url": text(data, "checkoutUrl")}, currency="invoiceCurrency"
    ),
    # No other webhook reports a renewal, and this one does not contain the new period.
    "invoice.created": _Rule(_nothing, mark=True, currency="currency"),
    # Other webhooks report whether a subscription is past due, and they may be lost.
    "payment.failed": _Rule(_nothing, mark=True),
    "payment.recovered": _Rule(_nothing, mark=True),
    "payment.retry_failed": _Rule(_nothing, mark=True),
    "invoice.voided": _Rule(_nothing, mark=True),
    "plan_grant.created": _Rule(_nothing, mark=True),
    "plan_grant.updated": _Rule(_nothing, mark=True),
    "plan_grant.expired": _Rule(_nothing, mark=True),
    "plan_grant.revoked": _Rule(_nothing, mark=True),
}


# The types of webhooks that say who a customer is.
_ABOUT_CUSTOMERS = ("customer.created", "customer.updated")

# The types of webhooks that may report something about debts.
_ABOUT_DEBTS = (
    "invoice.voided",
    "payment.received",
    "payment.refunded",
    "payment_link.completed",
)

# The types of webhooks that our endpoint is registered for: all that change something here.
HANDLED = tuple(
    dict.fromkeys(
        [*_RULES, "customer.state_changed", *_ABOUT_CUSTOMERS, *payments.HANDLED, *_ABOUT_DEBTS]
    )
)


def _customer_news(customer_id: str, data: Data) -> dict[str, Any]:
    """Returns what the webhook says about who a customer is, for `record_customer`."""
    external_id = text(data, "externalId")
    made_for = text(nested(data, "metadata"), MADE_FOR)
    email = text(data, "email")
    is_readable = external_id is not None or is_null(data, "externalId")
    return {
        "id": customer_id,
        "external_id": external_id,
        "email_key": email and email_address.key(email),
        # If the customer's time or id cannot be read, Commet is asked.
        "at": iso(data, "updatedAt") if is_readable else None,
        "ours": external_id is not None and made_for == external_id,
    }


def _debt_news(webhook: Webhook) -> dict[str, Any] | None:
    """Returns what the webhook says about debts, for `record_debt_news`."""
    invoice = text(webhook.data, "invoiceId")
    payment = text(webhook.data, "paymentId")
    link = text(webhook.data, "paymentLinkId")
    if webhook.type == "invoice.voided" and invoice:
        return {"void": invoice}
    if webhook.type == "payment.received" and invoice:
        return {"collected": invoice}
    if webhook.type == "payment_link.completed" and payment:
        return {"link": payment, "transaction": text(webhook.data, "paymentTransactionId")}
    if webhook.type == "payment.refunded" and link:
        return {"refunded": link}
    return None


def _state_changed(data: Data) -> Change:
    """Returns the change in a `customer.state_changed`, which lists everything the customer has."""
    subscription_id = text(data, "subscriptionId")
    status = text(data, "status")
    features = _features(data)
    if status == "none" or is_null(data, "status") or is_null(data, "subscriptionId"):
        return Change(ends_all=True, features=features)
    plan = nested(data, "plan")
    known = {
        "status": status,
        "plan_id": text(plan, "id"),
        "plan_name": text(plan, "name"),
        "billing_interval": text(data, "billingInterval"),
    }
    known = {column: value for column, value in known.items() if value is not None}
    if is_null(data, "billingInterval"):
        known["billing_interval"] = None  # Commet sends null for a free plan
    return Change(
        subscription_id,
        known,
        mark=status is None or features is None,
        features=features,
        period=_allowance_period(data, subscription_id) if subscription_id else None,
    )


def _features(data: Data) -> list[dict[str, Any]] | None:
    listed = data.get("features")
    if not isinstance(listed, list):
        return None
    features = {}
    for each in listed:
        code = text(each, "code") if isinstance(each, dict) else None
        if code is None:
            # Without this feature the set is incomplete. Applying it would take the feature from
            # the user.
            return None
        features[code] = _entitlement(each, code)
    return list(features.values())


def _entitlement(data: Data, code: str) -> dict[str, Any]:
    consumption = nested(data, "consumption")
    units = consumption or nested(data, "usage")  # seats and quotas have `usage`
    overage = nested(units, "overage")
    price = nested(overage, "unitPrice")
    return entitlement(
        feature=code,
        name=text(data, "name") or code,
        type=text(data, "type") or "unknown",
        unit=text(data, "unitName"),
        # A boolean feature has `enabled` beside `allowed`. It is granted only if both are true.
        allowed=data.get("allowed") is True and data.get("enabled") is not False,
        model=text(consumption, "model"),
        included=number(units, "includedUnits"),
        unlimited=units.get("unlimited") is True,
        overage_enabled=overage.get("enabled") is True,
        unit_price=number(price, "amount"),
        currency=text(price, "currency"),
    )


def _allowance_period(data: Data, subscription_id: str) -> AllowancePeriod | None:
    listed = data.get("features")
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict):
            period = nested(nested(each, "consumption"), "period")
            start, end = iso(period, "start"), iso(period, "end")
            if start and end and start < end:
                return AllowancePeriod(subscription_id, start, end)
    return None
