"""What a user has used in the running period, and what the usage will cost.

The statement that accepts an event updates the total too, so these numbers include every accepted
event.
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
    """Usage beyond the included quantity. `enabled` is false in a trial and on a free plan.

    `unit_price` is in the rate scale (10000 is 1.00), None if Commet has not reported it. `cost` is
    in major units with the currency's decimals, None if there is overage without a known price.
    """

    enabled: bool
    quantity: Decimal
    unit_price: Decimal | None
    cost: Decimal | None
    currency: str


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """The quantity of one UTC day: usage that occurred on it, and corrections of that usage."""

    date: date
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class FeatureUsage:
    """The usage of one feature in its allowance period (start inclusive, end exclusive).

    `included` and `remaining` are None if the feature is unlimited.
    `held` is the quantity of held reservations; it is not part of `used`.
    `carried` is the part of `used` that was counted in an earlier period and booked by Commet in
    this one.
    `used_before` was used in free periods that the user left early; it is not part of `used`.
    `daily` lists only days on which usage occurred. The days add up to `used` less `carried`. A day
    is below zero if corrections subtracted more than occurred on it. Usage that occurred before the
    period counts on its first day.
    """

    feature: str
    name: str
    unit: str | None
    period_start: datetime
    period_end: datetime
    used: Decimal
    held: Decimal
    carried: Decimal
    used_before: Decimal
    included: Decimal | None
    remaining: Decimal | None
    unlimited: bool
    overage: Overage
    daily: Sequence[DayOfUse]


def usage_of_user(
    db: Database, *, user_id: str, currency: str, now: datetime
) -> list[FeatureUsage]:
    """Returns the usage of each usage feature of the user's plan, used or not, by feature code.

    The list is empty while no allowance period is open: before the first payment is confirmed, and
    after a subscription has ended. `currency` is used if Commet has not named one.
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
        used_before=row["used_before"],
        included=included,
        remaining=None
        if included is None
        else max(Decimal(0), included - used - row["used_before"]),
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
