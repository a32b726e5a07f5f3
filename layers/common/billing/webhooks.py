"""Taking Commet's webhooks: verify, record, apply, acknowledge.

A good signature always ends in 200, or 503 when the database cannot take the event: Commet
disables an endpoint after three events it cannot deliver, so neither our bugs nor its surprises
may be answered with an error. What could not be applied waits in the inbox for `reconcile`.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from billing import events
from billing.clock import Clock, wall_clock
from billing.db import Database
from billing.deadline import Deadline
from billing.errors import BadSignature, DatabaseUnavailable, PayloadTooLarge
from billing.events import Event, Unreadable
from billing.news import News
from billing.secrets import Secrets
from billing.signatures import is_signed
from billing.sql import queries
from billing.webhook_secret import WebhookSecret

MAX_BODY_BYTES = 1_100_000  # a megabyte of text, and the event around it
MAX_ATTEMPTS = 12

_BATCH = 50
_REDRIVE_AT_ONCE = 5000

# An event that claims to come from later than this would outdo every true one until then.
_AHEAD = timedelta(minutes=5)

# A secret that was just rotated in is found, and strangers cannot make us read it more often.
_REREAD_SECONDS = 60.0
_MAX_AGE_SECONDS = 300.0  # for how long one that was taken out is believed yet


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a webhook: `duplicate applied ignored failed unreadable`."""

    event_id: str
    event_type: str
    outcome: str


class Verifier:
    """Checks signatures against the current secrets."""

    def __init__(self, secrets: Secrets, secret_id: str, clock: Clock = wall_clock) -> None:
        self._secrets = secrets
        self._secret_id = secret_id
        self._clock = clock
        self._reread_at = float("-inf")

    def verify(self, body: bytes, signature: str) -> None:
        """Raises PayloadTooLarge or BadSignature; returns for what Commet has signed."""
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge
        if is_signed(body, signature, self._current(fresh=False)):
            return
        now = time.monotonic()
        if now - self._reread_at >= _REREAD_SECONDS:
            self._reread_at = now
            if is_signed(body, signature, self._current(fresh=True)):
                return
        raise BadSignature

    def _current(self, *, fresh: bool) -> Iterable[str]:
        fields = self._secrets.fields(
            self._secret_id, fresh=fresh, max_age_seconds=_MAX_AGE_SECONDS
        )
        return WebhookSecret.of(fields).valid(self._clock())


def receive(db: Database, body: bytes, *, mode: str, now: datetime) -> Receipt:
    """Stores and applies a signed body, once; raises only DatabaseUnavailable.

    Events of Commet's other mode (live or sandbox), of unknown types and for unknown customers
    are stored as `ignored`; those that a later day may make matter are found again then.
    """
    try:
        event = events.parse(body)
    except Unreadable:
        event = Event(events.body_id(body), "", None, None, None, {})
        return _record(db, event, body, status="unreadable", mode=None, now=now)
    status = "ignored" if _is_of(event, mode) else "other_mode"
    return _record(db, event, body, status=status, mode=mode, now=now)


def _record(
    db: Database, event: Event, body: bytes, *, status: str, mode: str | None, now: datetime
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
        news = _news_of(event, mode)
        parameters = row | {
            "status": status,
            "news": news.parameter() if news else None,
            "now": now,
        }
        outcome = db.value(queries("webhooks")["receive_event"], parameters)
    except DatabaseUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the event must not be lost
        outcome = _store_failed(db, row, error)
    return Receipt(event.id, event.type, str(outcome))


def _store_failed(db: Database, row: Mapping[str, object], error: Exception) -> str:
    try:
        db.execute(queries("webhooks")["store_failed_event"], {**row, "error": _named(error)})
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
    db.execute(queries("webhooks")["wake_ignored"], {"mode": mode})
    outcomes: dict[str, int] = {}
    while deadline.remaining() > 0:
        leased = db.all(queries("webhooks")["lease_failed_events"], {"limit": _BATCH})
        leased.sort(key=lambda row: (row["attempts"], row["occurred_at"], row["id"]))
        for position, row in enumerate(leased):
            if deadline.remaining() <= 0:
                rest = [each["id"] for each in leased[position:]]
                db.execute(queries("webhooks")["release_events"], {"ids": rest})
                break
            outcome = _retry(db, row["id"], bytes(row["payload"]), mode=mode, now=clock())
            if outcome is not None:
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if len(leased) < _BATCH:
            break
    return outcomes


def redrive(db: Database, *, event_id: str | None = None, user_id: str | None = None) -> int:
    """Has reconcile try dead events again, all or those named; how many.

    Events without their payload stay as they are: there is nothing left to apply.
    """
    params = {"id": event_id, "user_id": user_id, "limit": _REDRIVE_AT_ONCE}
    driven = 0
    while True:
        count = len(db.all(queries("webhooks")["redrive_events"], params))
        driven += count
        if count < _REDRIVE_AT_ONCE:
            return driven


def _retry(db: Database, event_id: str, payload: bytes, *, mode: str, now: datetime) -> str | None:
    """What became of it; None where another run was faster."""
    try:
        event = events.parse(payload)
        news = _news_of(event, mode)
        outcome = db.value(
            queries("webhooks")["retry_event"],
            {
                "id": event_id,
                "customer": event.customer,
                "occurred_at": _occurred_at(event, now),
                "news": news.parameter() if news else None,
                "now": now,
            },
        )
    except DatabaseUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - one poisoned event must not stop the others
        outcome = db.value(
            queries("webhooks")["postpone_event"],
            {"id": event_id, "max_attempts": MAX_ATTEMPTS, "error": _named(error)},
        )
    return None if outcome is None else str(outcome)


def _occurred_at(event: Event, now: datetime) -> datetime:
    return min(event.occurred_at or now, now + _AHEAD)


def _news_of(event: Event, mode: str | None) -> News | None:
    return events.news_of(event) if mode is not None and _is_of(event, mode) else None


def _is_of(event: Event, mode: str) -> bool:
    return event.mode in (mode, None)


def _named(error: Exception) -> str:
    """What went wrong without what it went wrong on: messages quote the data."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return f"{type(error).__name__}: {error.diag.message_primary}"[:500]
    return type(error).__name__
