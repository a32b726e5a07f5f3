"""What a user has used in the period that is running, and what it will cost.

The totals are kept by acceptance, so this is exact the moment an event was accepted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from billing.amounts import overage_cost
from billing.database.connection import Database, Row
from billing.database.statements import Statements

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class Overage:
    """Use beyond what is included. `enabled` is false too during a trial and on a free plan.

    `unit_price` is in the rate scale (10000 is 1.00), None where Commet has not said it; `cost` is
    in major units with the currency's decimals, None where there is something to price without one.
    """

    enabled: bool
    quantity: Decimal
    unit_price: Decimal | None
    cost: Decimal | None
    currency: str


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """What was booked on one UTC day."""

    date: date
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class FeatureUsage:
    """One feature in its allowance period (start inclusive, end exclusive).

    `included` and `remaining` are None where the feature is unlimited. `held` is what reservations
    hold beside `used`. `carried` is the part of `used` that was counted in an earlier period and
    booked by Commet in this one. The days, of which only those with use are listed, add up to the
    rest exactly; one on which less was booked than taken off is below zero.
    """

    feature: str
    name: str
    unit: str | None
    period_start: datetime
    period_end: datetime
    used: Decimal
    held: Decimal
    carried: Decimal
    included: Decimal | None
    remaining: Decimal | None
    unlimited: bool
    overage: Overage
    daily: Sequence[DayOfUse]


def usage_of_user(
    db: Database, *, user_id: str, currency: str, now: datetime
) -> list[FeatureUsage]:
    """Every usage feature the user's plan has, by code, used or not; one statement.

    Empty while no allowance period is open: before the first payment is confirmed, and once a
    subscription is over. `currency` is the fallback where Commet has not named one.
    """
    rows = db.all(_sql["usage_of_user"], {"user_id": user_id, "now": now})
    return [_feature(row, currency) for row in rows]


def _feature(row: Row, currency: str) -> FeatureUsage:
    unlimited = row["unlimited"]
    included = None if unlimited else row["included"] or Decimal(0)
    used = row["used"] + row["carried"]
    return FeatureUsage(
        feature=row["feature"],
        name=row["name"],
        unit=row["unit"],
        period_start=row["starts_at"],
        period_end=row["ends_at"],
        used=used,
        held=row["held"],
        carried=row["carried"],
        included=included,
        remaining=None if included is None else max(Decimal(0), included - used),
        unlimited=unlimited,
        overage=_overage(row, used, included, row["currency"] or currency),
        daily=tuple(map(DayOfUse, row["days"], row["quantities"])),
    )


def _overage(row: Row, used: Decimal, included: Decimal | None, currency: str) -> Overage:
    enabled = row["overage"]
    beyond = Decimal(0)
    if enabled and included is not None:
        beyond = max(Decimal(0), used - included)
    return Overage(
        enabled=enabled,
        quantity=beyond,
        unit_price=row["unit_price"],
        cost=overage_cost(beyond, row["unit_price"], currency),
        currency=currency,
    )
