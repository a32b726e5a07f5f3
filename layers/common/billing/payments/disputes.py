"""Ends disputes whose webhook was lost: by asking Commet, or because an operator says so."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)

# Commet is asked about a dispute that was in no webhook for so long, and again after as long.
ASK_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class OpenDispute:
    """An open dispute, as it was when it was read. `changed_at` is the time of its newest news."""

    user_id: str
    transaction_id: str
    changed_at: datetime


def lease_oldest(db: Database, *, now: datetime) -> OpenDispute | None:
    """The open dispute about which Commet has to be asked first, leased for a day; None if none."""
    row = db.one(_sql["lease_oldest"], {"now": now, "before": now - ASK_AFTER})
    return OpenDispute(**row) if row else None


def unlease(db: Database, dispute: OpenDispute) -> None:
    """Ends a lease for which Commet gave no answer."""
    params = {"user_id": dispute.user_id, "transaction_id": dispute.transaction_id}
    db.execute(_sql["unlease"], params)


def end(db: Database, dispute: OpenDispute, *, outcome: str, now: datetime) -> bool:
    """Ends the dispute, unless newer news about it has come. Returns whether it was ended."""
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
    """Ends an open dispute as an operator says. Returns whether the user had such a dispute."""
    params = {
        "user_id": user_id,
        "transaction_id": transaction_id,
        "seen": None,
        "now": now,
        "outcome": outcome,
    }
    return bool(db.value(_sql["end"], params))
