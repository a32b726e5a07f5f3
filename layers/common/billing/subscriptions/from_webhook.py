"""Turns each of Commet's webhooks into a change. Pure functions: they read nothing else.

No field is trusted to exist, to have the right type or to hold a known value. A field that cannot
be read is left out of the change. The fields of each type: commet-api, webhook contract 2026-08-27.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from billing.subscriptions.changes import AllowancePeriod, Change, entitlement

_MAX_TEXT = 500
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,6})?")

Data = Mapping[str, Any]

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
    """The id of a webhook that has none of its own. The same body always gives the same id."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def parse(body: bytes) -> Webhook:
    """The webhook in a body; raises Unreadable."""
    try:
        envelope = json.loads(body, parse_float=str)  # as text, because a float is inexact
    except (ValueError, RecursionError) as error:
        raise Unreadable(type(error).__name__) from None
    if not isinstance(envelope, dict):
        raise Unreadable("not an object")
    data = envelope.get("data")
    data = data if isinstance(data, dict) else {}
    return Webhook(
        id=_text(envelope, "id") or body_id(body),
        type=_text(envelope, "event") or "",
        mode=_text(envelope, "mode"),
        occurred_at=_time(envelope.get("timestamp")),
        # Old API versions send Commet's customer id as customerId and our user id as externalId.
        customer=_text(data, "externalId") or _text(data, "customerId"),
        data=data,
    )


def change_of(webhook: Webhook) -> Change | None:
    """What the webhook says about its customer, or None where it changes nothing here."""
    if webhook.customer is None:
        return None
    if webhook.type == "customer.state_changed":
        change = _state_changed(webhook.data)
    else:
        subscription_id = _text(webhook.data, "subscriptionId")
        rule = _RULES.get(webhook.type)
        if rule is None or subscription_id is None:
            return None
        known = {c: value for c, value in rule.known(webhook.data).items() if value is not None}
        change = Change(subscription_id, known, mark=rule.mark)
    if change.known.get("status", "active") not in STATUSES:
        # An unknown status takes nothing away. The subscription is marked, so that Commet is asked.
        known = {column: value for column, value in change.known.items() if column != "status"}
        change = Change(change.subscription_id, known, mark=True)
    if webhook.occurred_at is None:
        # A webhook without a time may be older than what we know. It only marks the subscription,
        # so that Commet is asked.
        return Change(change.subscription_id, mark=True) if change.subscription_id else None
    return change


@dataclass(frozen=True, slots=True)
class _Rule:
    known: Callable[[Data], dict[str, Any]]
    mark: bool = False


def _status(data: Data) -> dict[str, Any]:
    return {"status": _text(data, "status")}


def _period(data: Data) -> dict[str, Any]:
    return _status(data) | {
        "period_start": _iso(data, "currentPeriodStart"),
        "period_end": _iso(data, "currentPeriodEnd"),
    }


def _plan(data: Data) -> dict[str, Any]:
    return _status(data) | {
        "plan_id": _text(data, "planId"),
        "plan_name": _text(data, "planName"),
        "trial_ends_at": _iso(data, "trialEndsAt"),
    }


def _plan_changed(data: Data) -> dict[str, Any]:
    plan = _object(data, "currentPlan")
    return {
        "plan_id": _text(plan, "id"),
        "plan_name": _text(plan, "name"),
        "billing_interval": _text(data, "billingInterval"),
    }


def _nothing(_: Data) -> dict[str, Any]:
    return {}


_RULES: dict[str, _Rule] = {
    "subscription.created": _Rule(_plan),
    "subscription.activated": _Rule(_period),
    "subscription.reactivated": _Rule(_period, mark=True),
    "subscription.updated": _Rule(_status, mark=True),
    # Marked, because the last plan and period are not in the webhook. If we missed a change of
    # them, the mirror would show the wrong ones for ever.
    "subscription.canceled": _Rule(lambda _: {"status": "canceled"}, mark=True),
    "subscription.cancellation_scheduled": _Rule(
        lambda data: _status(data) | {"cancel_at_period_end": True}
    ),
    "subscription.cancellation_revoked": _Rule(
        lambda data: (
            _status(data)
            | {"cancel_at_period_end": False, "period_end": _iso(data, "currentPeriodEnd")}
        )
    ),
    "subscription.past_due": _Rule(_status),
    "subscription.plan_changed": _Rule(_plan_changed, mark=True),
    "subscription.plan_change_scheduled": _Rule(_status),
    "subscription.plan_change_revoked": _Rule(_status),
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
    "trial.checkout_ready": _Rule(lambda data: {"checkout_url": _text(data, "checkoutUrl")}),
    "checkout.ready": _Rule(lambda data: {"checkout_url": _text(data, "checkoutUrl")}),
    # A renewal sends no other webhook, and this one does not contain the new period.
    "invoice.created": _Rule(_nothing, mark=True),
    "payment.recovered": _Rule(_nothing, mark=True),
    "plan_grant.created": _Rule(_nothing, mark=True),
    "plan_grant.updated": _Rule(_nothing, mark=True),
    "plan_grant.expired": _Rule(_nothing, mark=True),
    "plan_grant.revoked": _Rule(_nothing, mark=True),
}


# The webhook types for which our endpoint is registered: all that change something here.
HANDLED = (*_RULES, "customer.state_changed")


def _state_changed(data: Data) -> Change:
    """The change that `customer.state_changed` brings: it lists everything the customer has."""
    subscription_id = _text(data, "subscriptionId")
    status = _text(data, "status")
    features = _features(data)
    if status == "none" or _is_null(data, "status") or _is_null(data, "subscriptionId"):
        return Change(ends_all=True, features=features)
    plan = _object(data, "plan")
    known = {
        "status": status,
        "plan_id": _text(plan, "id"),
        "plan_name": _text(plan, "name"),
        "billing_interval": _text(data, "billingInterval"),
    }
    known = {column: value for column, value in known.items() if value is not None}
    if _is_null(data, "billingInterval"):
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
        code = _text(each, "code") if isinstance(each, dict) else None
        if code is None:
            # The set is incomplete, and applying it would take the unreadable feature away.
            return None
        features[code] = _entitlement(each, code)
    return list(features.values())


def _entitlement(data: Data, code: str) -> dict[str, Any]:
    consumption = _object(data, "consumption")
    units = consumption or _object(data, "usage")  # seats and quotas have `usage`
    overage = _object(units, "overage")
    price = _object(overage, "unitPrice")
    return entitlement(
        feature=code,
        name=_text(data, "name") or code,
        type=_text(data, "type") or "unknown",
        unit=_text(data, "unitName"),
        # A boolean feature has `enabled` beside `allowed`, and both have to be true.
        allowed=data.get("allowed") is True and data.get("enabled") is not False,
        model=_text(consumption, "model"),
        included=_number(units, "includedUnits"),
        unlimited=units.get("unlimited") is True,
        overage_enabled=overage.get("enabled") is True,
        unit_price=_number(price, "amount"),
        currency=_text(price, "currency"),
    )


def _allowance_period(data: Data, subscription_id: str) -> AllowancePeriod | None:
    listed = data.get("features")
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict):
            period = _object(_object(each, "consumption"), "period")
            start, end = _iso(period, "start"), _iso(period, "end")
            if start and end and start < end:
                return AllowancePeriod(subscription_id, start, end)
    return None


def _is_null(data: Data, key: str) -> bool:
    """Whether the key is present and its value is null."""
    return key in data and data[key] is None


def _object(data: Data, key: str) -> Data:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _text(data: Data, key: str) -> str | None:
    """A string that Postgres can store, or None."""
    value = data.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or "\x00" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return value


def _number(data: Data, key: str) -> str | None:
    """A number as decimal text that fits numeric(21,6), or None."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value)  # `parse` has kept fractions as text
    return text if _DECIMAL.fullmatch(text) else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # OverflowError: outside the years 1 to 9999 in UTC
        return None


def _iso(data: Data, key: str) -> str | None:
    moment = _time(data.get(key))
    return moment.isoformat() if moment else None
