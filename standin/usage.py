"""Counts what customers use, and refuses what their plan does not allow."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from standin import events
from standin.clock import iso, parse_iso
from standin.entitlements import Entitlement, entitlement
from standin.errors import ApiError, invalid
from standin.ids import new_id
from standin.models import Allowance, Customer, Meter, Subscription, UsageRecord, meter_id
from standin.schemas import SetUsage, TrackUsage
from standin.world import World

THRESHOLD = Decimal("0.8")


def track(world: World, request: TrackUsage) -> tuple[UsageRecord, Customer]:
    """Record a usage event. It counts in the current allowance, unless the settings say otherwise.

    Raises ApiError: customer_not_found, no_active_subscription, feature_not_found,
    feature_not_in_plan, feature_disabled, included_limit_reached, pricing_mode_mismatch, duplicate
    (an eventId seen before).
    """
    with world.store.shared_reads():
        customer = world.customer(request.customer_id)
    if request.event_id is not None:
        known = world.store.usage.first("event_id = ?", request.event_id)
        if known:
            return _repeated(world, known, customer)
    if request.model is not None or request.input_tokens is not None:
        raise ApiError(
            "pricing_mode_mismatch", "The feature is not priced by AI tokens", param="model"
        )
    sub, item = metered(world, customer, request.feature_code)
    value = request.value if request.value is not None else Decimal(1)
    if past := _past_allowance(world, sub, request):
        return _book_late(world, request, sub, past, value), customer
    if not item.fits(value):
        raise _limit_reached(item, value)
    lag = world.usage_lag(customer, request.feature_code)
    record = _record(world, request, sub, item.meter, value, lag=lag)
    events.usage_recorded(world, record, sub, customer, delay=lag)
    _count(world, sub, customer, item, value, delay=lag)
    return record, customer


def _past_allowance(world: World, sub: Subscription, request: TrackUsage) -> Allowance | None:
    """Returns the past allowance that an old event belongs to, if the event counts there.

    Raises ApiError: validation_error if the event is older than the stored allowances.
    """
    if world.settings.usage_period == "now" or request.timestamp is None or sub.allowance is None:
        return None
    ts = parse_iso(request.timestamp)
    if ts >= sub.allowance.start:
        return None
    found = [past for past in sub.past_allowances if past.start <= ts < past.end]
    if not found:
        raise invalid("timestamp", "is before the allowances of this subscription")
    return found[-1]


def _book_late(
    world: World, request: TrackUsage, sub: Subscription, past: Allowance, value: Decimal
) -> UsageRecord:
    """Count usage in its past allowance, which is billed, so without a limit and without events."""
    key = meter_id(past.id, request.feature_code)
    current = world.store.meters.get(key) or Meter(id=key)
    current.used += value
    world.store.meters.put(current)
    record = _record(world, request, sub, current, value, lag=0)
    events.usage_recorded(world, record, sub, world.owner(sub), delay=0)
    return record


def _repeated(world: World, known: UsageRecord, customer: Customer) -> tuple[UsageRecord, Customer]:
    if world.settings.repeated_event_id == "replay" and known.customer_id == customer.id:
        return known, customer
    raise ApiError("duplicate", "An event with this eventId was already recorded", param="eventId")


def metered(
    world: World, customer: Customer, feature_code: str
) -> tuple[Subscription, Entitlement]:
    """Returns the customer's subscription with access and its metered feature, with the exact
    total.

    The subscription comes from shared reads and must not be changed. Raises ApiError:
    feature_not_found, no_active_subscription, feature_not_in_plan, feature_disabled,
    insufficient_credits, insufficient_balance.
    """
    feature = world.catalogue.feature(feature_code)
    if feature is None:
        raise ApiError("feature_not_found", "Feature not found", param="featureCode")
    with world.store.shared_reads():
        sub = world.current_subscription(customer)
    if sub is None or not sub.has_access:
        raise ApiError(
            "no_active_subscription", "Customer has no active subscription", param="customerId"
        )
    item = entitlement(world, sub, feature_code, exact=True)
    if item is None:
        raise ApiError(
            "feature_not_in_plan", "The plan does not include this feature", param="featureCode"
        )
    if feature.type != "usage" or not item.grant.enabled:
        raise ApiError("feature_disabled", "The feature is not metered", param="featureCode")
    if item.model == "credits":
        raise ApiError("insufficient_credits", "The customer has no credits left")
    if item.model == "balance":
        raise ApiError("insufficient_balance", "The customer has no balance left")
    return sub, item


def _limit_reached(item: Entitlement, value: Decimal) -> ApiError:
    return ApiError(
        "included_limit_reached",
        "The requested usage exceeds the plan's included usage limit",
        details={
            "current": item.used,
            "included": item.included,
            "remaining": item.remaining,
            "requested": value,
        },
    )


def _record(
    world: World,
    request: TrackUsage,
    sub: Subscription,
    current: Meter,
    value: Decimal,
    *,
    lag: float,
) -> UsageRecord:
    now = world.now()
    return world.store.usage.put(
        UsageRecord(
            id=new_id("evt"),
            customer_id=sub.customer_id,
            subscription_id=sub.id,
            meter_id=current.id,
            feature_code=request.feature_code,
            value=value,
            event_id=request.event_id,
            ts=parse_iso(request.timestamp) if request.timestamp else now,
            created_at=now,
            shows_at=now + timedelta(seconds=lag) if lag else None,
            properties=[p.model_dump() for p in request.properties],
        )
    )


def _count(
    world: World,
    sub: Subscription,
    customer: Customer,
    item: Entitlement,
    value: Decimal,
    *,
    delay: float = 0.0,
) -> Meter:
    """Add to the running total, and send an event when it passes 80 % or the included amount."""
    current = item.meter
    current.used += value
    if not item.grant.unlimited:
        _note_thresholds(world, sub, customer, item, delay)
    return world.store.meters.put(current)


def _note_thresholds(
    world: World, sub: Subscription, customer: Customer, item: Entitlement, delay: float
) -> None:
    current = item.meter
    quota = _quota(sub, item, current)
    exhausted = not item.overage_enabled and current.used >= item.included
    if (current.used > item.included or exhausted) and not current.exceeded_noted:
        # If usage passes both marks at once, only the second event is sent.
        current.exceeded_noted = current.threshold_noted = True
        extra = {"overageEnabled": item.overage_enabled}
        world.store.meters.put(current)
        events.quota_event(world, "quota.exceeded", sub, customer, quota | extra, delay=delay)
        if not item.overage_enabled:
            events.state_changed(world, customer, "quota_exceeded")
    elif current.used >= item.included * THRESHOLD and not current.threshold_noted:
        current.threshold_noted = True
        events.quota_event(world, "quota.threshold_reached", sub, customer, quota, delay=delay)


def _quota(sub: Subscription, item: Entitlement, current: Meter) -> dict[str, Any]:
    if sub.allowance is None:
        raise LookupError(f"subscription {sub.id} has no allowance")
    return {
        "featureCode": item.feature.code,
        "currentUsage": current.used,
        "includedAmount": item.included,
        "periodStart": iso(sub.allowance.start),
    }


def set_total(world: World, request: SetUsage) -> tuple[UsageRecord, Customer, Decimal]:
    """Replace the total of the current allowance. The difference is stored as an adjustment.

    Returns the adjustment, the customer and the previous total. Raises the errors of `track`.
    """
    customer = world.customer(request.customer_id)
    sub, item = metered(world, customer, request.feature_code)
    before = item.used
    if request.value > before and not item.fits(request.value - before):
        raise _limit_reached(item, request.value - before)
    now = world.now()
    record = world.store.usage.put(
        UsageRecord(
            id=new_id("evt"),
            kind="adjustment",
            customer_id=customer.id,
            subscription_id=sub.id,
            meter_id=item.meter.id,
            feature_code=request.feature_code,
            value=request.value - before,
            event_id=None,
            ts=now,
            created_at=now,
            reason=request.reason,
        )
    )
    _count(world, sub, customer, item, record.value)
    return record, customer, before
