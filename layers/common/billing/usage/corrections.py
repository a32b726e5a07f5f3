"""Correcting what was booked: signed, with a reason and an author, in the ledger.

Less usage lowers the total of the period it was booked in, which is not always the one it occurred
in: a late event lies in the period that ran when it was reported. What Commet has been told already
stays, and deliveries resume once the total has passed it again. After a period is over Commet
cannot be told any more: such a correction `needs_credit`. The rules are in
`database/routines/corrections.sql`.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b

from billing.amounts import format_decimal, is_quantity
from billing.clock import utc_text
from billing.database.connection import Database, Row
from billing.database.statements import Statements

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class Correction:
    """What is to be added to (above zero) or taken off (below) what a user used.

    Which period is meant: the one that held `occurred_at`, or that the entry with the key
    `corrects` was booked in; with neither, the one that runs. Raises ValueError for both, and for
    no quantity.
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
            raise ValueError("occurred_at and corrects both say which period is meant")
        if not is_quantity(self.quantity.copy_abs()):
            raise ValueError("quantity must not be 0, with at most 9 integer and 6 decimal digits")

    @property
    def fingerprint(self) -> bytes:
        """The same for two corrections exactly if their callers supplied the same."""
        supplied = [
            "correction",
            self.user_id,
            self.feature,
            format_decimal(self.quantity),
            self.occurred_at and utc_text(self.occurred_at),
            self.reason,
        ]
        if self.corrects is not None:  # without it, as before there was such a thing
            supplied.append(self.corrects)
        return blake2b(json.dumps(supplied).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Credit:
    """What Commet was told too much, and what that is worth, in major units.

    `amount` is None where the price is not known, `currency` where Commet has not named it.
    """

    quantity: Decimal
    amount: Decimal | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Booking:
    """Where a correction was booked, and what the total of that period is now.

    `needs_credit` is there where the period is over at Commet and was told too much, which has to
    be given back as money.
    """

    period_start: datetime
    period_end: datetime
    used: Decimal
    needs_credit: Credit | None


@dataclass(frozen=True, slots=True)
class Corrected:
    """What became of a correction: a booking, or a code that says why it was refused.

    Codes: those of `usage.Verdict`, and `conflict below_zero no_period entry_not_found`. `repeated`
    tells that it had been booked before.
    """

    booking: Booking | None
    code: str | None = None
    repeated: bool = False


def correct(
    db: Database,
    correction: Correction,
    *,
    author: str,
    statuses: Collection[str],
    now: datetime,
) -> Corrected:
    """Books a correction; `author` says who made it. The same key again changes nothing."""
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
            "statuses": list(statuses),
        },
    )
    assert row is not None  # noqa: S101 - the function answers one row
    verdict = str(row["verdict"])
    if verdict not in ("accepted", "duplicate"):
        return Corrected(None, code=verdict)
    return Corrected(
        Booking(row["period_start"], row["period_end"], row["used"], _credit(row)),
        repeated=verdict == "duplicate",
    )


def _credit(row: Row) -> Credit | None:
    if not row["needs_credit"]:
        return None
    if row["credit_quantity"] is None:  # booked before credits were kept
        return Credit(-row["quantity"], None, None)
    return Credit(row["credit_quantity"], row["credit_amount"], row["credit_currency"])
