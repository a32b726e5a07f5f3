"""Ends disputes whose webhook was lost: by asking Commet, or on the word of an operator."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)

# How long after the last webhook Commet is asked about a dispute, and the time between questions.
ASK_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class OpenDispute:
    """An open dispute, as it was read. `changed_at` is the time of the newest news about it."""

    user_id: str
    transaction_id: str
    changed_at: datetime


def lease_oldest(db: Database, *, now: datetime) -> OpenDispute | None:
    """Leases, for a day, the open dispute about which Commet has to be asked first. None if
    none is due.
    """
    row = db.one(_sql["lease_oldest"], {"now": now, "before": now - ASK_AFTER})
    return OpenDispute(**row) if row else None


def unlease(db: Database, dispute: OpenDispute) -> None:
    """Ends a lease for whose question Commet gave no answer."""
    params = {"user_id": dispute.user_id, "transaction_id": dispute.transaction_id}
    db.execute(_sql["unlease"], params)


def end(db: Database, dispute: OpenDispute, *, outcome: str, now: datetime) -> bool:
    """Ends the dispute, unless there is newer news about it. Returns whether it ended the
    dispute.
    """
    params = {
        "user_id": dispute.user_id,
        "transaction_id": dispute.transaction_id,
        "seen": dispute.changed_at,
        "now": now,
        "outcome": outcome,
    }
    return bool(db.value(_sql["end"], params))


def resolve(
    db: Database, *, user_id: str, transaction_id: str, outcome: str, now: datetime
) -> bool:
    """Ends an open dispute on the word of an operator. Returns whether the user had this
    dispute.
    """
    params = {
        "user_id": user_id,
        "transaction_id": transaction_id,
        "seen": None,
        "now": now,
        "outcome": outcome,
    }
    return bool(db.value(_sql["end"], params))
