"""The first page of a user: usage, cost so far, and likely cost."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from aws_lambda_powertools.event_handler import Response
from markupsafe import Markup

from billing import wiring
from billing.errors import BillingError, NotFound
from billing.http import (
    dashboard_answers,
    own_limits,
    threshold_answers,
)
from billing.http.projection import Cost, CostRange
from billing.http.projection_answers import FeatureOutlook
from billing.http.shapes.dashboard import Dashboard, UsageReply
from billing.http.shapes.limits import SpendLimit
from billing.pages import alerts, chart, formats, forms, outlook, site
from billing.pages.site import app, word


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
    found = outlook.of(dashboard, now)
    ahead = found.outlook
    shown = _shown_feature(ahead.features)
    return site.page(
        "overview.html",
        status=error.status if error else 200,
        title=word("overview.title"),
        hosted=True,
        now=now,
        dashboard=dashboard,
        banner=found.banner,
        badges=found.badges,
        cost=ahead.cost,
        likely=ahead.likely,
        shown=shown.usage if shown else None,
        drawn=_drawn(shown, now) if shown else "",
        ruler=_ruler(dashboard, ahead.cost, ahead.likely),
        days=_days(shown.usage) if shown else [],
        lines=_invoice_lines(ahead.features),
        plan_price=ahead.invoiced_price,
        next_invoice=ahead.next_invoice,
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


def _shown_feature(features: Sequence[FeatureOutlook]) -> FeatureOutlook | None:
    """The feature in the address, else the first one."""
    asked = site.query("feature")
    by_code = {each.usage.feature: each for each in features}
    return by_code.get(asked) or next(iter(features), None)


def _drawn(feature: FeatureOutlook, now: datetime) -> Markup:
    words = chart.Words(**site.words().section("chart"))
    return chart.chart(feature.usage, feature.likely, now, prefix="c", words=words)


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


def _invoice_lines(features: Sequence[FeatureOutlook]) -> list[InvoiceLine]:
    """Returns the lines of the next invoice for usage, by feature with overage."""
    return [_invoice_line(each) for each in features if each.usage.overage.enabled]


def _invoice_line(feature: FeatureOutlook) -> InvoiceLine:
    usage, likely = feature.usage, feature.cost
    about = word(
        "overview.line_about",
        quantity=formats.quantity(usage.overage.quantity),
        unit=formats.unit_beside(usage.unit, usage.name),
        included=formats.quantity(usage.included or "0"),
    )
    return InvoiceLine(
        usage.name,
        about,
        None if usage.overage.cost is None else Decimal(usage.overage.cost),
        likely.low if likely else None,
        likely.high if likely else None,
    )
