"""The dashboard, the users that a backend registers, health, the welcome page, unknown routes."""

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter

from billing import amounts, wiring
from billing.accounts import accounts
from billing.accounts.accounts import User
from billing.deadline import LambdaContext
from billing.field_types import USER_ID_PATTERN
from billing.http import api
from billing.http.shapes import (
    CurrentPeriod,
    DailyUsage,
    Dashboard,
    Health,
    OverageReply,
    PlanRefReply,
    PutUser,
    SubscriptionReply,
    UsagePeriodReply,
    UsageReply,
    UserPut,
    UserReply,
)
from billing.subscriptions.mirror import Subscription
from billing.usage import totals
from billing.usage.totals import FeatureUsage

# Powertools reads the rules of a path parameter from `Path`, so the type UserId cannot be used.
UserIdInPath = Annotated[str, PathParameter(pattern=USER_ID_PATTERN)]

app = api.resolver()


@app.get("/dashboard", security=api.BY_USER, responses=api.answers(Dashboard, 200))
def my_dashboard() -> Response[Dashboard]:
    """Your subscription, your usage, and what the usage costs so far."""
    return _dashboard(api.user(app))


@app.get(
    "/users/<user_id>/dashboard",
    security=api.by_service("read"),
    responses=api.answers(Dashboard, 200, 403, 404),
)
def dashboard_of_user(user_id: UserIdInPath) -> Response[Dashboard]:
    """The dashboard of one user, for a product's backend."""
    return _dashboard(accounts.user_by_id(wiring.database(), user_id))


@app.put(
    "/users/<user_id>",
    security=api.by_service("usage:write"),
    responses=api.answers(UserPut, 200, 403, 409) | api.answers(UserPut, 201),
)
def put_user(user_id: UserIdInPath, body: Annotated[PutUser, Body()]) -> Response[UserPut]:
    """Register or update a user of your product, who has no password here (201 for a new user).

    A user who signed up here keeps their own email and name, and the answer contains these.
    """
    user, created = accounts.put_user(
        wiring.database(), user_id=user_id, email=body.email, name=body.name, now=wiring.now()
    )
    return api.json_response(UserPut(user=_user(user)), 201 if created else 200)


@app.get("/health", responses=api.answers(Health, 200))
def health() -> Response[Health]:
    """200 while the database answers, else 503."""
    wiring.database().value("select 1")
    return api.json_response(Health(status="ok"))


@app.get(
    "/",
    responses={
        200: {
            "description": "A page",
            "content": {"text/html": {"schema": {"type": "string"}}},
        }
    },
)
def welcome() -> Response[str]:
    """The page people return to after a checkout, while AppUrl is this address."""
    return Response(
        200,
        content_type="text/html; charset=utf-8",
        body=Path(__file__).with_name("welcome.html").read_text(encoding="utf-8"),
        headers={
            "Content-Security-Policy": (
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
            )
        },
    )


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)


def _dashboard(user: User) -> Response[Dashboard]:
    now = wiring.now()
    subscription, access = wiring.access().standing(user.id, api.deadline(app))
    used = totals.usage_of_user(
        wiring.database(), user_id=user.id, currency=wiring.settings().currency, now=now
    )
    return api.json_response(
        Dashboard(
            user=_user(user),
            access=access,
            subscription=_subscription(subscription, now) if subscription else None,
            usage=[_usage(feature) for feature in used],
        )
    )


def _user(user: User) -> UserReply:
    return UserReply(id=user.id, email=user.email, name=user.name)


def _subscription(row: Subscription, now: datetime) -> SubscriptionReply:
    period = None
    if row.period_start and row.period_end:
        days = math.ceil((row.period_end - now) / timedelta(days=1))
        period = CurrentPeriod(
            start=row.period_start, end=row.period_end, days_remaining=max(0, days)
        )
    return SubscriptionReply(
        id=row.id,
        status=row.status,
        plan=PlanRefReply(id=row.plan_id, name=row.plan_name),
        current_period=period,
        cancel_at_period_end=row.cancel_at_period_end,
        trial_ends_at=row.trial_ends_at,
        as_of=row.as_of,
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
