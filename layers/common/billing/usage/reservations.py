"""Reserves a quantity before the work is done, and books the quantity that the work used.

A reservation counts against the limit while it is held. So two jobs that each fit alone cannot pass
the limit together. Confirming books under the reservation's own idempotency key. So work counts
once if it is both confirmed and reported directly with that key, in either order. The rules are in
`database/routines/reservations.sql`. Nothing in this module calls Commet.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, cast
from uuid import uuid4

from billing.amounts import is_quantity
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.usage.accepting import UsageEvent
from billing.usage.rules import Rules

_sql = Statements(__file__)

DEFAULT_EXPIRY = timedelta(minutes=5)
LONGEST_EXPIRY = timedelta(hours=1)
# How long an ended reservation is kept. Usage may be reported up to 35 days late, so after this
# time nobody reports the work any more.
KEPT = timedelta(days=35)

_TIDY_LIMIT = 10_000

State = Literal["held", "confirmed", "released", "expired"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation in any state. `booked` is the quantity that was booked; None until it is
    confirmed.

    `properties` are those with which the usage is booked.
    """

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
class ReservationResult:
    """The outcome of a request to reserve, confirm or release.

    `reservation` is None if there is none. `code` says why the request was refused, None if it was
    not. It is a code of `accepting.Verdict`, or `conflict already_counted reservation_not_found
    reservation_expired reservation_released reservation_confirmed`. `repeated` is true if an
    earlier request had the same effect, so that this one changed nothing.
    """

    reservation: Reservation | None
    code: str | None = None
    repeated: bool = False


def reserve(
    db: Database,
    usage: UsageEvent,
    *,
    expires_in: timedelta = DEFAULT_EXPIRY,
    rules: Rules,
    now: datetime,
) -> ReservationResult:
    """Reserves the quantity of `usage` until the reservation is confirmed, released or expires.

    If the same key is sent again, the same reservation is returned: unchanged if it is held or
    confirmed, and held again with a new expiry if it had expired and still fits. After a release
    the key is refused. Raises ValueError for an `expires_in` of 0 or less, or of more than an hour.
    """
    if not timedelta(0) < expires_in <= LONGEST_EXPIRY:
        raise ValueError("expires_in must be above 0 seconds and at most an hour")
    new_id = f"rsv_{uuid4().hex}"
    row = db.one(
        _sql["reserve"],
        {
            "id": new_id,
            "user_id": usage.user_id,
            "feature": usage.feature,
            "key": usage.idempotency_key,
            "quantity": usage.quantity,
            "fingerprint": usage.fingerprint,
            "properties": json.dumps(dict(usage.properties)) if usage.properties else None,
            "expires_at": now + expires_in,
            "now": now,
            "statuses": list(rules.statuses),
            "spending": rules.spending,
        },
    )
    # If the connection broke, the statement ran twice, and the first run may have reserved already.
    # Then the verdict is 'duplicate', but the row has our new id, which shows that this request
    # made the reservation.
    return _outcome(row, now, done="reserved", new_id=new_id)


def find(db: Database, reservation_id: str, *, now: datetime) -> Reservation | None:
    """The reservation with this id; None if there is none."""
    row = db.one(_sql["find"], {"id": reservation_id})
    return _reservation(row, now) if row else None


def confirm(
    db: Database,
    reservation: Reservation,
    quantity: Decimal,
    *,
    rules: Rules,
    now: datetime,
) -> ReservationResult:
    """Books the quantity that the work used, which may be less or more than was reserved.

    If the reservation is held, a quantity up to the reserved one is booked, whatever has changed
    since (status, plan, limit, debt). A larger quantity, or the quantity of an expired reservation,
    is booked if it still fits. Raises ValueError for a quantity that could not be booked.
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
            "statuses": list(rules.statuses),
            "spending": rules.spending,
        },
    )
    return _outcome(row, now, done="confirmed")


def release(db: Database, reservation: Reservation, *, now: datetime) -> ReservationResult:
    """Ends a reservation without booking anything.

    Releasing it again changes nothing. Releasing a confirmed reservation is refused.
    """
    row = db.one(
        _sql["release"],
        {"id": reservation.id, "user_id": reservation.user_id, "now": now},
    )
    return _outcome(row, now, done="released")


def tidy(db: Database, *, now: datetime) -> int:
    """Marks expired reservations, and deletes those that ended long ago. Returns how many it
    marked.

    Limits do not depend on this function. It only keeps the index small that limits are checked
    with. Confirmed work counts once even after its reservation is deleted, because the ledger has
    the key.
    """
    expired = len(db.all(_sql["expire"], {"now": now, "limit": _TIDY_LIMIT}))
    db.execute(_sql["forget"], {"before": now - KEPT, "limit": _TIDY_LIMIT})
    return expired


def _outcome(
    row: Row | None, now: datetime, *, done: str, new_id: str | None = None
) -> ReservationResult:
    assert row is not None  # noqa: S101 - each of these routines returns one row
    verdict = str(row["verdict"])
    reservation = _reservation(row, now) if row["id"] else None
    repeated = verdict == "duplicate" and row["id"] != new_id
    code = None if verdict in (done, "duplicate") else verdict
    return ReservationResult(reservation, code, repeated)


def _reservation(row: Row, now: datetime) -> Reservation:
    state = row["state"]
    if state == "held" and row["expires_at"] <= now:
        state = "expired"  # expired by `now`, even if `tidy` has not marked it
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
