"""Holding an amount before the work is done, and booking what it really took.

A reservation counts against the limit until it expires, so two jobs that each fit cannot together
pass it. Confirming books under the reservation's own idempotency key: work that was confirmed and
then reported again with that key, or the other way round, is counted once. The rules are in
`database/routines/reservations.sql`. Nothing here calls Commet.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, cast
from uuid import uuid4

from billing.amounts import is_quantity
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.usage.accepting import UsageEvent

_sql = Statements(__file__)

DEFAULT_HOLD = timedelta(minutes=5)
LONGEST_HOLD = timedelta(hours=1)
# As far back as usage may be reported: by then the work is known to be counted or lost.
KEPT = timedelta(days=35)

_TIDY_LIMIT = 10_000

State = Literal["held", "confirmed", "released", "expired"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """An amount that is held, or was. `booked` is what it took, once it is confirmed."""

    id: str
    user_id: str
    feature: str
    idempotency_key: str
    quantity: Decimal
    properties: dict[str, str]
    expires_at: datetime
    state: State
    booked: Decimal | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. `reservation` is None exactly where there is none.

    `code` says why it was refused, None where it was not: the codes of `usage.Verdict`,
    `conflict`, and `already_counted reservation_not_found reservation_expired
    reservation_released reservation_confirmed`. `repeated` tells that everything had been done
    before.
    """

    reservation: Reservation | None
    code: str | None = None
    repeated: bool = False


def reserve(
    db: Database,
    usage: UsageEvent,
    *,
    expires_in: timedelta = DEFAULT_HOLD,
    statuses: Collection[str],
    now: datetime,
) -> Outcome:
    """Holds what `usage` describes, until it is confirmed, released or expires.

    The same key again answers the same reservation while it is held, with its first expiry, and
    once it is confirmed; after it expired it is held anew where it still fits, and after it was
    released it is refused. Raises ValueError for a hold of no time or of more than an hour.
    """
    if not timedelta(0) < expires_in <= LONGEST_HOLD:
        raise ValueError("a hold lasts more than 0 seconds and at most an hour")
    fresh = f"rsv_{uuid4().hex}"
    row = db.one(
        _sql["reserve"],
        {
            "id": fresh,
            "user_id": usage.user_id,
            "feature": usage.feature,
            "key": usage.idempotency_key,
            "quantity": usage.quantity,
            "fingerprint": usage.fingerprint,
            "properties": json.dumps(dict(usage.properties)) if usage.properties else None,
            "expires_at": now + expires_in,
            "now": now,
            "statuses": list(statuses),
        },
    )
    # A statement that met a dead connection runs twice, and the first may have held it already.
    return _outcome(row, now, done="reserved", ours=fresh)


def find(db: Database, reservation_id: str, *, now: datetime) -> Reservation | None:
    """The reservation with this id; None where there is none."""
    row = db.one(_sql["find"], {"id": reservation_id})
    return _reservation(row, now) if row else None


def confirm(
    db: Database,
    reservation: Reservation,
    quantity: Decimal,
    *,
    statuses: Collection[str],
    now: datetime,
) -> Outcome:
    """Books what the work took, which may be less or more than was held.

    Up to what is held it is refused only where the user lost access or the limit itself fell. An
    expired reservation is booked where it still fits. Raises ValueError for no quantity.
    """
    if not is_quantity(quantity):
        raise ValueError("quantity must be above 0, with at most 9 integer and 6 decimal digits")
    taken = UsageEvent(
        reservation.user_id,
        reservation.feature,
        quantity,
        reservation.idempotency_key,
        properties=reservation.properties,
    )
    row = db.one(
        _sql["confirm"],
        {
            "id": reservation.id,
            "user_id": reservation.user_id,
            "quantity": quantity,
            "fingerprint": taken.fingerprint,
            "now": now,
            "statuses": list(statuses),
        },
    )
    return _outcome(row, now, done="confirmed")


def release(db: Database, reservation: Reservation, *, now: datetime) -> Outcome:
    """Gives back what is held. Doing it again, or after it has expired, changes nothing."""
    row = db.one(
        _sql["release"],
        {"id": reservation.id, "user_id": reservation.user_id, "now": now},
    )
    return _outcome(row, now, done="released")


def tidy(db: Database, *, now: datetime) -> int:
    """Sets aside reservations that have expired, and forgets those long over; how many expired.

    No limit depends on it: it keeps what limits are checked against small. A confirmed one is
    counted once even after it is forgotten, because the ledger has its key.
    """
    expired = len(db.all(_sql["expire"], {"now": now, "limit": _TIDY_LIMIT}))
    db.execute(_sql["forget"], {"before": now - KEPT, "limit": _TIDY_LIMIT})
    return expired


def _outcome(row: Row | None, now: datetime, *, done: str, ours: str | None = None) -> Outcome:
    assert row is not None  # noqa: S101 - the functions answer one row each
    verdict = str(row["verdict"])
    reservation = _reservation(row, now) if row["id"] else None
    repeated = verdict == "duplicate" and row["id"] != ours
    code = None if verdict in (done, "duplicate") else verdict
    return Outcome(reservation, code, repeated)


def _reservation(row: Row, now: datetime) -> Reservation:
    state = row["state"]
    if state == "held" and row["expires_at"] <= now:
        state = "expired"  # by the clock; nothing had to run for it
    return Reservation(
        id=row["id"],
        user_id=row["user_id"],
        feature=row["feature"],
        idempotency_key=row["idempotency_key"],
        quantity=row["quantity"],
        properties=row["properties"] or {},
        expires_at=row["expires_at"],
        state=cast("State", state),
        booked=row["booked"],
    )
