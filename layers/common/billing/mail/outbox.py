"""The outbox: mails from the moment they are queued to their end.

The statement that makes a mail necessary queues it (`queue_mail` in routines/mail.sql). A mail is
leased just before the mail service is called, and the outcome is recorded just after the call. The
mail service has no idempotency keys. So a mail is in doubt if its attempt got no answer: it may
have been sent, and no run sends it again.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)

# Longer than any run of the function that sends mails.
LEASE = timedelta(minutes=2)
KEPT = timedelta(days=30)
_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Mail:
    """A leased mail. No other run sends it until the lease ends."""

    id: int
    user_id: str
    attempts: int
    address: str
    kind: str
    fields: dict[str, Any]  # never a secret
    expires_at: datetime


class Outcome(StrEnum):
    """The outcome of one attempt. The value is the state that the mail gets."""

    SENT = "sent"
    POSTPONED = "pending"  # the mail service has certainly not taken it; tried again
    IN_DOUBT = "in_doubt"
    REFUSED = "dead"


@dataclass(frozen=True, slots=True)
class Ended:
    """A mail that ended without being sent."""

    id: int
    state: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state of the outbox, for metrics.

    `age_seconds`: how long the oldest unsent mail has waited. `dead`, `in_doubt`: how many mails in
    that state have not expired, so that sending them again would still help. A mail that is dead
    because of its address is not counted, because only the address's owner can change that.
    """

    age_seconds: float
    dead: int
    in_doubt: int


def end_hopeless(db: Database, now: datetime) -> list[Ended]:
    """Ends mails that have expired, whose address is suppressed, or whose run has died."""
    rows = db.all(_sql["end_hopeless"], {"now": now})
    return [Ended(row["id"], row["state"], row["kind"], row["reason"]) for row in rows]


def lease_next(db: Database, now: datetime) -> Mail | None:
    """Leases the mail that has been due the longest; None if none is due."""
    row = db.one(_sql["lease_next"], {"now": now, "lease": LEASE})
    return None if row is None else Mail(**row)


def record(
    db: Database,
    mail: Mail,
    outcome: Outcome,
    *,
    message_id: str | None = None,
    reason: str | None = None,
) -> None:
    """Records the outcome of an attempt to send the mail."""
    db.execute(
        _sql["record"],
        {
            "id": mail.id,
            "attempts": mail.attempts,
            "state": outcome.value,
            "message_id": message_id,
            "reason": reason,
            "pause": _pause(mail.attempts) if outcome is Outcome.POSTPONED else timedelta(),
        },
    )


def redrive(
    db: Database, *, now: datetime, mail_id: int | None = None, user_id: str | None = None
) -> int:
    """Queues dead mails and mails in doubt again, if they have not expired. Returns how many.

    A mail in doubt may have been sent. Its owner then gets it twice.
    """
    return len(db.all(_sql["redrive"], {"now": now, "id": mail_id, "user": user_id}))


def gauges(db: Database, now: datetime) -> Gauges:
    """Returns the state of the outbox."""
    row = db.one(_sql["gauges"], {"now": now})
    assert row is not None  # noqa: S101 - an aggregate always returns a row
    return Gauges(**row)


def delete_old(db: Database) -> None:
    """Deletes mails that ended 30 days ago."""
    db.execute(_sql["delete_old"], {"age": KEPT})


def _pause(attempts: int) -> timedelta:
    longest = min(_FIRST_PAUSE_SECONDS * 2 ** (attempts - 1), _LONGEST_PAUSE_SECONDS)
    return timedelta(seconds=longest * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
