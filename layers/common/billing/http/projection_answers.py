"""What a user's running period is likely to end with, for the API and the pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import wiring
from billing.accounts.accounts import User
from billing.amounts import format_decimal, format_money
from billing.deadline import Deadline
from billing.http import api, dashboard_answers, plan_answers, projection, usage_sums
from billing.http.estimate import price_of
from billing.http.projection import Cost, CostRange
from billing.http.shapes import projections as shapes
from billing.http.shapes.dashboard import DailyUsage, Dashboard, UsageReply
from billing.http.shapes.plans import PriceReply
from billing.subscriptions import mirror
from billing.subscriptions.mirror import Subscription

# The pace is compared with that of the week before. A shorter period needs days of the period
# before.
_LOOKS_BACK = timedelta(days=14)
# Commet charges nothing while a subscription has one of these statuses.
_CHARGES_NOTHING = frozenset({"paused", "pending_payment"})


@dataclass(frozen=True, slots=True)
class NextInvoice:
    """The sums are before tax, in major units of `currency`. `low` and `high` are None while it is
    too early to tell.

    `at_least`: a price is not known, and the sums leave it out.
    """

    so_far: Decimal
    low: Decimal | None
    high: Decimal | None
    at_least: bool
    currency: str


@dataclass(frozen=True, slots=True)
class FeatureOutlook:
    """The likely end of the period for one feature.

    `likely` and `pace` are None while it is too early, and `cost` also if overage is not sold.
    `passes_on` is the day on which usage passes the included quantity, if it will.
    """

    usage: UsageReply
    pace: projection.Pace | None
    likely: projection.Projection | None
    passes_on: date | None
    cost: CostRange | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """`price` is what the plan costs; None for a free plan and for a plan that is not sold.

    `invoiced_price` is `price` if the next invoice has it, else None. `invoiced_at` is the time of
    the next invoice, and None if there is none or Commet has not told its time. `next_invoice` is
    None if the plan's price is not on it, or cannot be added to the cost of usage because it has
    another currency.
    """

    features: Sequence[FeatureOutlook]
    cost: Cost
    likely: CostRange | None
    price: PriceReply | None
    invoiced_price: PriceReply | None
    invoiced_at: datetime | None
    next_invoice: NextInvoice | None


def answer(app: APIGatewayHttpResolver, user: User) -> shapes.Projection:
    """Returns the likely usage and cost of a user's running period, and the next invoice.

    Raises CommetUnavailable or CommetRefused if the plans cannot be read.
    """
    dashboard, now = dashboard_answers.dashboard(app, user), wiring.now()
    return _reply(dashboard, outlook(user, dashboard, now, api.deadline(app)), now)


def outlook(user: User, dashboard: Dashboard, now: datetime, deadline: Deadline) -> Outlook:
    """Returns the outlook of a user, whose dashboard this is. Raises the errors of `answer`."""
    earlier = _earlier(user, dashboard, now)
    current = mirror.current(wiring.database(), user.id)
    price = _price(user, dashboard, current, deadline)
    invoiced_price = price if _has_price_on_next_invoice(dashboard, current) else None
    cost = projection.cost_so_far(dashboard.usage)
    likely = projection.cost_range(dashboard.usage, dashboard.spending, now, earlier)
    return Outlook(
        features=[_feature(each, dashboard, now, earlier) for each in dashboard.usage],
        cost=cost,
        likely=likely,
        price=price,
        invoiced_price=invoiced_price,
        invoiced_at=_invoiced_at(dashboard, invoiced_price),
        next_invoice=_next_invoice(dashboard, invoiced_price, cost, likely),
    )


def _feature(
    usage: UsageReply,
    dashboard: Dashboard,
    now: datetime,
    earlier: Mapping[str, Sequence[DailyUsage]],
) -> FeatureOutlook:
    before = earlier.get(usage.feature, ())
    others = [each for each in dashboard.usage if each is not usage]
    return FeatureOutlook(
        usage,
        projection.pace(usage, now, before),
        projection.project(usage, now, before),
        projection.crossing_day(usage, now, before),
        projection.cost_range(
            [usage],
            dashboard.spending,
            now,
            earlier,
            elsewhere=projection.cost_so_far(others).amount,
        )
        if usage.overage.enabled
        else None,
    )


def _earlier(user: User, dashboard: Dashboard, now: datetime) -> dict[str, list[DailyUsage]]:
    """The days before a young period, by feature."""
    starts = [each.period.start for each in dashboard.usage]
    if not starts or now - min(starts) > _LOOKS_BACK:
        return {}
    start = min(starts).astimezone(UTC).date()
    asked = usage_sums.Asked("day", None, start - _LOOKS_BACK, start, None, 1000, None)
    found: dict[str, list[DailyUsage]] = {}
    for each in usage_sums.page(user.id, asked).sums:
        if each.day is not None:
            day = DailyUsage(date=each.day, quantity=each.quantity)
            found.setdefault(each.feature, []).append(day)
    return found


def _price(
    user: User, dashboard: Dashboard, current: Subscription | None, deadline: Deadline
) -> PriceReply | None:
    subscription = dashboard.subscription
    if subscription is None or current is None:
        return None
    sold = plan_answers.plans(user, deadline).plans
    plan = next((each for each in sold if each.id == subscription.plan.id), None)
    return None if plan is None else price_of(plan, current.billing_interval or "")


def _has_price_on_next_invoice(dashboard: Dashboard, current: Subscription | None) -> bool:
    """Returns whether the next invoice has the plan's price.

    It has another amount if the plan ends or changes before, or if the price is charged for a
    longer time than usage.
    """
    subscription = dashboard.subscription
    if subscription is None or current is None:
        return False
    if subscription.cancel_at_period_end or subscription.scheduled_change is not None:
        return False
    ends = [each.period.end for each in dashboard.usage]
    return not (ends and current.period_end is not None and current.period_end > max(ends))


def _invoiced_at(dashboard: Dashboard, price: PriceReply | None) -> datetime | None:
    subscription = dashboard.subscription
    if subscription is None or subscription.status in _CHARGES_NOTHING:
        return None
    if dashboard.spending is not None and dashboard.usage:
        return min(each.period.end for each in dashboard.usage)
    if price is None or subscription.current_period is None:
        return None
    return subscription.current_period.end


def _next_invoice(
    dashboard: Dashboard, price: PriceReply | None, cost: Cost, likely: CostRange | None
) -> NextInvoice | None:
    spending = dashboard.spending
    if price is None or (spending is not None and spending.currency != price.currency):
        return None
    base = Decimal(price.amount)
    if spending is None:  # usage beyond the plan is not sold
        return NextInvoice(base, base, base, at_least=False, currency=price.currency)
    return NextInvoice(
        base + cost.amount,
        None if likely is None else base + likely.low,
        None if likely is None else base + likely.high,
        at_least=cost.at_least,
        currency=price.currency,
    )


def _reply(dashboard: Dashboard, found: Outlook, now: datetime) -> shapes.Projection:
    spending = dashboard.spending
    return shapes.Projection(
        as_of=now,
        usage=[_feature_reply(each) for each in found.features],
        overage=None
        if spending is None
        else shapes.CostProjection(
            so_far=format_money(found.cost.amount, spending.currency),
            is_incomplete=found.cost.at_least,
            likely=_likely_cost(found.likely),
            currency=spending.currency,
        ),
        next_invoice_at=found.invoiced_at,
        next_invoice=_invoice_reply(found),
    )


def _feature_reply(found: FeatureOutlook) -> shapes.FeatureProjection:
    usage, pace, likely = found.usage, found.pace, found.likely
    return shapes.FeatureProjection(
        feature=usage.feature,
        name=usage.name,
        unit=usage.unit,
        period=usage.period,
        used=usage.used,
        pace=None if pace is None else format_decimal(pace.now),
        pace_before=None if pace is None else format_decimal(pace.before),
        likely=None
        if likely is None
        else shapes.LikelyQuantity(
            low=format_decimal(likely.low),
            mid=format_decimal(likely.mid),
            high=format_decimal(likely.high),
            is_capped=likely.stops,
        ),
        passes_included_on=found.passes_on,
        cost_so_far=usage.overage.cost,
        likely_cost=_likely_cost(found.cost),
        currency=usage.overage.currency,
    )


def _likely_cost(found: CostRange | None) -> shapes.LikelyCost | None:
    if found is None:
        return None
    return shapes.LikelyCost(
        low=format_money(found.low, found.currency),
        high=format_money(found.high, found.currency),
        is_capped=found.capped,
        is_incomplete=found.at_least,
    )


def _invoice_reply(found: Outlook) -> shapes.NextInvoiceReply | None:
    invoice, price = found.next_invoice, found.invoiced_price
    if invoice is None or price is None:
        return None
    low, high = invoice.low, invoice.high
    return shapes.NextInvoiceReply(
        price=price.amount,
        interval=price.interval,
        so_far=format_money(invoice.so_far, invoice.currency),
        low=None if low is None else format_money(low, invoice.currency),
        high=None if high is None else format_money(high, invoice.currency),
        is_incomplete=invoice.at_least,
        currency=invoice.currency,
    )
