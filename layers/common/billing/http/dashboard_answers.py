"""A user's dashboard and spend limit, as the API and the pages show them."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import amounts, wiring
from billing.accounts.accounts import User
from billing.debts.owing import owing
from billing.http import api, usage_answers
from billing.http.shapes.base import PlanRefReply, UsagePeriodReply
from billing.http.shapes.dashboard import (
    CurrentPeriod,
    DailyUsage,
    Dashboard,
    DebtReply,
    FeatureReply,
    OverageReply,
    PaymentTroubleReply,
    ScheduledChangeReply,
    SubscriptionReply,
    UsageReply,
)
from billing.http.shapes.limits import SpendingReply, SpendLimitReply
from billing.http.shapes.signing_in import UserReply
from billing.payments import troubles
from billing.subscriptions import mirror
from billing.subscriptions.mirror import Subscription
from billing.usage import spending, totals
from billing.usage.totals import FeatureUsage


def dashboard(app: APIGatewayHttpResolver, user: User) -> Dashboard:
    """Returns a user's subscription, usage, and costs so far.

    Asks Commet first if the copy of the subscription may be wrong (`Access.standing`).
    """
    now = wiring.now()
    subscription, access = wiring.access().standing(user.id, api.deadline(app))
    used = totals.usage_of_user(
        wiring.database(), user_id=user.id, currency=wiring.settings().currency, now=now
    )
    debt = owing(wiring.database(), user.id)
    return Dashboard(
        user=UserReply(id=user.id, email=user.email, name=user.name),
        access=access,
        subscription=_subscription(subscription, used, now) if subscription else None,
        payment=payment_trouble(user.id),
        debt=DebtReply(
            amount=amounts.format_money(debt.amount, debt.currency), currency=debt.currency
        )
        if debt
        else None,
        usage=[_usage(feature) for feature in used],
        features=[
            FeatureReply(feature=f.feature, name=f.name, allowed=access and f.allowed)
            for f in mirror.boolean_features(wiring.database(), user.id)
        ],
        spending=_spending(user.id),
    )


def set_limit(
    app: APIGatewayHttpResolver,
    user_id: str,
    amount: Decimal | None,
    *,
    by: Literal["product", "user"],
) -> SpendLimitReply:
    """Sets the limit of a user's overage in a period. None removes the limit that `by` had set.

    Raises the errors of `spending.set_limit`.
    """
    spending.set_limit(
        wiring.database(),
        user_id,
        amount,
        by=by,
        rules=wiring.rules(),
        now=wiring.now(),
        actor=api.actor(app),
    )
    return SpendLimitReply(spending=_spending(user_id))


def _spending(user_id: str) -> SpendingReply | None:
    found = spending.spending_of(wiring.database(), user_id, rules=wiring.rules(), now=wiring.now())
    return usage_answers.spending(found)


def _subscription(
    row: Subscription, used: Sequence[FeatureUsage], now: datetime
) -> SubscriptionReply:
    period = None
    start, end = row.period_start, row.period_end
    if not (start and end) and row.status == "trialing" and used:
        # The webhook that begins a trial names no period. Allowances are those of the trial.
        start, end = used[0].period_start, row.trial_ends_at
    if start and end:
        days = math.ceil((end - now) / timedelta(days=1))
        period = CurrentPeriod(start=start, end=end, days_remaining=max(0, days))
    return SubscriptionReply(
        id=row.id,
        status=row.status,
        plan=PlanRefReply(id=row.plan_id, name=row.plan_name),
        current_period=period,
        cancel_at_period_end=row.cancel_at_period_end,
        scheduled_change=_scheduled(row.scheduled_change) if row.scheduled_change else None,
        trial_ends_at=row.trial_ends_at,
        as_of=row.as_of,
    )


def _scheduled(change: Mapping[str, Any]) -> ScheduledChangeReply:
    at = change["effective_at"]
    return ScheduledChangeReply(
        plan=PlanRefReply(id=change["plan_id"], name=change["plan_name"]),
        interval=change["interval"],
        effective_at=datetime.fromisoformat(at) if at else None,
    )


def payment_trouble(user_id: str) -> PaymentTroubleReply | None:
    """Returns the payment of a user that went wrong and is not settled; None if there is none."""
    trouble = troubles.open_of_user(wiring.database(), user_id)
    if trouble is None:
        return None
    amount, currency = trouble.amount, trouble.currency
    return PaymentTroubleReply(
        kind=trouble.kind,
        since=trouble.since,
        amount=None
        if amount is None or currency is None
        else amounts.format_money(amount, currency),
        currency=currency,
        recovery_url=trouble.recovery_url,
    )


def _usage(feature: FeatureUsage) -> UsageReply:
    overage = feature.overage
    return UsageReply(
        feature=feature.feature,
        name=feature.name,
        unit=feature.unit,
        period=UsagePeriodReply(start=feature.period_start, end=feature.period_end),
        used=amounts.format_decimal(feature.used),
        held=amounts.format_decimal(feature.held),
        carried=amounts.format_decimal(feature.carried),
        used_before=amounts.format_decimal(feature.used_before),
        included=None if feature.included is None else amounts.format_decimal(feature.included),
        remaining=None if feature.remaining is None else amounts.format_decimal(feature.remaining),
        unlimited=feature.unlimited,
        overage=OverageReply(
            enabled=overage.enabled,
            quantity=amounts.format_decimal(overage.quantity),
            unit_price=None
            if overage.unit_price is None
            else amounts.format_unit_price(overage.unit_price, overage.currency),
            cost=None
            if overage.cost is None
            else amounts.format_money(overage.cost, overage.currency),
            currency=overage.currency,
        ),
        daily=[
            DailyUsage(date=day.date, quantity=amounts.format_decimal(day.quantity))
            for day in feature.daily
        ],
    )
