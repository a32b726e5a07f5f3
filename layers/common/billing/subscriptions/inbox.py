"""Taking Commet's webhooks: verify, record, apply, acknowledge.

A good signature always ends in 200, or 503 when the database cannot take the event: Commet
disables an endpoint after three events it cannot deliver, so neither our bugs nor its surprises
may be answered with an error. What could not be applied waits in the inbox for `reconcile`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from aws_lambda_powertools import Logger

from billing.database.connection import Database, place_of
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import DatabaseUnavailable
from billing.subscriptions import from_webhook
from billing.subscriptions.changes import Change
from billing.subscriptions.from_webhook import Unreadable, Webhook

_sql = Statements(__file__)

logger = Logger()

MAX_ATTEMPTS = 12

_BATCH = 50
_REDRIVE_AT_ONCE = 5000

# An event that claims to come from later than this would outdo every true one until then.
_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a webhook: `duplicate applied ignored failed unreadable`."""

    event_id: str
    event_type: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Health:
    """How many events wait to be tried again, how many for a person, and how long the oldest of
    those to be tried again has been waiting."""

    failed: int
    dead: int
    oldest_seconds: int


def receive(db: Database, body: bytes, *, mode: str, now: datetime) -> Receipt:
    """Stores and applies a signed body, once; raises only DatabaseUnavailable.

    Events of Commet's other mode (live or sandbox), of unknown types and for unknown customers
    are stored as `ignored`; those that a later day may make matter are found again then.
    """
    try:
        event = from_webhook.parse(body)
    except Unreadable:
        event = Webhook(from_webhook.body_id(body), "", None, None, None, {})
        return _record(db, event, body, status="unreadable", mode=None, now=now)
    status = "ignored" if _is_of(event, mode) else "other_mode"
    return _record(db, event, body, status=status, mode=mode, now=now)


def _record(
    db: Database, event: Webhook, body: bytes, *, status: str, mode: str | None, now: datetime
) -> Receipt:
    row = {
        "id": event.id,
        "type": event.type,
        "mode": event.mode,
        "customer": event.customer,
        "occurred_at": _occurred_at(event, now),
        "payload": body,
    }
    try:
        change = _change_of(event, mode)
        parameters = row | {
            "status": status,
            "change": change.parameter() if change else None,
            "now": now,
        }
        outcome = db.value(_sql["receive_event"], parameters)
    except DatabaseUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the event must not be lost
        outcome = _store_failed(db, row, error)
    return Receipt(event.id, event.type, str(outcome))


def _store_failed(db: Database, row: Mapping[str, object], error: Exception) -> str:
    _log_failure(str(row["id"]), error)
    try:
        db.execute(_sql["store_failed_event"], {**row, "error": _named(error)})
    except Exception as second:  # not stored: Commet must send it again
        raise DatabaseUnavailable from second
    return "failed"


def retry_failed(
    db: Database, *, mode: str, clock: Callable[[], datetime], deadline: Deadline
) -> dict[str, int]:
    """Applies failed events that are due, those tried least first; counts what became of them.

    Works until none is due or time is up. One that fails again comes due later each time, so it
    holds up nobody; after the last attempt it is `dead`. Events that were ignored and matter now
    are among them: their user has appeared, or the mode was set right.
    """
    db.execute(_sql["wake_ignored"], {"mode": mode})
    outcomes: dict[str, int] = {}
    while deadline.remaining() > 0:
        leased = db.all(_sql["lease_failed_events"], {"limit": _BATCH})
        leased.sort(key=lambda row: (row["attempts"], row["occurred_at"], row["id"]))
        for position, row in enumerate(leased):
            if deadline.remaining() <= 0:
                rest = [each["id"] for each in leased[position:]]
                db.execute(_sql["unlease_events"], {"ids": rest})
                break
            outcome = _retry(db, row["id"], bytes(row["payload"]), mode=mode, now=clock())
            if outcome is not None:
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if len(leased) < _BATCH:
            break
    return outcomes


def health(db: Database) -> Health:
    """How the inbox stands now."""
    row = db.one(_sql["health"])
    assert row is not None  # noqa: S101 - it has no condition
    return Health(**row)


def redrive(db: Database, *, event_id: str | None = None, user_id: str | None = None) -> int:
    """Has reconcile try dead events again, all or those named; how many.

    Events without their payload stay as they are: there is nothing left to apply.
    """
    params = {"id": event_id, "user_id": user_id, "limit": _REDRIVE_AT_ONCE}
    driven = 0
    while True:
        count = len(db.all(_sql["redrive_events"], params))
        driven += count
        if count < _REDRIVE_AT_ONCE:
            return driven


def _retry(db: Database, event_id: str, payload: bytes, *, mode: str, now: datetime) -> str | None:
    """What became of it; None where another run was faster."""
    try:
        event = from_webhook.parse(payload)
        change = _change_of(event, mode)
        outcome = db.value(
            _sql["retry_event"],
            {
                "id": event_id,
                "customer": event.customer,
                "occurred_at": _occurred_at(event, now),
                "change": change.parameter() if change else None,
                "now": now,
            },
        )
    except DatabaseUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - one poisoned event must not stop the others
        _log_failure(event_id, error)
        outcome = db.value(
            _sql["postpone_event"],
            {"id": event_id, "max_attempts": MAX_ATTEMPTS, "error": _named(error)},
        )
    return None if outcome is None else str(outcome)


def _occurred_at(event: Webhook, now: datetime) -> datetime:
    return min(event.occurred_at or now, now + _AHEAD)


def _change_of(event: Webhook, mode: str | None) -> Change | None:
    return from_webhook.change_of(event) if mode is not None and _is_of(event, mode) else None


def _is_of(event: Webhook, mode: str) -> bool:
    return event.mode in (mode, None)


def _log_failure(event_id: str, error: Exception) -> None:
    """Without a traceback: the messages of other errors than the database's quote the event."""
    fields = {"event_id": event_id, "error": _named(error), **place_of(error)}
    logger.error("webhook.event_failed", extra=fields)


def _named(error: Exception) -> str:
    """The kind of error, and the database's words and the place it names, without any value."""
    place = place_of(error)
    if not place or not isinstance(error, psycopg.Error):
        return type(error).__name__
    where = f" ({place['routine'][0]})" if "routine" in place else ""
    return f"{type(error).__name__}: {error}{where}"[:500]
