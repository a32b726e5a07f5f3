"""The cost of a given usage on each plan.

The quantities are those of a month, because included quantities are given each month and overage is
billed each month, even if the plan's price is charged for a longer time. A plan that is charged
weekly has weekly periods, so its costs are calculated for a week's part of the month.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Literal

from billing.amounts import MAX_DECIMALS, RATE_SCALE, overage_cost
from billing.http.shapes.plans import PlanFeatureReply, PlanReply, Plans, PriceReply

WEEKLY = "weekly"
# For each interval, its number of monthly periods. An interval that is not listed has one.
_MONTHS = {"monthly": 1, "quarterly": 3, "semiannual": 6, "yearly": 12}
_WEEK = Fraction(7 * 12, 365)  # of a month
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)
_QUANTUM = Decimal(1).scaleb(-MAX_DECIMALS)
_NO_PRICE = "usd"  # the currency of zero amounts, if no plan has a price


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a plan cannot be used for the quantities.

    `limit_reached`: the feature stops at `included`. `feature_not_in_plan`: the plan does not have
    the feature. `price_unknown`: there is no price. `name` and `code` are the feature's. If the
    plan itself has no price, `name` is the plan's and `code` is None.
    """

    kind: Literal["limit_reached", "feature_not_in_plan", "price_unknown"]
    name: str
    code: str | None
    included: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """The cost of one feature in one period of usage: of `beyond`, which is not included."""

    feature: PlanFeatureReply
    quantity: Decimal
    beyond: Decimal
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Row:
    """The cost of one plan for an interval: the price, the overage, and both together.

    `interval` is the requested interval, or the plan's own if its price does not divide that.
    `periods` is the number of periods of usage in the interval, and `lines` are of one period. The
    amounts are in units of `currency`. If there is an obstacle, they are zero, and there are no
    lines.
    """

    plan: PlanReply
    interval: str
    periods: int
    base: Decimal
    extra: Decimal
    total: Decimal
    currency: str
    lines: Sequence[Line]
    obstacle: Obstacle | None
    is_cheapest: bool = False


def price_of(plan: PlanReply, interval: str) -> PriceReply | None:
    """Returns the plan's price for this interval, else its default price; None if it has none."""
    by_interval = {price.interval: price for price in plan.prices}
    default = next((price for price in plan.prices if price.is_default), None)
    return by_interval.get(interval) or default or next(iter(plan.prices), None)


def rows(plans: Plans, asked: Mapping[str, Decimal], *, interval: str) -> list[Row]:
    """Returns the cost of each plan for a month's quantities, by feature code, in the plans' order.

    The cheapest usable plan is marked; of several, the first. If the plans have prices in several
    currencies, none is marked.
    """
    names = {f.code: f.name for plan in plans.plans for f in plan.features}
    prices = [price for plan in plans.plans for price in plan.prices]
    currency = prices[0].currency if prices else _NO_PRICE
    found = [_row(plan, asked, interval, names, currency) for plan in plans.plans]
    possible = [row for row in found if row.obstacle is None]
    if not possible or len({row.currency for row in possible}) > 1:
        return found
    cheapest = min(possible, key=lambda row: Fraction(row.total) / _months(row.interval))
    return [replace(row, is_cheapest=row is cheapest) for row in found]


def _row(
    plan: PlanReply,
    asked: Mapping[str, Decimal],
    interval: str,
    names: Mapping[str, str],
    currency: str,
) -> Row:
    price = price_of(plan, interval)
    nothing = Decimal(0)
    if price is None:  # a free plan: what it includes is for a month
        own, base = "monthly" if interval == WEEKLY else interval, nothing
    else:
        own, base, currency = price.interval, Decimal(price.amount), price.currency
    times = _times(own, interval)
    interval = interval if times else own
    base = base * (times or 1)
    periods = _MONTHS.get(interval, 1)
    obstacle = _obstacle(plan, asked, interval, names, currency)
    if obstacle:
        return Row(plan, interval, periods, nothing, nothing, nothing, currency, (), obstacle)
    lines = [
        _line(feature, _of_period(asked[feature.code], interval), currency)
        for feature in _metered(plan)
        if feature.code in asked
    ]
    extra = sum((line.cost for line in lines), nothing) * periods
    return Row(plan, interval, periods, base, extra, base + extra, currency, lines, None)


def _line(feature: PlanFeatureReply, quantity: Decimal, currency: str) -> Line:
    beyond = _beyond(feature, quantity)
    cost = overage_cost(beyond, _rate(feature), currency)
    return Line(feature, quantity, beyond, cost or Decimal(0))


def _times(own: str, interval: str) -> int:
    """Returns how many of a plan's own intervals the requested interval has; 0 if not a whole
    number.
    """
    if own == interval:
        return 1
    months, wanted = _MONTHS.get(own, 0), _MONTHS.get(interval, 0)
    return wanted // months if months else 0  # a longer interval is a multiple of each shorter one


def _obstacle(
    plan: PlanReply,
    asked: Mapping[str, Decimal],
    interval: str,
    names: Mapping[str, str],
    currency: str,
) -> Obstacle | None:
    """Returns why the plan cannot be used, or why its cost is not known; None if neither.

    Overage in another currency than the plan's cannot be added to the plan's price.
    """
    if not plan.prices and not plan.is_free:
        return Obstacle("price_unknown", plan.name, None)
    features = {feature.code: feature for feature in _metered(plan)}
    for code, quantity in asked.items():
        wanted = _of_period(quantity, interval)
        if not wanted:
            continue
        feature = features.get(code)
        if feature is None:
            return Obstacle("feature_not_in_plan", names.get(code, code), code)
        if not _beyond(feature, wanted):
            continue
        # A free plan bills nothing, so that each of its features stops.
        if plan.is_free or feature.overage is None or not feature.overage.enabled:
            if not Decimal(feature.included or 0):
                return Obstacle("feature_not_in_plan", feature.name, code)
            return Obstacle("limit_reached", feature.name, code, feature.included)
        if feature.overage.unit_price is None or feature.overage.currency != currency:
            return Obstacle("price_unknown", feature.name, code)
    return None


def _metered(plan: PlanReply) -> Sequence[PlanFeatureReply]:
    return [f for f in plan.features if f.type == "usage" and f.enabled]


def _beyond(feature: PlanFeatureReply, quantity: Decimal) -> Decimal:
    if feature.unlimited:
        return Decimal(0)
    return max(Decimal(0), quantity - Decimal(feature.included or 0))


def _rate(feature: PlanFeatureReply) -> Decimal | None:
    price = feature.overage.unit_price if feature.overage else None
    return None if price is None else _EXACT.multiply(Decimal(price), Decimal(RATE_SCALE))


def _of_period(quantity: Decimal, interval: str) -> Decimal:
    if interval != WEEKLY:
        return quantity
    share = _EXACT.divide(quantity * _WEEK.numerator, Decimal(_WEEK.denominator))
    return share.quantize(_QUANTUM, context=_EXACT)


def _months(interval: str) -> Fraction:
    return _WEEK if interval == WEEKLY else Fraction(_MONTHS.get(interval, 1))
