"""Turns Commet's answers into changes, as `from_webhook` does with webhooks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from billing.commet.answers import FeatureAccess, Subscription
from billing.subscriptions.changes import AllowancePeriod, Change, entitlement, scheduled_change


def known_of(answer: Subscription) -> dict[str, Any]:
    """Returns the value of every column of `subscriptions` that Commet's answer contains."""
    period = answer.current_period
    return {
        "status": answer.status,
        "plan_id": answer.plan.id,
        "plan_name": answer.plan.name,
        "billing_interval": answer.billing_interval,
        "period_start": period.start.isoformat() if period else None,
        "period_end": period.end.isoformat() if period else None,
        "cancel_at_period_end": answer.cancel_at_period_end,
        "scheduled_change": _scheduled_change(answer),
        "trial_ends_at": answer.trial_ends_at.isoformat() if answer.trial_ends_at else None,
        "checkout_url": answer.checkout_url,
        "created_at": answer.created_at.isoformat(),
    }


def subscription_change(answer: Subscription, asked_at: datetime) -> Change:
    """Returns the change to record for a subscription that may be new to us, without nulls.

    Commet names the owner as of `asked_at`.
    """
    known = {column: value for column, value in known_of(answer).items() if value is not None}
    return Change(answer.id, known, owned_at=asked_at)


def _scheduled_change(answer: Subscription) -> dict[str, Any] | None:
    booked = answer.scheduled_plan_change
    if booked is None:
        return None
    return scheduled_change(
        plan_id=booked.new_plan_id or answer.plan.id,  # null: only the interval changes
        plan_name=booked.new_plan_name or answer.plan.name,
        interval=booked.new_billing_interval,
        effective_at=booked.scheduled_for.isoformat() if booked.scheduled_for else None,
    )


def entitlement_change(subscription_id: str, features: Sequence[FeatureAccess]) -> Change:
    """Returns the customer's entitlements, and the period in which their usage is counted."""
    periods = [f.consumption.period for f in features if f.consumption]
    period = (
        AllowancePeriod(subscription_id, periods[0].start.isoformat(), periods[0].end.isoformat())
        if periods
        else None
    )
    return Change(features=[_entitlement(f) for f in features], period=period)


def _entitlement(access: FeatureAccess) -> dict[str, Any]:
    units = access.consumption or access.usage
    overage = units.overage if units else None
    price = overage.unit_price if overage else None
    included = units.included_units if units else None
    return entitlement(
        feature=access.code,
        name=access.name,
        type=access.type,
        unit=access.unit_name,
        allowed=access.allowed and access.enabled,
        model=access.consumption.model if access.consumption else None,
        included=str(included) if included is not None else None,
        unlimited=units.unlimited if units else False,
        overage_enabled=overage.enabled if overage else False,
        unit_price=str(price.amount) if price else None,
        currency=price.currency if price else None,
    )
