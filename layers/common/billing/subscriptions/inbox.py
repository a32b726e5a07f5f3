"""The inbox of Commet's webhooks: stores each webhook, applies it, and tries failed ones again.

A webhook with a good signature is answered with 200, or with 503 while the database does not
answer. A bug of ours or unexpected content never causes an error as the answer, because Commet
disables an endpoint after three webhooks in a row that it cannot deliver. A webhook that could not
be applied waits in the inbox for `reconcile`.
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
from billing.payments import counting
from billing.subscriptions import from_webhook
from billing.subscriptions.changes import Change
from billing.subscriptions.from_webhook import Unreadable, Webhook

_sql = Statements(__file__)

logger = Logger()

MAX_ATTEMPTS = 12

_BATCH = 50
_REDRIVE_AT_ONCE = 5000

# A webhook's time counts as at most this far ahead of our clock. Otherwise a webhook with a time in
# the future would win over every true one until that time.
_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of a webhook. `outcome`: duplicate, applied, ignored, failed or unreadable."""

    event_id: str
    event_type: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Health:
    """How many webhooks wait in the inbox.

    `failed` webhooks are tried again. `dead` ones wait for a person. `oldest_seconds` is the age of
    the oldest failed one.
    """

    failed: int
    dead: int
    oldest_seconds: int


def receive(db: Database, body: bytes, *, mode: str, now: datetime) -> Receipt:
    """Stores and applies a signed body, once. Raises DatabaseUnavailable and nothing else.

    Webhooks of Commet's other mode (live or sandbox), of unknown types and of unknown customers are
    stored as `ignored`. `retry_failed` applies them if our mode changes or the user appears.
    """
    try:
        webhook = from_webhook.parse(body)
    except Unreadable:
        webhook = Webhook(from_webhook.body_id(body), "", None, None, None, {})
        return _record(db, webhook, body, status="unreadable", mode=None, now=now)
    status = "ignored" if _is_of(webhook, mode) else "other_mode"
    return _record(db, webhook, body, status=status, mode=mode, now=now)


def _record(
    db: Database, webhook: Webhook, body: bytes, *, status: str, mode: str | None, now: datetime
) -> Receipt:
    row = {
        "id": webhook.id,
        "type": webhook.type,
        "mode": webhook.mode,
        "customer": webhook.customer,
        "occurred_at": _occurred_at(webhook, now),
        "payload": body,
    }
    try:
        change = _change_of(webhook, mode)
        parameters = row | {
            "status": status,
            "change": change.parameter() if change else None,
            "now": now,
        }
        outcome = db.value(_sql["receive_webhook"], parameters)
    except DatabaseUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - no error may lose the webhook
        outcome = _store_failed(db, row, error)
    _count(webhook, str(outcome), mode)
    return Receipt(webhook.id, webhook.type, str(outcome))


def _count(webhook: Webhook, outcome: str, mode: str | None) -> None:
    """Counts a webhook that was applied now, or that names no customer and so is never applied."""
    if mode is None or not _is_of(webhook, mode):
        return
    if outcome == "applied" or (outcome == "ignored" and webhook.customer is None):
        counting.count(webhook.type, webhook.data)


def _store_failed(db: Database, row: Mapping[str, object], error: Exception) -> str:
    _log_failure(str(row["id"]), error)
    try:
        stripped = from_webhook.stripped(bytes(row["payload"]))  # type: ignore[call-overload]
        values = {**row, "stripped": stripped, "error": _named(error)}
        db.execute(_sql["store_failed_webhook"], values)
    except Exception as second:  # the webhook is not stored, so Commet must send it again
        raise DatabaseUnavailable from second
    return "failed"


def retry_failed(
    db: Database, *, mode: str, clock: Callable[[], datetime], deadline: Deadline
) -> dict[str, int]:
    """Applies failed webhooks that are due, those with the fewest attempts first.

    Returns how many ended with each outcome: applied, ignored, failed or dead. Stops when no
    webhook is due or the time is over. After each failure, a webhook waits longer, so it delays no
    other webhook. After `MAX_ATTEMPTS` it is `dead`. Ignored webhooks are tried again if their user
    has appeared since, or if their mode is now ours.
    """
    db.execute(_sql["wake_ignored"], {"mode": mode})
    outcomes: dict[str, int] = {}
    while deadline.remaining() > 0:
        leased = db.all(_sql["lease_failed_webhooks"], {"limit": _BATCH})
        leased.sort(key=lambda row: (row["attempts"], row["occurred_at"], row["id"]))
        for position, row in enumerate(leased):
            if deadline.remaining() <= 0:
                rest = [each["id"] for each in leased[position:]]
                db.execute(_sql["unlease_webhooks"], {"ids": rest})
                break
            outcome = _retry(db, row["id"], bytes(row["payload"]), mode=mode, now=clock())
            if outcome is not None:
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if len(leased) < _BATCH:
            break
    return outcomes


def health(db: Database) -> Health:
    """Returns how many webhooks wait in the inbox now."""
    row = db.one(_sql["health"])
    assert row is not None  # noqa: S101 - it has no condition
    return Health(**row)


def redrive(db: Database, *, event_id: str | None = None, user_id: str | None = None) -> int:
    """Makes `reconcile` try dead webhooks again: all, one, or those of one user. Returns how many.

    A webhook whose payload was deleted remains dead, because nothing is left to apply.
    """
    params = {"id": event_id, "user_id": user_id, "limit": _REDRIVE_AT_ONCE}
    driven = 0
    while True:
        count = len(db.all(_sql["redrive_webhooks"], params))
        driven += count
        if count < _REDRIVE_AT_ONCE:
            return driven


def _retry(db: Database, event_id: str, payload: bytes, *, mode: str, now: datetime) -> str | None:
    """Returns the outcome of the webhook; None if another run has applied it already."""
    try:
        webhook = from_webhook.parse(payload)
        change = _change_of(webhook, mode)
        outcome = db.value(
            _sql["retry_webhook"],
            {
                "id": event_id,
                "customer": webhook.customer,
                "occurred_at": _occurred_at(webhook, now),
                "change": change.parameter() if change else None,
                "now": now,
            },
        )
        _count(webhook, str(outcome), mode)
    except DatabaseUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - one broken webhook must not stop the others
        _log_failure(event_id, error)
        outcome = db.value(
            _sql["postpone_webhook"],
            {"id": event_id, "max_attempts": MAX_ATTEMPTS, "error": _named(error)},
        )
    return None if outcome is None else str(outcome)


def _occurred_at(webhook: Webhook, now: datetime) -> datetime:
    return min(webhook.occurred_at or now, now + _AHEAD)


def _change_of(webhook: Webhook, mode: str | None) -> Change | None:
    return from_webhook.change_of(webhook) if mode is not None and _is_of(webhook, mode) else None


def _is_of(webhook: Webhook, mode: str) -> bool:
    return webhook.mode in (mode, None)


def _log_failure(event_id: str, error: Exception) -> None:
    """Logs the failure without a traceback, because most error messages quote the webhook's
    content.
    """
    fields = {"event_id": event_id, "error": _named(error), **place_of(error)}
    logger.error("webhook.event_failed", extra=fields)


def _named(error: Exception) -> str:
    """Returns the error's class; for a database error also its message and routine, without
    values.
    """
    place = place_of(error)
    if not place or not isinstance(error, psycopg.Error):
        return type(error).__name__
    where = f" ({place['routine'][0]})" if "routine" in place else ""
    return f"{type(error).__name__}: {error}{where}"[:500]
