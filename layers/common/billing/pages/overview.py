"""The first page of a user: usage, cost so far, and likely cost."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from aws_lambda_powertools.event_handler import Response
from markupsafe import Markup

from billing import wiring
from billing.errors import BillingError, NotFound
from billing.http import (
    dashboard_answers,
    own_limits,
    plan_answers,
    threshold_answers,
    usage_sums,
)
from billing.http.shapes.dashboard import DailyUsage, Dashboard, UsageReply
from billing.http.shapes.limits import SpendLimit
from billing.http.shapes.plans import PriceReply
from billing.pages import alerts, banners, chart, formats, forms, projection, site
from billing.pages.banners import Banner
from billing.pages.estimate import price_of
from billing.pages.projection import Cost, CostRange
from billing.pages.site import app, word
from billing.subscriptions import mirror

# The pace is compared with that of the week before. A shorter period needs days of the period
# before.
_LOOKS_BACK = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """A line of the next invoice. `low` and `high` are None while it is too early to tell."""

    name: str
    about: str
    so_far: Decimal | None  # None: the price is not known
    low: Decimal | None
    high: Decimal | None


@app.get(site.HOME)
@site.members
def show_overview() -> Response[Any]:
    """What a user has, uses and owes."""
    return _overview_page()


@app.post("/app/limit")
@site.members
def set_limit() -> Response[Any]:
    """Sets the spend limit; an empty field removes the user's own."""
    user, typed = site.user(), site.form().get("amount", "")
    try:
        body = SpendLimit(amount=None)
        if typed:
            body = forms.checked(SpendLimit, {"amount": forms.number(typed.lstrip("$€£¥ "))})
        own_limits.count_change(user.id)
        dashboard_answers.set_limit(app, user.id, body.amount, by="user")
    except BillingError as error:
        if error.status >= 500:
            raise
        return _overview_page(error)
    return site.see_other(site.HOME, done="limit_removed" if body.amount is None else "limit_saved")


@app.post("/app/alerts")
@site.members
def add_alert() -> Response[Any]:
    """Adds a threshold of the user's own. An equal one is not added again."""
    try:
        wanted = alerts.read(site.form())
        own_limits.count_change(site.user().id)
        threshold_answers.add(site.user().id, wanted, by="user")
    except BillingError as error:
        if error.status >= 500:
            raise
        return _overview_page(error, of="alert")
    return site.see_other(site.HOME, done="alert_saved")


@app.post("/app/alerts/remove")
@site.members
def remove_alert() -> Response[Any]:
    """Removes a threshold of the user's own. If it does not exist any more, shows no error."""
    own_limits.count_change(site.user().id)
    with suppress(NotFound):
        threshold_answers.remove(site.form().get("id", ""), user_id=site.user().id)
    return site.see_other(site.HOME, done="alert_removed")


def _overview_page(
    error: BillingError | None = None, *, of: Literal["limit", "alert"] = "limit"
) -> Response[Any]:
    now = wiring.now()
    dashboard = dashboard_answers.dashboard(app, site.user())
    shown = _shown_feature(dashboard)
    earlier = _earlier(dashboard, now)
    cost = projection.cost_so_far(dashboard.usage)
    likely = projection.cost_range(dashboard.usage, dashboard.spending, now, earlier)
    return site.page(
        "overview.html",
        status=error.status if error else 200,
        title=word("overview.title"),
        hosted=True,
        now=now,
        dashboard=dashboard,
        banner=banners.worst(dashboard, now)
        or _unconfirmed(dashboard, now)
        or _runs_past(dashboard, now, earlier),
        badges=banners.badges(dashboard, now),
        cost=cost,
        likely=likely,
        shown=shown,
        drawn=_drawn(shown, now, earlier) if shown else "",
        ruler=_ruler(dashboard, cost, likely),
        days=_days(shown) if shown else [],
        lines=_invoice_lines(dashboard, now, earlier),
        plan_price=_plan_price(dashboard),
        alerts=alerts.card(dashboard),
        values=site.shown(site.form()) if error else {},
        wrong=_wrong(error, of) if error else {},
        problem=site.explained(error) if error and of == "limit" else "",
        alert_problem=site.explained(error) if error and of == "alert" else "",
    )


def _wrong(error: BillingError, of: Literal["limit", "alert"]) -> dict[str, str]:
    """Returns the error of each field. A threshold's number is one field here, and two in the
    API.
    """
    found = site.field_problems(error)
    if of == "limit":
        return found
    return {"alert_value": next(iter(found.values()))} if found else {}


def _shown_feature(dashboard: Dashboard) -> UsageReply | None:
    """The feature in the address, else the first one."""
    asked = site.query("feature")
    by_code = {each.feature: each for each in dashboard.usage}
    return by_code.get(asked) or next(iter(dashboard.usage), None)


def _earlier(dashboard: Dashboard, now: datetime) -> dict[str, list[DailyUsage]]:
    """The days before a young period, by feature."""
    starts = [each.period.start for each in dashboard.usage]
    if not starts or now - min(starts) > _LOOKS_BACK:
        return {}
    start = min(starts).astimezone(UTC).date()
    asked = usage_sums.Asked("day", None, start - _LOOKS_BACK, start, None, 1000, None)
    found: dict[str, list[DailyUsage]] = {}
    for each in usage_sums.page(site.user().id, asked).sums:
        if each.day is not None:
            day = DailyUsage(date=each.day, quantity=each.quantity)
            found.setdefault(each.feature, []).append(day)
    return found


def _unconfirmed(dashboard: Dashboard, now: datetime) -> Banner | None:
    """Returns a banner if Commet should have reported the user's changes there and has not
    answered.
    """
    db, user = wiring.database(), site.user().id
    if not dashboard.access or not mirror.in_doubt(db, user):
        return None
    newest = mirror.unanswered(db, [user], now).get(user)
    if newest is None:
        return None
    return Banner("as_of", "", site.HOME, {"moment": formats.moment(newest, now)})


def _runs_past(
    dashboard: Dashboard, now: datetime, earlier: dict[str, list[DailyUsage]]
) -> Banner | None:
    """Returns a banner for the first feature whose usage will pass the included quantity at
    this pace.
    """
    found = []
    for each in dashboard.usage:
        day = projection.crossing_day(each, now, earlier.get(each.feature, ()))
        if day is not None and each.overage.enabled and each.overage.unit_price is not None:
            found.append((day, each))
    if not found:
        return None
    day, feature = min(found, key=lambda each: each[0])
    values = {
        "feature": feature.name,
        "day": formats.day(day, now),
        "unit": feature.unit or word("pricing.one"),
        "price": formats.unit_price(feature.overage.unit_price or "0", feature.overage.currency),
    }
    return Banner("runs_past", "warn", banners.LIMIT, values)


def _drawn(feature: UsageReply, now: datetime, earlier: dict[str, list[DailyUsage]]) -> Markup:
    likely = projection.project(feature, now, earlier.get(feature.feature, ()))
    words = chart.Words(**site.words().section("chart"))
    return chart.chart(feature, likely, now, prefix="c", words=words)


def _ruler(dashboard: Dashboard, cost: Cost, likely: CostRange | None) -> Markup:
    """Returns the cost so far and the likely cost against the spend limit. Empty if there is no
    cost.
    """
    spending = dashboard.spending
    if spending is None or (not cost.amount and likely is None):
        return Markup()
    limit = None if spending.limit is None else Decimal(spending.limit)
    words = chart.CostWords(**site.words().section("ruler"))
    return chart.ruler(cost.amount, likely, limit, spending.currency, prefix="r", words=words)


def _days(feature: UsageReply) -> list[tuple[Any, Decimal, Decimal]]:
    """Each day with usage, its quantity and the total up to it."""
    total, found = Decimal(feature.carried), []
    for day in feature.daily:
        total += Decimal(day.quantity)
        found.append((day.date, Decimal(day.quantity), total))
    return found


def _plan_price(dashboard: Dashboard) -> PriceReply | None:
    """Returns the plan's price on the next invoice.

    None for a free plan and for a plan that is not sold. Also None if the next invoice has another
    amount: the plan ends or changes before, or its price is charged for a longer time than usage.
    """
    subscription = dashboard.subscription
    current = mirror.current(wiring.database(), site.user().id)
    if subscription is None or current is None:
        return None
    if subscription.cancel_at_period_end or subscription.scheduled_change is not None:
        return None
    ends = [each.period.end for each in dashboard.usage]
    if ends and current.period_end is not None and current.period_end > max(ends):
        return None
    sold = plan_answers.plans(site.user(), site.deadline()).plans
    plan = next((each for each in sold if each.id == subscription.plan.id), None)
    return None if plan is None else price_of(plan, current.billing_interval or "")


def _invoice_lines(
    dashboard: Dashboard, now: datetime, earlier: dict[str, list[DailyUsage]]
) -> list[InvoiceLine]:
    """Returns the lines of the next invoice for usage, by feature with overage."""
    found = []
    spent = projection.cost_so_far(dashboard.usage).amount
    for feature in dashboard.usage:
        overage = feature.overage
        if not overage.enabled:
            continue
        likely: CostRange | None = projection.cost_range(
            [feature],
            dashboard.spending,
            now,
            earlier,
            elsewhere=spent - projection.cost_so_far([feature]).amount,
        )
        about = word(
            "overview.line_about",
            quantity=formats.quantity(overage.quantity),
            unit=formats.unit_beside(feature.unit, feature.name),
            included=formats.quantity(feature.included or "0"),
        )
        found.append(
            InvoiceLine(
                feature.name,
                about,
                None if overage.cost is None else Decimal(overage.cost),
                likely.low if likely else None,
                likely.high if likely else None,
            )
        )
    return found
