"""What each of Commet's webhook events changes here. Pure: an event in, its news out.

Nothing an event holds is trusted to have the right type, to be there, or to be known: what cannot
be read is not spoken of. Which event carries what: commet-api, webhook contract 2026-08-27.
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
    """A signed body that is no event: not JSON, or not an object."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook as far as we read it."""

    id: str
    type: str
    mode: str | None
    occurred_at: datetime | None
    customer: str | None
    data: Data


def body_id(body: bytes) -> str:
    """What stands in for a missing event id: the same body has the same one."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def parse(body: bytes) -> Webhook:
    """The event in a body; raises Unreadable."""
    try:
        envelope = json.loads(body, parse_float=str)  # no amount is read from an event as a number
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
        # Endpoints pinned to an old version send Commet's id as customerId and ours beside it.
        customer=_text(data, "externalId") or _text(data, "customerId"),
        data=data,
    )


def change_of(event: Webhook) -> Change | None:
    """What the event says about its customer, or None where it changes nothing here."""
    if event.customer is None:
        return None
    if event.type == "customer.state_changed":
        change = _state_changed(event.data)
    else:
        subscription_id = _text(event.data, "subscriptionId")
        rule = _RULES.get(event.type)
        if rule is None or subscription_id is None:
            return None
        known = {c: value for c, value in rule.known(event.data).items() if value is not None}
        change = Change(subscription_id, known, mark=rule.mark)
    if change.known.get("status", "active") not in STATUSES:
        # A status that nobody knows takes nothing away: Commet is asked what it means.
        known = {column: value for column, value in change.known.items() if column != "status"}
        change = Change(change.subscription_id, known, mark=True)
    if event.occurred_at is None:
        # Without a time it cannot be ordered: all it can do is make us ask.
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
    # What it ended with: a plan or a period we never heard of would be shown for good.
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
    # A renewal fires nothing else: the new period has to be asked for.
    "invoice.created": _Rule(_nothing, mark=True),
    "payment.recovered": _Rule(_nothing, mark=True),
    "plan_grant.created": _Rule(_nothing, mark=True),
    "plan_grant.updated": _Rule(_nothing, mark=True),
    "plan_grant.expired": _Rule(_nothing, mark=True),
    "plan_grant.revoked": _Rule(_nothing, mark=True),
}


# What the webhook endpoint is to be registered for: everything that changes something here.
HANDLED = (*_RULES, "customer.state_changed")


def _state_changed(data: Data) -> Change:
    """A snapshot of everything the customer has, at the moment of the event."""
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
        known["billing_interval"] = None  # how Commet says that the plan is free
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
            return None  # the set is not whole: what is missing from it would be taken away
        features[code] = _entitlement(each, code)
    return list(features.values())


def _entitlement(data: Data, code: str) -> dict[str, Any]:
    consumption = _object(data, "consumption")
    units = consumption or _object(data, "usage")  # what seats and quotas have
    overage = _object(units, "overage")
    price = _object(overage, "unitPrice")
    return entitlement(
        feature=code,
        name=_text(data, "name") or code,
        type=_text(data, "type") or "unknown",
        unit=_text(data, "unitName"),
        # A boolean feature says `enabled` beside `allowed`; both have to hold.
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
    """Whether null is what it says, not that it says nothing."""
    return key in data and data[key] is None


def _object(data: Data, key: str) -> Data:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _text(data: Data, key: str) -> str | None:
    """A string Postgres can hold, or None."""
    value = data.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or "\x00" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return value


def _number(data: Data, key: str) -> str | None:
    """A number as decimal text that fits numeric(21,6), or None."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value)  # the parser keeps fractions as the text they were sent as
    return text if _DECIMAL.fullmatch(text) else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the other: not in the years 1 to 9999 of UTC
        return None


def _iso(data: Data, key: str) -> str | None:
    moment = _time(data.get(key))
    return moment.isoformat() if moment else None
