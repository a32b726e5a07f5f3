"""Taking usage, and answering whether it may be taken.

An event and the running total it adds to are written in one statement before success is said
(`accept_usage` in the migrations, which also holds the rules). Nothing here calls Commet.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from typing import Annotated, Literal, cast

from pydantic import Field
from pydantic.dataclasses import dataclass as validated

from billing.amounts import format_decimal, is_quantity, overage_cost
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

_sql = Statements(__file__)

Status = Literal["accepted", "duplicate", "conflict", "refused"]


@validated(frozen=True, slots=True, config={"extra": "forbid", "hide_input_in_errors": True})
class UsageEvent:
    """Something that was used, as a caller reports it.

    `idempotency_key` is the caller's own and unique per user. `occurred_at` is None where the
    caller did not say. Raises pydantic's ValidationError, a ValueError without the values, where it
    is malformed. Built right out of what was sent: a second look at each of a batch took longer
    than booking it.
    """

    user_id: UserId
    feature: FeatureCode
    quantity: Annotated[Quantity, Field(default=Decimal(1))]  # of what was sent
    idempotency_key: IdempotencyKey
    occurred_at: OccurredAt | None = None
    properties: Properties = field(default_factory=dict)

    @property
    def fingerprint(self) -> bytes:
        """The same for two events exactly if their callers supplied the same."""
        occurred = utc_text(self.occurred_at) if self.occurred_at else ""
        # No text holds NUL, so no two read the same.
        supplied = f"{self.user_id}\0{self.feature}\0{format_decimal(self.quantity)}\0{occurred}"
        for name, value in sorted(self.properties.items()):
            supplied += f"\0{name}\0{value}"
        return blake2b(supplied.encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one event. `code` says why one was refused.

    Codes: `unknown_user subscription_required feature_not_in_plan feature_not_metered
    access_unconfirmed limit_reached too_old in_future total_too_large`. Of these only
    `access_unconfirmed` passes by itself, within seconds.
    """

    status: Status
    code: str | None = None


def accept(
    db: Database, events: Sequence[UsageEvent], *, statuses: Collection[str], now: datetime
) -> list[Verdict]:
    """Books up to 1,000 events of any users; one verdict each, in their order.

    All in one statement, with the same outcome as one event after the other: of two with one key
    the first wins, and one that does not fit its limit does not stop a smaller one after it.
    `statuses` are the subscription statuses that give access.
    """
    if not events:
        return []
    # Numbered here and not in SQL, where grouping and sorting cost a single event half its time.
    pairs: dict[tuple[str, str], int] = {}
    firsts: dict[tuple[str, str], int] = {}
    verdicts = db.value(
        _sql["accept"],
        {
            "pairs": _words(
                pairs.setdefault((e.user_id, e.feature), len(pairs) + 1) for e in events
            ),
            "users": _texts([user_id for user_id, _ in pairs]),
            "features": _texts([feature for _, feature in pairs]),
            "keys": _texts([e.idempotency_key for e in events]),
            "firsts": _words(
                firsts.setdefault((e.user_id, e.idempotency_key), position)
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
            "statuses": _texts(list(statuses)),
        },
    )
    return [_verdict(word) for word in verdicts]


@dataclass(frozen=True, slots=True)
class Allowance:
    """Whether a quantity may be used now.

    `remaining` is what is included and neither used nor held, None where the feature is unlimited
    or the user does not have it. `overage_quantity` is the part of the asked quantity that would be
    billed on top, `cost` what that part costs, in major units; None where Commet has not told its
    price. `code` says why it is not allowed.
    """

    allowed: bool
    remaining: Decimal | None
    overage_quantity: Decimal
    cost: Decimal | None
    currency: str
    code: str | None = None


def check(
    db: Database,
    *,
    user_id: str,
    feature: str,
    quantity: Decimal,
    statuses: Collection[str],
    currency: str,
    now: datetime,
) -> Allowance:
    """Whether this much could be used at this moment, and its price; books and holds nothing.

    `currency` is the fallback where Commet has not named one. Raises ValueError for a quantity
    that could not be booked either.
    """
    if not is_quantity(quantity):
        raise ValueError("quantity must be above 0, with at most 9 integer and 6 decimal digits")
    row = db.one(
        _sql["standing"],
        {
            "user_id": user_id,
            "feature": feature,
            "quantity": quantity,
            "now": now,
            "statuses": list(statuses),
        },
    )
    assert row is not None  # noqa: S101 - one pair asked for is one row
    currency = row["currency"] or currency
    included = row["included"] or Decimal(0)
    taken = row["used"] + row["held"]
    remaining = None if row["unlimited"] else max(Decimal(0), included - row["carried"] - taken)
    overage = Decimal(0) if remaining is None else max(Decimal(0), quantity - remaining)
    code = row["code"]
    if code:
        remaining = None
    elif row["cap"] is not None and taken + quantity > row["cap"]:
        code = "limit_reached"
    elif row["too_large"]:
        code = "total_too_large"
    if code:
        overage = Decimal(0)
    return Allowance(
        allowed=code is None,
        remaining=remaining,
        overage_quantity=overage,
        cost=overage_cost(overage, row["unit_price"], currency),
        currency=currency,
        code=code,
    )


# Arrays as Postgres reads them. The driver's own way with lists costs a single event a third of its
# time.


def _words(values: Iterable[object]) -> str:
    """Of what needs no quotes, such as numbers."""
    return f"{{{','.join(map(str, values))}}}"


def _texts(values: Sequence[str]) -> str:
    joined = '","'.join(values)
    # Looking once at all of them is a tenth of looking at each: hardly any has to be escaped.
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
