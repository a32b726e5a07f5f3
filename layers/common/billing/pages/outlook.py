"""What the pages say of a user's running period: its likely cost, the next invoice, notices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing import wiring
from billing.http import dashboard_answers, plan_answers, usage_sums
from billing.http.shapes.dashboard import DailyUsage, Dashboard
from billing.http.shapes.plans import PriceReply
from billing.pages import banners, formats, projection, site
from billing.pages.banners import Badge, Banner
from billing.pages.estimate import price_of
from billing.pages.projection import Cost, CostRange
from billing.pages.site import word
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
class Outlook:
    """`price` is what the plan costs; None for a free plan and for a plan that is not sold.

    `invoiced_price` is `price` if the next invoice has it, else None. `invoiced_at` is the time of
    the next invoice, and None if there is none or Commet has not told its time. `earlier` are days
    before a young period, by feature. `notices` begin with the most important one.
    """

    dashboard: Dashboard
    now: datetime
    earlier: Mapping[str, Sequence[DailyUsage]]
    cost: Cost
    likely: CostRange | None
    price: PriceReply | None
    invoiced_price: PriceReply | None
    invoiced_at: datetime | None
    notices: Sequence[Banner]

    @property
    def banner(self) -> Banner | None:
        """The most important notice; None if there is none."""
        return next(iter(self.notices), None)

    @property
    def badges(self) -> list[Badge]:
        """The states of the subscription and the notices that are no banner, in a word each."""
        return banners.badges(self.dashboard, self.now, self.notices[1:])

    @property
    def next_invoice(self) -> NextInvoice | None:
        """Returns the sums of the next invoice; None if the plan's price is not on it, or cannot be
        added to the cost of usage because it has another currency.
        """
        price, spending = self.invoiced_price, self.dashboard.spending
        if price is None or (spending is not None and spending.currency != price.currency):
            return None
        base = Decimal(price.amount)
        if spending is None:  # usage beyond the plan is not sold
            return NextInvoice(base, base, base, at_least=False, currency=price.currency)
        return NextInvoice(
            base + self.cost.amount,
            None if self.likely is None else base + self.likely.low,
            None if self.likely is None else base + self.likely.high,
            at_least=self.cost.at_least,
            currency=price.currency,
        )


def of(dashboard: Dashboard, now: datetime) -> Outlook:
    """Returns the outlook of the signed-in user, whose dashboard this is."""
    earlier = _earlier(dashboard, now)
    current = mirror.current(wiring.database(), site.user().id)
    price = _price(dashboard, current)
    invoiced_price = price if _has_price_on_next_invoice(dashboard, current) else None
    return Outlook(
        dashboard=dashboard,
        now=now,
        earlier=earlier,
        cost=projection.cost_so_far(dashboard.usage),
        likely=projection.cost_range(dashboard.usage, dashboard.spending, now, earlier),
        price=price,
        invoiced_price=invoiced_price,
        invoiced_at=_invoiced_at(dashboard, invoiced_price),
        notices=banners.notices(
            dashboard,
            now,
            price=invoiced_price,
            runs_past=_runs_past(dashboard, now, earlier),
            unconfirmed=_unconfirmed(dashboard, now),
        ),
    )


def trouble() -> Banner | None:
    """Returns the notice about a payment of the visitor that failed or is disputed.

    None if there is none, or if nobody is signed in. For the pages that show no dashboard.
    """
    visitor = site.visitor()
    payment = dashboard_answers.payment_trouble(visitor.id) if visitor else None
    return None if payment is None else banners.trouble(payment)


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


def _price(dashboard: Dashboard, current: Subscription | None) -> PriceReply | None:
    subscription = dashboard.subscription
    if subscription is None or current is None:
        return None
    sold = plan_answers.plans(site.user(), site.deadline()).plans
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
    path = banners.BILLING if site.path().startswith(banners.BILLING) else site.HOME
    return Banner("as_of", "", path, {"moment": formats.moment(newest, now)})


def _runs_past(
    dashboard: Dashboard, now: datetime, earlier: Mapping[str, Sequence[DailyUsage]]
) -> Banner | None:
    """Returns a banner for the first feature whose usage will pass the included quantity at
    this pace.
    """
    found = []
    for each in dashboard.usage:
        day = projection.crossing_day(each, now, earlier.get(each.feature, ()))
        if day is not None and each.overage.enabled and each.overage.unit_price is not None:
            found.append((day, each))
    if not found or not dashboard.access:
        return None
    day, feature = min(found, key=lambda each: each[0])
    values = {
        "feature": feature.name,
        "day": formats.day(day, now),
        "unit": feature.unit or word("pricing.one"),
        "price": formats.unit_price(feature.overage.unit_price or "0", feature.overage.currency),
    }
    return Banner("runs_past", "warn", banners.LIMIT, values)
