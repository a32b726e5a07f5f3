"""The most important notice for a user, as a banner, and badges for other states.

Works on the dashboard's answer. Dates are shown if Commet reported them, and never guessed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from urllib.parse import urlencode

from billing.http.shapes.dashboard import (
    Dashboard,
    PaymentTroubleReply,
    SubscriptionReply,
    UsageReply,
)
from billing.http.shapes.limits import SpendingReply
from billing.http.shapes.plans import PriceReply
from billing.pages import formats

# The target of a banner's link. A path is a link. A target that begins with POST is a form.
PLANS = "/"
CHECKOUT = "/app/checkout"
BILLING = "/app/billing"
CANCEL = "/app/billing/cancel"
LIMIT = "/app#limit"
CONFIRM = "/app/confirm"
RECOVER = "POST /app/billing/recovery"
KEEP = "POST /app/billing/keep"
PORTAL = "POST /app/billing/portal"
DEBT = "POST /app/billing/debt"


@dataclass(frozen=True, slots=True)
class Banner:
    """One notice: `banner.<name>` in the words, with its values, and what to do about it."""

    name: str
    kind: str  # bad, warn, "" (neutral) or good: its colour
    target: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Badge:
    """A word or two beside the heading: `badge.<name>` in the words."""

    name: str
    kind: str
    values: Mapping[str, str] = field(default_factory=dict)


# The badges of notices that are not the banner. The other notices have a badge as states of the
# subscription.
_BADGES = {
    "debt": ("debt", "bad"),
    "limit_reached": ("limit_reached", "bad"),
    "ceiling_reached": ("limit_reached", "bad"),
    "unpaid_invoice": ("unpaid_invoice", "bad"),
    "unpaid_invoice_unknown": ("unpaid_invoice", "bad"),
    "used_up": ("used_up", "warn"),
    "runs_past": ("runs_past", "warn"),
    "as_of": ("as_of", ""),
}


def notices(
    dashboard: Dashboard,
    now: datetime,
    *,
    price: PriceReply | None = None,
    runs_past: Banner | None = None,
    unconfirmed: Banner | None = None,
) -> list[Banner]:
    """Returns all notices, the most important one first.

    `price` is what the plan costs after a trial, if that is known.
    """
    return list(_banners(dashboard, now, price, runs_past, unconfirmed))


def badges(dashboard: Dashboard, now: datetime, others: Sequence[Banner] = ()) -> list[Badge]:
    """The state of the subscription, and each of `others`, in a word each."""
    found = [Badge(*_BADGES[each.name], each.values) for each in others if each.name in _BADGES]
    return _states(dashboard, now) + found


def _states(dashboard: Dashboard, now: datetime) -> list[Badge]:
    subscription = dashboard.subscription
    if subscription is None:
        return []
    found = [_status(subscription, dashboard)]
    is_over = not (dashboard.access or subscription.status in _OURS)
    if subscription.cancel_at_period_end and subscription.current_period and not is_over:
        ends = formats.day(subscription.current_period.end, now)
        found.append(Badge("ends", "warn", {"day": ends}))
    if dashboard.payment is not None and dashboard.payment.kind == "dispute":
        found.append(Badge("dispute", "bad"))
    return found


def _status(subscription: SubscriptionReply, dashboard: Dashboard) -> Badge:
    kind = "good" if dashboard.access else "bad"
    if subscription.status in ("paused", "past_due", "pending_payment"):
        kind = "warn"
    return Badge(f"status_{subscription.status}", kind)


def _banners(
    dashboard: Dashboard,
    now: datetime,
    price: PriceReply | None,
    runs_past: Banner | None,
    unconfirmed: Banner | None,
) -> Iterator[Banner]:
    subscription = dashboard.subscription
    if dashboard.debt is not None:
        owed = formats.money(dashboard.debt.amount, dashboard.debt.currency)
        yield Banner("debt", "bad", DEBT, {"amount": owed})
    if subscription is None or not (dashboard.access or subscription.status in _OURS):
        yield Banner("no_plan", "", PLANS)
        return
    plan = subscription.plan.name or ""
    spending = dashboard.spending
    if spending and spending.limit is not None and _reached(spending.spent, spending.limit):
        yield _limit(dashboard, spending, now)
    if dashboard.payment is not None:
        yield trouble(dashboard.payment)
    if subscription.status == "pending_payment":
        pay = f"{CHECKOUT}?{urlencode({'plan': subscription.plan.id})}"
        yield Banner("pending", "warn", pay, {"plan": plan})
    for feature in dashboard.usage:
        if dashboard.access and _is_used_up(feature):
            yield _used_up(feature, now)
    if runs_past is not None:
        yield runs_past
    if subscription.cancel_at_period_end:
        yield from _ends(subscription, plan, now)
    if subscription.status == "paused":
        yield Banner("paused", "warn", PORTAL, {"plan": plan})
    if subscription.status == "trialing" and subscription.trial_ends_at:
        yield _trial(plan, subscription.trial_ends_at, price, now)
    if unconfirmed is not None:
        yield unconfirmed


# With these statuses the user still has the plan, whether or not it gives access.
_OURS = frozenset({"past_due", "paused", "pending_payment"})


def trouble(payment: PaymentTroubleReply) -> Banner:
    """The notice about a payment that went wrong."""
    amount = (
        formats.money(payment.amount, payment.currency)
        if payment.amount is not None and payment.currency is not None
        else ""
    )
    name = {"dispute": "dispute", "unpaid_invoice": "unpaid_invoice"}.get(payment.kind, "failed")
    if name == "dispute":
        return Banner("dispute", "bad", PORTAL, {"amount": amount})
    known = name if amount else f"{name}_unknown"
    return Banner(known, "bad", RECOVER, {"amount": amount})


def _limit(dashboard: Dashboard, spending: SpendingReply, now: datetime) -> Banner:
    """Names the features that pause: those whose included quantity is used, or else all that are
    sold beyond it.
    """
    sold = [each for each in dashboard.usage if each.overage.enabled]
    paused = [each for each in sold if not Decimal(each.remaining or 0)] or sold
    ends = [each.period.end for each in paused]
    values = {
        "limit": formats.money(spending.limit or "0", spending.currency),
        "features": formats.listed([each.name for each in paused]),
        "day": formats.day(min(ends), now) if ends else "",
    }
    name = "limit_reached" if spending.set_by == "user" else "ceiling_reached"
    return Banner(name, "bad", LIMIT, values)


def _trial(plan: str, ends: datetime, price: PriceReply | None, now: datetime) -> Banner:
    days = max(0, math.ceil((ends - now) / timedelta(days=1)))
    values = {"count": str(days), "plan": plan, "day": formats.day(ends, now)}
    if price is None:
        return Banner("trial_unpriced", "", CANCEL, values)
    amount = formats.money(price.amount, price.currency)
    values |= {"price": amount, "interval": formats.interval(price.interval)}
    return Banner("trial", "", CANCEL, values)


def _ends(subscription: SubscriptionReply, plan: str, now: datetime) -> Iterator[Banner]:
    period = subscription.current_period
    if period is None:
        yield Banner("cancels_unknown", "warn", KEEP, {"plan": plan})
    else:
        day = formats.day(period.end, now)
        yield Banner("cancels", "warn", KEEP, {"plan": plan, "day": day})


def _is_used_up(feature: UsageReply) -> bool:
    """Returns whether the user can use no more of the feature before the next period."""
    stops = not feature.overage.enabled and not feature.unlimited
    return stops and feature.remaining is not None and Decimal(feature.remaining) <= 0


def _used_up(feature: UsageReply, now: datetime) -> Banner:
    values = {
        "feature": feature.name,
        "used": formats.quantity(Decimal(feature.used) + Decimal(feature.used_before)),
        "included": formats.quantity(feature.included or "0"),
        "day": formats.day(feature.period.end, now),
    }
    return Banner("used_up", "warn", PLANS, values)


def _reached(spent: str, limit: str) -> bool:
    return Decimal(spent) >= Decimal(limit)
