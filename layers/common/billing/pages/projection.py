"""What a period is likely to end with: the quantity of a feature, and the cost of all features.

The pace is that of the last seven complete days (UTC). The pace is bent by how it changed on the
seven days before, and a fifth is left on either side. With fewer than seven complete days in the
period it is too early to tell, and nothing is said.

A feature without overage stops at what is included. So does every feature in a trial and on a free
plan: there `overage.enabled` is false, and nothing is billed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal

from billing.amounts import MAX_DECIMALS, RATE_SCALE, overage_cost
from billing.http.shapes.dashboard import DailyUsage, UsageReply
from billing.http.shapes.limits import SpendingReply
from billing.pages.formats import day_of

SEEN_DAYS = 7
_BENDS_OVER = 2 * SEEN_DAYS  # days in which the pace changes as it did between the two weeks
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

    `stops` says that the feature stops at what is included, and that `high` is there.
    """

    low: Decimal
    mid: Decimal
    high: Decimal
    stops: bool


@dataclass(frozen=True, slots=True)
class CostRange:
    """The cost of usage beyond what is included, at the period's end, in major units.

    `capped` says that the spend limit holds `high`. `at_least` says that a feature whose price is
    not known is not in the sums.
    """

    low: Decimal
    high: Decimal
    capped: bool
    at_least: bool
    currency: str


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of usage beyond what is included, up to now. `at_least` as in `CostRange`."""

    amount: Decimal
    at_least: bool


def project(usage: UsageReply, now: datetime, earlier: Days = ()) -> Projection | None:
    """The likely quantity of the period, or None while it is too early to tell.

    `earlier` are days of the periods before. The change of the pace is read from them where this
    period is younger than fourteen days; without them it is read from as many days as there are.
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
    """The day (UTC) on which the feature runs past what is included, at the pace of the last days.

    None where the period ends before, the feature is past that already or unlimited, or it is too
    early to tell.
    """
    pace = _Seen.of(usage, now, earlier).pace()
    remaining = Decimal(usage.remaining or 0)
    if not pace or not remaining:
        return None
    days = _EXACT.divide(remaining, pace)
    if days >= _days_left(usage, now):
        return None
    return day_of(now + timedelta(microseconds=int(_EXACT.multiply(days, _DAY))))


def cost_so_far(usages: Sequence[UsageReply]) -> Cost:
    """The cost of all features' usage beyond what is included. Held reservations are not in it."""
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
    """The likely cost of all features' usage beyond what is included.

    None where the plan has no overage (`spending` is None), and while it is too early to tell.
    `earlier` has the days of the periods before, by feature. `elsewhere` is what features that are
    not among `usages` have cost so far: the spend limit holds all of them together.
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
        for day in (*earlier, *usage.daily):  # a day in which the period changed is in both
            quantities[day.date] = quantities.get(day.date, Decimal(0)) + Decimal(day.quantity)
        known = min((first, *(day.date for day in earlier)))
        return cls(quantities, known, first, day_of(now))

    def pace(self) -> Decimal | None:
        """The mean of the last seven complete days of the period, or None where there are fewer."""
        since = self.today - timedelta(days=SEEN_DAYS)
        return None if since < self.first else max(Decimal(0), self._mean(since, self.today))

    def pace_before(self) -> Decimal:
        """The mean of the seven days before, or of those that are known. 0 where none is."""
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
    """The quantity at which the feature stops, or None where the feature goes on."""
    if usage.overage.enabled or usage.remaining is None:
        return None
    return Decimal(usage.used) + Decimal(usage.remaining)


def _cost(usage: UsageReply, total: Decimal) -> Decimal | None:
    """What a total of the feature costs. None where its price is not known."""
    beyond = max(Decimal(0), _EXACT.subtract(total, Decimal(usage.included or 0)))
    price = usage.overage.unit_price
    rate = None if price is None else _EXACT.multiply(Decimal(price), Decimal(RATE_SCALE))
    return overage_cost(beyond, rate, usage.overage.currency)


def _ceiling(
    usages: Sequence[UsageReply], spending: SpendingReply, elsewhere: Decimal
) -> Decimal | None:
    """What overage can cost at most. A limit below what is spent takes nothing back."""
    if spending.limit is None:
        return None
    return max(Decimal(spending.limit) - elsewhere, cost_so_far(usages).amount)
