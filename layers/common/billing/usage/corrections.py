"""Corrects booked usage: adds a signed quantity, with a reason and an author, to the ledger.

A correction below zero lowers the total of the period in which the usage was booked. That may be
another period than the one in which the usage occurred, because a late event is booked in the
period that runs when it is reported. Commet keeps what was already sent, and the next delivery is
made once the total exceeds the quantity that was sent. After a period is over, Commet takes no
lower total of it: the correction then `needs_credit`. The rules are in
`database/routines/corrections.sql`.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b

from billing.amounts import format_decimal, is_quantity
from billing.clock import utc_text
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.usage.rules import Rules

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class Correction:
    """A quantity to add to a user's usage (above zero) or to subtract from it (below zero).

    A correction below zero is booked in the period that contained `occurred_at`, or in the period
    of the entry with the key `corrects`. If neither is given, it is booked in the running period. A
    correction above zero is booked in the running period, or where usage of its time belongs
    (`late_place`). Raises ValueError if both are given, and for a quantity that could not be
    booked.
    """

    user_id: str
    feature: str
    quantity: Decimal
    idempotency_key: str
    reason: str
    occurred_at: datetime | None = None
    corrects: str | None = None

    def __post_init__(self) -> None:
        if self.occurred_at is not None and self.corrects is not None:
            raise ValueError("give occurred_at or corrects, not both: each names a period")
        if not is_quantity(self.quantity.copy_abs()):
            raise ValueError("quantity must not be 0, with at most 15 digits, 6 of them decimals")

    @property
    def fingerprint(self) -> bytes:
        """A hash of all that the caller supplied. Only equal corrections have the same hash."""
        supplied = [
            "correction",
            self.user_id,
            self.feature,
            format_decimal(self.quantity),
            self.occurred_at and utc_text(self.occurred_at),
            self.reason,
        ]
        if self.corrects is not None:  # left out if None, so older fingerprints stay the same
            supplied.append(self.corrects)
        return blake2b(json.dumps(supplied).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Credit:
    """The quantity by which Commet was sent too much, and its worth in major units.

    `amount` is None if the price is not known. `currency` is None if Commet has not named it.
    """

    quantity: Decimal
    amount: Decimal | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Booking:
    """The period in which a correction was booked, and `used`, the period's total afterwards.

    `needs_credit` is the credit that a person has to give, None if none is needed. A credit is
    needed if the period is over and Commet was sent too much of it.
    """

    period_start: datetime
    period_end: datetime
    used: Decimal
    needs_credit: Credit | None


@dataclass(frozen=True, slots=True)
class Corrected:
    """The outcome of a correction: a booking, or a code that says why it was refused.

    Codes: those of `accepting.Verdict`, and `conflict below_zero no_period entry_not_found`.
    `repeated` is true if the same correction was booked before.
    """

    booking: Booking | None
    code: str | None = None
    repeated: bool = False


def correct(
    db: Database,
    correction: Correction,
    *,
    author: str,
    rules: Rules,
    now: datetime,
) -> Corrected:
    """Books a correction. `author` is the person who made it.

    If the same correction is sent again, it changes nothing and gets the same answer.
    """
    row = db.one(
        _sql["correct"],
        {
            "user_id": correction.user_id,
            "feature": correction.feature,
            "key": correction.idempotency_key,
            "quantity": correction.quantity,
            "occurred_at": correction.occurred_at,
            "fingerprint": correction.fingerprint,
            "reason": correction.reason,
            "author": author,
            "corrects": correction.corrects,
            "now": now,
            "statuses": list(rules.statuses),
            "spending": rules.spending,
        },
    )
    assert row is not None  # noqa: S101 - correct_usage returns one row
    verdict = str(row["verdict"])
    if verdict not in ("accepted", "duplicate"):
        return Corrected(None, code=verdict)
    return Corrected(
        Booking(row["period_start"], row["period_end"], row["used"], _credit(row)),
        repeated=verdict == "duplicate",
    )


def _credit(row: Row) -> Credit | None:
    if row["credit_quantity"] is None:
        # The correction was booked before credits were stored.
        return Credit(-row["quantity"], None, None) if row["needs_credit"] else None
    if row["credit_quantity"] == 0:
        return None
    return Credit(row["credit_quantity"], row["credit_amount"], row["credit_currency"])
