"""Accepts usage events, and checks whether usage would be accepted.

One statement books an event: it writes the ledger entry and the total before the caller gets
`accepted`. The rules are in the routine that this statement calls, `accept_usage` in
`database/routines/accepting.sql`. Nothing in this module calls Commet.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from typing import Annotated, Literal, cast

from pydantic import Field
from pydantic.dataclasses import dataclass as validated

from billing.amounts import exact_cost, format_decimal, is_quantity
from billing.clock import utc_text
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.field_types import (
    FeatureCode,
    IdempotencyKey,
    OccurredAt,
    Properties,
    Quantity,
    UserId,
)
from billing.usage.rules import Rules
from billing.usage.spending import Spending, spending_in

_sql = Statements(__file__)

Status = Literal["accepted", "duplicate", "conflict", "refused"]


@validated(frozen=True, slots=True, config={"extra": "forbid", "hide_input_in_errors": True})
class UsageEvent:
    """Something that was used, as a caller reports it.

    The caller chooses `idempotency_key`, unique per user and feature. `occurred_at` is None if the
    caller named no time. If a field is malformed, raises pydantic's ValidationError, a ValueError
    whose message contains no values. A batch is parsed directly into objects of this class, because
    parsing it into other objects first took longer than booking it.
    """

    user_id: UserId
    feature: FeatureCode
    quantity: Annotated[Quantity, Field(default=Decimal(1))]  # the default when parsing a request
    idempotency_key: IdempotencyKey
    occurred_at: OccurredAt | None = None
    properties: Properties = field(default_factory=dict)

    def __repr__(self) -> str:
        # Powertools formats each event of a request for its debug log, even while that log is off.
        return f"{type(self).__name__}(...)"

    @property
    def fingerprint(self) -> bytes:
        """A hash of all that the caller supplied. Only equal events have the same hash."""
        occurred = utc_text(self.occurred_at) if self.occurred_at else ""
        # No field contains NUL, so joining with NUL gives different events different texts.
        supplied = f"{self.user_id}\0{self.feature}\0{format_decimal(self.quantity)}\0{occurred}"
        for name, value in sorted(self.properties.items()):
            supplied += f"\0{name}\0{value}"
        return blake2b(supplied.encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one usage event. `code` says why it was refused; None if it was not.

    Codes: `unknown_user subscription_required feature_not_in_plan feature_not_metered
    access_unconfirmed limit_reached payment_overdue spend_limit_reached price_unknown too_old
    before_subscription in_future total_too_large`. Only `access_unconfirmed` ends by itself, within
    seconds.
    """

    status: Status
    code: str | None = None


def accept(
    db: Database, events: Sequence[UsageEvent], *, rules: Rules, now: datetime
) -> list[Verdict]:
    """Books up to 1,000 events of any users. Returns one verdict per event, in their order.

    One statement books all of them. The outcome is the same as if the events had come one after the
    other: if two events have the same key and feature, the first one is booked, and an event above
    its limit does not stop a smaller one after it.
    """
    if not events:
        return []
    # Pairs are numbered here and not in SQL, where grouping and sorting would take half the time of
    # a single event.
    pairs: dict[tuple[str, str], int] = {}
    firsts: dict[tuple[str, str, str], int] = {}
    payers: dict[str, int] = {}
    verdicts = db.value(
        _sql["accept"],
        {
            "pairs": _words(
                pairs.setdefault((e.user_id, e.feature), len(pairs) + 1) for e in events
            ),
            "users": _texts([user_id for user_id, _ in pairs]),
            "features": _texts([feature for _, feature in pairs]),
            "payers": _words(
                payers.setdefault(user_id, position)
                for position, (user_id, _) in enumerate(pairs, 1)
            ),
            "keys": _texts([e.idempotency_key for e in events]),
            "firsts": _words(
                firsts.setdefault((e.user_id, e.feature, e.idempotency_key), position)
                for position, e in enumerate(events, 1)
            ),
            "quantities": _words(e.quantity for e in events),
            "occurred": _texts_or_nulls(
                [e.occurred_at.isoformat() if e.occurred_at else None for e in events]
            ),
            "fingerprints": _words(r"\\x" + e.fingerprint.hex() for e in events),
            "properties": _texts_or_nulls(
                [json.dumps(e.properties) if e.properties else None for e in events]
            ),
            "now": now,
            "statuses": _texts(list(rules.statuses)),
            "spending": rules.spending,
            "grace": rules.late_grace,
        },
    )
    return [_verdict(word) for word in verdicts]


@dataclass(frozen=True, slots=True)
class Allowance:
    """Whether a quantity may be used now.

    `remaining` is the included quantity less the used and the held quantity. It is None if the
    feature is unlimited or the user does not have it.
    `overage_quantity` is the part of the requested quantity that would be overage. `cost` is the
    price of that part in major units, not rounded; None if the price is not known. Both are 0 if
    usage is refused for a reason other than its cost.
    `unit_price` is in the rate scale (10000 is 1.00). It is None if it is not known or there is
    none.
    `spending` is what the user spends beyond the included quantities; None if the feature has no
    overage.
    `code` says why the usage is not allowed; None if it is allowed. For a boolean feature only
    `allowed` and `code` have a meaning, because it has no quantities.
    """

    allowed: bool
    remaining: Decimal | None
    overage_quantity: Decimal
    unit_price: Decimal | None
    cost: Decimal | None
    currency: str
    spending: Spending | None
    code: str | None = None


def check(
    db: Database,
    *,
    user_id: str,
    feature: str,
    quantity: Decimal,
    rules: Rules,
    now: datetime,
) -> Allowance:
    """Returns whether this quantity could be used now, and its price. Books and reserves nothing.

    Raises ValueError for a quantity that could not be booked.
    """
    if not is_quantity(quantity):
        raise ValueError("quantity must be above 0, with at most 15 digits, 6 of them decimals")
    row = db.one(
        _sql["standing"],
        {
            "user_id": user_id,
            "feature": feature,
            "quantity": quantity,
            "now": now,
            "statuses": list(rules.statuses),
            "spending": rules.spending,
        },
    )
    assert row is not None  # noqa: S101 - usage_standing returns one row per pair
    currency = row["currency"] or rules.currency
    if row["code"] == "feature_not_metered" and row["type"] == "boolean":
        return Allowance(
            allowed=True,
            remaining=None,
            overage_quantity=Decimal(0),
            unit_price=None,
            cost=Decimal(0),
            currency=currency,
            spending=None,
        )
    included = row["included"] or Decimal(0)
    taken = row["used"] + row["held"]
    gone = row["carried"] + row["used_before"] + taken
    remaining = None if row["unlimited"] else max(Decimal(0), included - gone)
    overage = Decimal(0) if remaining is None else max(Decimal(0), quantity - remaining)
    code = row["code"]
    if code:
        remaining = None
    elif row["cap"] is not None and taken + quantity > row["cap"]:
        code = row["cap_code"]
    elif row["too_large"]:
        code = "total_too_large"
    else:
        code = row["refusal"]
    if code not in (None, "spend_limit_reached", "price_unknown"):
        overage = Decimal(0)
    return Allowance(
        allowed=code is None,
        remaining=remaining,
        overage_quantity=overage,
        unit_price=row["unit_price"],
        cost=exact_cost(overage, row["unit_price"]),
        currency=currency,
        spending=spending_in(row) if row["overage"] and not row["unlimited"] else None,
        code=code,
    )


# These functions write arrays in Postgres' text form. If the driver converted lists, that would
# take a third of the time of a single event.


def _words(values: Iterable[object]) -> str:
    """Returns an array of values that need no quotes, such as numbers."""
    return f"{{{','.join(map(str, values))}}}"


def _texts(values: Sequence[str]) -> str:
    joined = '","'.join(values)
    # Few texts need escaping, and checking all texts at once takes a tenth of the time of checking
    # each.
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        joined = '","'.join(t.replace("\\", "\\\\").replace('"', '\\"') for t in values)
    return f'{{"{joined}"}}' if values else "{}"


def _texts_or_nulls(values: Sequence[str | None]) -> str:
    if not any(values):
        return f"{{{','.join(['NULL'] * len(values))}}}"
    return f"{{{','.join('NULL' if v is None else _texts([v])[1:-1] for v in values)}}}"


@cache
def _verdict(word: str) -> Verdict:
    if word in ("accepted", "duplicate", "conflict"):
        return Verdict(cast("Status", word))
    return Verdict("refused", word)
