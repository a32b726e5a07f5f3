"""Copies the debt parameters into the database, and carries out operators' commands about debts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline

_sql = Statements(__file__)

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Gauges:
    """How many users owe the floor or more, and how many payments of debts have to be refunded."""

    debtors: int
    debts_paid_twice: int


def keep_floor(db: Database, floor: Mapping[str, Decimal | None], deadline: Deadline) -> None:
    """Stores `floor`: the sums of debts, by currency, at which a user is refused.

    Debts in a currency without a sum refuse nobody. Updates users.has_debt of the users for whom
    the floor changes it.
    """
    sums = {currency: amount for currency, amount in floor.items() if amount is not None}
    values = {"currencies": list(sums), "amounts": list(sums.values())}
    db.execute(_sql["keep_floor"], values)
    while deadline.remaining() > 0:
        if len(db.all(_sql["judge"], {"limit": _BATCH})) < _BATCH:
            return


def forgive(
    db: Database, *, user_id: str, debt: int | None, author: str, note: str, now: datetime
) -> int:
    """Ends one debt of the user, or all of them if `debt` is None. Returns how many it ended."""
    values = {"user_id": user_id, "debt": debt, "author": author, "note": note, "now": now}
    return int(db.value(_sql["forgive"], values) or 0)


def note_refund(db: Database, transaction_id: str, link: int | None, now: datetime) -> int:
    """Records that an overpayment was refunded. Returns how many payments that were: 0 or 1."""
    values = {"transaction_id": transaction_id, "link": link, "now": now}
    return len(db.all(_sql["note_refund"], values))


def gauges(db: Database) -> Gauges:
    """Returns the present state of all debts."""
    row = db.one(_sql["gauges"])
    assert row is not None  # noqa: S101 - the statement always returns one row
    return Gauges(**row)
