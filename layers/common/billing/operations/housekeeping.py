"""Deletes old sessions, counters, webhooks, ledger rows, deliveries, audit entries and events.

Parts of webhooks, ledger rows and deliveries that may still be needed remain.
"""

from datetime import datetime, timedelta

from billing.audit import trail
from billing.database import rounds
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.events import log

_sql = Statements(__file__)

_KEEP_ATTEMPTS = timedelta(days=1)  # the longest window
_KEEP_NETWORKS = timedelta(days=180)
_KEEP_UNVERIFIED = timedelta(hours=24)
_KEEP_PLAN_CHANGES = timedelta(days=2)
_AT_ONCE = 5000
_PAYLOADS = "inbox_payloads"
_LEDGER = "ledger"
_DELIVERIES_AT_ONCE = 20_000
_DAILY = timedelta(days=1)
_BEGINNING = {"received_at": "-infinity", "id": ""}


def tidy_sign_ins(db: Database, now: datetime) -> None:
    """Deletes ended sessions and links, networks that were not used for long, and old counters."""
    db.execute(_sql["delete_expired_sessions"], {"now": now})
    db.execute(_sql["prune_sign_ins"], {"now": now, "networks_before": now - _KEEP_NETWORKS})
    db.execute(_sql["delete_old_attempts"], {"before": now - _KEEP_ATTEMPTS})


def delete_unverified(db: Database, now: datetime) -> int:
    """Deletes accounts whose address was not proven within a day. Returns how many."""
    deleted: int = db.value(_sql["delete_unverified"], {"before": now - _KEEP_UNVERIFIED})
    return deleted


def delete_plan_changes(db: Database) -> None:
    """Deletes changes of plan whose confirmation ended two days ago. Commet no longer knows
    their keys.
    """
    db.execute(_sql["delete_old_plan_changes"], {"age": _KEEP_PLAN_CHANGES})


def prune_audit(db: Database, *, age: timedelta, deadline: Deadline) -> int:
    """Deletes entries of the audit trail that are older than `age`. Returns how many."""
    pruned = 0
    while deadline.remaining() > 0:
        found = trail.prune(db, age, _AT_ONCE)
        pruned += found
        if found < _AT_ONCE:
            break
    return pruned


def prune_events(db: Database, *, age: timedelta, deadline: Deadline) -> int:
    """Deletes outgoing events that are older than `age`, delivered or not. Returns how many."""
    pruned = 0
    while deadline.remaining() > 0:
        found = log.prune(db, age, _AT_ONCE)
        pruned += found
        if found < _AT_ONCE:
            break
    return pruned


def prune_inbox(
    db: Database,
    now: datetime,
    *,
    payload_age: timedelta,
    id_age: timedelta,
    deadline: Deadline,
) -> int:
    """Deletes the payload of webhooks older than `payload_age`, and rows older than `id_age`.

    Returns how many payloads were deleted. Continues where the last run stopped. A webhook that was
    not applied yet keeps its row and payload. A row is kept for much longer than Commet repeats a
    webhook, so a repeated webhook is always recognised.
    """
    found = rounds.take_up(db, _PAYLOADS, start=_BEGINNING, every=timedelta(0), now=now)
    if found is None:
        return 0
    position, pruned = found.position, 0
    try:
        while deadline.remaining() > 0:
            row = db.one(
                _sql["prune_payloads"],
                {**position, "age": payload_age, "limit": _AT_ONCE},
            )
            if row is None:
                break
            pruned += row["pruned"]
            position = {"received_at": row["received_at"].isoformat(), "id": row["id"]}
            rounds.advance(db, _PAYLOADS, position)
            if row["looked_at"] < _AT_ONCE:
                break
        while deadline.remaining() > 0:
            params = {"age": id_age, "limit": _AT_ONCE}
            if len(db.all(_sql["delete_old_webhooks"], params)) < _AT_ONCE:
                break
    finally:
        rounds.leave(db, _PAYLOADS)
    return pruned


def compact_deliveries(db: Database, *, before: datetime, deadline: Deadline) -> int:
    """Merges the sent deliveries of each period that was closed before `before`.

    Returns the number of periods.
    """
    compacted = 0
    params = {"before": before, "limit": _DELIVERIES_AT_ONCE}
    while deadline.remaining() > 0:
        row = db.one(_sql["compact"], params)
        if row is None or row["looked_at"] == 0:
            break
        compacted += row["finished"]
    return compacted


def prune_ledger(db: Database, now: datetime, *, before: datetime, deadline: Deadline) -> int:
    """Replaces ledger rows booked before `before` by their idempotency keys. Returns how many.

    The keys are kept for ever. Runs once a day, in a round that continues where the last run
    stopped. A ledger row remains while its period runs, while its usage waits to be sent, while a
    delivery of it is in doubt, and while a credit of it is open.
    """
    start = {"booked_at": "-infinity", "user_id": "", "key": "", "feature": ""}
    found = rounds.take_up(db, _LEDGER, start=start, every=_DAILY, now=now)
    if found is None:
        return 0
    position, pruned = found.position, 0
    while deadline.remaining() > 0:
        row = db.one(
            _sql["prune_ledger"],
            {**position, "before": before, "limit": _AT_ONCE},
        )
        pruned += row["pruned"] if row else 0
        if row is None or row["looked_at"] < _AT_ONCE:
            rounds.finish(db, _LEDGER)
            return pruned
        position = {
            "booked_at": row["booked_at"].isoformat(),
            "user_id": row["user_id"],
            "key": row["key"],
            "feature": row["feature"],
        }
        rounds.advance(db, _LEDGER, position)
    rounds.leave(db, _LEDGER)
    return pruned
