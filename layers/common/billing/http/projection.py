"""The likely end of a period: the quantity of a feature, and the cost of all features.

The pace is that of the last seven complete days (UTC). It is adjusted by its change since the seven
days before, and a fifth is added and subtracted for the range. With fewer than seven complete days
in the period, it is too early for a projection, and there is none.

A feature without overage stops at the included quantity. In a trial and on a free plan this is true
of every feature: `overage.enabled` is false there, and nothing is billed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal

from billing.amounts import MAX_DECIMALS, RATE_SCALE, overage_cost
from billing.http.shapes.dashboard import DailyUsage, UsageReply
from billing.http.shapes.limits import SpendingReply

SEEN_DAYS = 7
# in these days the pace changes once more as it did between the two weeks
_BENDS_OVER = 2 * SEEN_DAYS
_MOST_BENDS = 2  # a pace that doubles for the rest of a year is no forecast
_LEAST_BEND, _MOST_BEND = Decimal("0.5"), Decimal(2)
_LESS, _MORE = Decimal("0.8"), Decimal("1.2")
_MICROSECOND = timedelta(microseconds=1)
_DAY = Decimal(timedelta(days=1) // _MICROSECOND)
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)
_QUANTUM = Decimal(1).scaleb(-MAX_DECIMALS)

Days = Sequence[DailyUsage]


@dataclass(frozen=True, slots=True)
class Projection:
    """The quantity of a feature at the period's end: from `low` to `high`, with `mid` between.

    `stops`: the feature stops at the included quantity, which is `high`.
    """

    low: Decimal
    mid: Decimal
    high: Decimal
    stops: bool


@dataclass(frozen=True, slots=True)
class CostRange:
    """The cost of overage at the period's end, in major units.

    `capped`: the spend limit lowered `high`. `at_least`: the sums leave out a feature whose price
    is not known.
    """

    low: Decimal
    high: Decimal
    capped: bool
    at_least: bool
    currency: str


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of overage up to now. `at_least` is that of `CostRange`."""

    amount: Decimal
    at_least: bool


@dataclass(frozen=True, slots=True)
class Pace:
    """The mean quantity of a day, of the last seven complete days and of the seven before these.

    `before` is the mean of those days that are known; 0 if none is.
    """

    now: Decimal
    before: Decimal


def pace(usage: UsageReply, now: datetime, earlier: Days = ()) -> Pace | None:
    """Returns the pace of the feature, rounded to six decimals; None while it is too early."""
    seen = _Seen.of(usage, now, earlier)
    found = seen.pace()
    if found is None:
        return None
    before = max(Decimal(0), seen.pace_before())
    return Pace(*(each.quantize(_QUANTUM, context=_EXACT) for each in (found, before)))


def project(usage: UsageReply, now: datetime, earlier: Days = ()) -> Projection | None:
    """Returns the likely quantity of the period; None while it is too early.

    `earlier` are days of earlier periods. If this period is younger than fourteen days, they show
    how the pace changed. Without them, the change is calculated from the known days.
    """
    seen = _Seen.of(usage, now, earlier)
    pace = seen.pace()
    if pace is None:
        return None
    left = _days_left(usage, now)
    bent = _bent(pace, seen.pace_before(), left)
    used = Decimal(usage.used)

    def at(speed: Decimal) -> Decimal:
        total = _EXACT.add(used, _EXACT.multiply(left, speed))
        return total.quantize(_QUANTUM, context=_EXACT)

    low = at(_EXACT.multiply(min(pace, bent), _LESS))
    mid = at(_EXACT.divide(_EXACT.add(pace, bent), Decimal(2)))
    high = at(_EXACT.multiply(max(pace, bent), _MORE))
    end = _stop(usage)
    if end is None or high < end:
        return Projection(low, mid, high, stops=False)
    return Projection(min(low, end), min(mid, end), end, stops=True)


def crossing_day(usage: UsageReply, now: datetime, earlier: Days = ()) -> date | None:
    """Returns the day (UTC) on which usage passes the included quantity, at the present pace.

    None if the period ends before, if usage has passed it already, if the feature is unlimited, or
    if it is too early.
    """
    pace = _Seen.of(usage, now, earlier).pace()
    remaining = Decimal(usage.remaining or 0)
    if not pace or not remaining:
        return None
    days = _EXACT.divide(remaining, pace)
    if days >= _days_left(usage, now):
        return None
    return (now + timedelta(microseconds=int(_EXACT.multiply(days, _DAY)))).astimezone(UTC).date()


def cost_so_far(usages: Sequence[UsageReply]) -> Cost:
    """Returns the cost of all features' overage. Held reservations are not included."""
    costs = [usage.overage.cost for usage in usages]
    known = [Decimal(cost) for cost in costs if cost is not None]
    return Cost(sum(known, Decimal(0)), at_least=len(known) < len(costs))


def cost_range(
    usages: Sequence[UsageReply],
    spending: SpendingReply | None,
    now: datetime,
    earlier: Mapping[str, Days] | None = None,
    *,
    elsewhere: Decimal = Decimal(0),
) -> CostRange | None:
    """Returns the likely cost of all features' overage.

    None if the plan has no overage (`spending` is None), and while it is too early. `earlier` has
    the days of earlier periods, by feature. `elsewhere` is the cost so far of features that are not
    among `usages`, because the spend limit applies to all features together.
    """
    if spending is None:
        return None
    low = high = Decimal(0)
    at_least = False
    for usage in usages:
        if not usage.overage.enabled or usage.unlimited:
            continue
        likely = project(usage, now, (earlier or {}).get(usage.feature, ()))
        if likely is None:
            return None
        least, most = _cost(usage, likely.low), _cost(usage, likely.high)
        at_least = at_least or most is None
        low, high = low + (least or 0), high + (most or 0)
    ceiling = _ceiling(usages, spending, elsewhere)
    capped = ceiling is not None and high > ceiling
    if ceiling is not None:
        low, high = min(low, ceiling), min(high, ceiling)
    return CostRange(low, high, capped, at_least, spending.currency)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The quantities by day.

    `known` is the first day of which we know the quantity, `first` the period's first complete day,
    and `today` the first day that is not over.
    """

    quantities: Mapping[date, Decimal]
    known: date
    first: date
    today: date

    @classmethod
    def of(cls, usage: UsageReply, now: datetime, earlier: Days) -> "_Seen":
        start = usage.period.start.astimezone(UTC)
        first = start.date() if start.time() == time() else start.date() + timedelta(days=1)
        quantities: dict[date, Decimal] = {}
        for day in (*earlier, *usage.daily):  # a day on which the period changed is in both
            quantities[day.date] = quantities.get(day.date, Decimal(0)) + Decimal(day.quantity)
        known = min((first, *(day.date for day in earlier)))
        return cls(quantities, known, first, now.astimezone(UTC).date())

    def pace(self) -> Decimal | None:
        """Returns the mean of the last seven complete days of the period; None if there are
        fewer.
        """
        since = self.today - timedelta(days=SEEN_DAYS)
        return None if since < self.first else max(Decimal(0), self._mean(since, self.today))

    def pace_before(self) -> Decimal:
        """Returns the mean of the known days among the seven days before; 0 if none is known."""
        until = self.today - timedelta(days=SEEN_DAYS)
        since = max(self.known, until - timedelta(days=SEEN_DAYS))
        return self._mean(since, until) if since < until else Decimal(0)

    def _mean(self, since: date, until: date) -> Decimal:
        days = (until - since).days
        found = (self.quantities.get(since + timedelta(days=n), Decimal(0)) for n in range(days))
        return _EXACT.divide(sum(found, Decimal(0)), Decimal(days))


def _bent(pace: Decimal, before: Decimal, left: Decimal) -> Decimal:
    if before <= 0:
        return pace
    change = min(_MOST_BEND, max(_LEAST_BEND, _EXACT.divide(pace, before)))
    times = min(Decimal(_MOST_BENDS), _EXACT.divide(left, Decimal(_BENDS_OVER)))
    return _EXACT.multiply(pace, _EXACT.power(change, times))


def _days_left(usage: UsageReply, now: datetime) -> Decimal:
    left = max(usage.period.end - now, timedelta(0))
    return _EXACT.divide(Decimal(left // _MICROSECOND), _DAY)


def _stop(usage: UsageReply) -> Decimal | None:
    """Returns the quantity at which the feature stops; None if it does not stop."""
    if usage.overage.enabled or usage.remaining is None:
        return None
    return Decimal(usage.used) + Decimal(usage.remaining)


def _cost(usage: UsageReply, total: Decimal) -> Decimal | None:
    """Returns the cost of a total of the feature; None if its price is not known."""
    beyond = max(Decimal(0), _EXACT.subtract(total, Decimal(usage.included or 0)))
    price = usage.overage.unit_price
    rate = None if price is None else _EXACT.multiply(Decimal(price), Decimal(RATE_SCALE))
    return overage_cost(beyond, rate, usage.overage.currency)


def _ceiling(
    usages: Sequence[UsageReply], spending: SpendingReply, elsewhere: Decimal
) -> Decimal | None:
    """Returns the most that overage can cost. A limit below the amount already spent does not
    lower it.
    """
    if spending.limit is None:
        return None
    return max(Decimal(spending.limit) - elsewhere, cost_so_far(usages).amount)
