"""Answers of the API, for the tests of what is made of them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from billing.amounts import RATE_SCALE, format_exact, format_money, overage_cost
from billing.http.shapes.base import UsagePeriodReply
from billing.http.shapes.dashboard import DailyUsage, OverageReply, UsageReply
from billing.http.shapes.limits import SpendingReply

START = datetime(2026, 11, 1, tzinfo=UTC)
FIRST_DAY = START.date()
END = datetime(2026, 12, 1, tzinfo=UTC)


def days(quantities: Sequence[int | Decimal], since: date = FIRST_DAY) -> list[DailyUsage]:
    """One day after the other; days with zero are left out, as the API does."""
    return [
        DailyUsage(date=since + timedelta(days=n), quantity=str(quantity))
        for n, quantity in enumerate(quantities)
        if quantity
    ]


def usage(
    daily: Sequence[int | Decimal],
    *,
    included: int | None = 1000,
    price: str | None = "0.01",
    overage: bool = True,
    start: datetime = START,
    end: datetime = END,
    carried: int = 0,
    used_before: int = 0,
    currency: str = "usd",
) -> UsageReply:
    """The usage of a feature, as the dashboard has it. `price` is in major units."""
    used = sum(map(Decimal, daily), Decimal(carried))
    beyond = max(Decimal(0), used - included) if overage and included is not None else Decimal(0)
    rate = None if price is None else Decimal(price) * RATE_SCALE
    cost = overage_cost(beyond, rate, currency)
    remaining = None if included is None else max(Decimal(0), included - used - used_before)
    return UsageReply(
        feature="storage",
        name="Storage",
        unit="GB",
        period=UsagePeriodReply(start=start, end=end),
        used=str(used),
        held="0",
        carried=str(carried),
        used_before=str(used_before),
        included=None if included is None else str(included),
        remaining=None if remaining is None else str(remaining),
        unlimited=included is None,
        overage=OverageReply(
            enabled=overage,
            quantity=str(beyond),
            unit_price=None if price is None else format_exact(Decimal(price), currency),
            cost=None if cost is None else format_money(cost, currency),
            currency=currency,
        ),
        daily=days(daily, start.astimezone(UTC).date()),
    )


def spending(limit: str | None = None, currency: str = "usd") -> SpendingReply:
    """What a user spends, with a limit or without one."""
    return SpendingReply(spent="0.00", limit=limit, set_by="default", currency=currency)


def after(complete: int, *, hours: int = 0) -> datetime:
    """The moment at which so many days of the period are over."""
    return datetime.combine(START.date(), time(), UTC) + timedelta(days=complete, hours=hours)
