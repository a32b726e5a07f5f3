"""What users spend beyond the included quantities, and how much they may spend.

The statement that books usage enforces the ceiling (`database/routines/spending.sql`). This module
reads the amounts, and stores the limits that a product or a user has set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, cast

from billing.amounts import decimals
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import FieldError, InvalidRequest, NotFound
from billing.usage.rules import Rules

_sql = Statements(__file__)

SetBy = Literal["default", "product", "user"]


@dataclass(frozen=True, slots=True)
class Spending:
    """What a user spends beyond the included quantities in the running allowance period.

    `spent` includes held reservations. `limit` is None if there is none. `set_by` says whose limit
    applies: the operator's default, the product's or the user's own. Amounts are in major units.
    """

    spent: Decimal
    limit: Decimal | None
    set_by: SetBy
    currency: str


def spending_in(row: Mapping[str, Any]) -> Spending:
    """Returns the spending in a row of the routine `overage_of`."""
    return Spending(row["spent"], row["ceiling"], cast("SetBy", row["set_by"]), row["spent_in"])


def spending_of(db: Database, user_id: str, *, rules: Rules, now: datetime) -> Spending | None:
    """Returns what the user spends now. None if the plan has no overage, or no period runs."""
    row = db.one(_sql["spending"], {"user_id": user_id, "now": now, "spending": rules.spending})
    return spending_in(row) if row else None


def set_limit(
    db: Database,
    user_id: str,
    amount: Decimal | None,
    *,
    by: Literal["product", "user"],
    rules: Rules,
    now: datetime,
    actor: Actor = trail.SOMEBODY,
) -> None:
    """Sets how much overage the user may have in an allowance period, in the user's currency.

    A product's limit replaces the default, and may be above or below it. A user's own limit may
    only be lower. None removes the limit. A lower limit does not change what is already spent; it
    refuses later usage. Emits events for thresholds that the changed limit makes reached. Raises
    NotFound for an unknown user. Raises InvalidRequest if the amount has too many decimals, or if a
    user's own limit is above the limit that applies to the user.
    """
    row = db.one(_sql["limit_of"], {"user_id": user_id, "now": now, "spending": rules.spending})
    if row is None:
        raise NotFound("There is no user with this id.", code="unknown_user")
    if amount is not None:
        if amount != round(amount, decimals(row["currency"])):
            raise _wrong("too_many_decimals", f"An amount in {row['currency']} has fewer decimals.")
        # A race with the product's limit does no harm: the lower of the two always applies.
        if by == "user" and row["ceiling"] is not None and amount > row["ceiling"]:
            raise _wrong("above_ceiling", "Your own limit cannot be above the one set for you.")
    statement = _sql["set_product_limit"] if by == "product" else _sql["set_user_limit"]
    changed = trail.entry(actor, Action.LIMIT_CHANGED, by=by)
    values = {"user_id": user_id, "amount": amount, "changed": changed}
    db.execute(statement, values | {"now": now, "spending": rules.spending})


def _wrong(code: str, message: str) -> InvalidRequest:
    return InvalidRequest(errors=[FieldError("amount", code, message)])
