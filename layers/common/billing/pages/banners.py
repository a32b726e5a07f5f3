"""The most important notice for a user, as a banner, and badges for other states.

Works on the dashboard's answer. Dates are shown if Commet reported them, and never guessed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from urllib.parse import urlencode

from billing.http.shapes.dashboard import Dashboard, SubscriptionReply, UsageReply
from billing.pages import formats

# The target of a banner's link. A path is a link. A target that begins with POST is a form.
PLANS = "/"
CHECKOUT = "/app/checkout"
BILLING = "/app/billing"
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


def worst(dashboard: Dashboard, now: datetime) -> Banner | None:
    """Returns the notice that matters most; None if there is none."""
    return next(_banners(dashboard, now), None)


def badges(dashboard: Dashboard, now: datetime) -> list[Badge]:
    """The state of the subscription, in a word each."""
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


def _banners(dashboard: Dashboard, now: datetime) -> Iterator[Banner]:
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
        limit = formats.money(spending.limit, spending.currency)
        name = "limit_reached" if spending.set_by == "user" else "ceiling_reached"
        yield Banner(name, "bad", LIMIT, {"limit": limit})
    yield from _payment(dashboard)
    if subscription.status == "pending_payment":
        pay = f"{CHECKOUT}?{urlencode({'plan': subscription.plan.id})}"
        yield Banner("pending", "warn", pay, {"plan": plan})
    if subscription.status == "paused":
        yield Banner("paused", "warn", PORTAL, {"plan": plan})
    for feature in dashboard.usage:
        if _is_used_up(feature):
            yield _used_up(feature, now)
    if subscription.cancel_at_period_end:
        yield from _ends(subscription, plan, now)
    if subscription.status == "trialing" and subscription.trial_ends_at:
        day = formats.day(subscription.trial_ends_at, now)
        yield Banner("trial", "", BILLING, {"plan": plan, "day": day})


# With these statuses the user still has the plan, whether or not it gives access.
_OURS = frozenset({"past_due", "paused", "pending_payment"})


def _payment(dashboard: Dashboard) -> Iterator[Banner]:
    payment = dashboard.payment
    if payment is None:
        return
    amount = (
        formats.money(payment.amount, payment.currency)
        if payment.amount is not None and payment.currency is not None
        else ""
    )
    name = {"dispute": "dispute", "unpaid_invoice": "unpaid_invoice"}.get(payment.kind, "failed")
    if name == "dispute":
        yield Banner("dispute", "bad", PORTAL, {"amount": amount})
    else:
        known = name if amount else f"{name}_unknown"
        yield Banner(known, "bad", RECOVER, {"amount": amount})


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
