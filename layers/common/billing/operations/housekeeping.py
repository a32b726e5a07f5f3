"""What is thrown away: sessions that ended, counters of yesterday, what is over and done.

Webhooks, ledger rows and deliveries of long ago shrink to what can still be asked for.
"""

from datetime import datetime, timedelta

from billing.database import rounds
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline

_sql = Statements(__file__)

_KEEP_ATTEMPTS = timedelta(days=1)
_AT_ONCE = 5000
_PAYLOADS = "inbox_payloads"
_LEDGER = "ledger"
_DELIVERIES_AT_ONCE = 20_000
_DAILY = timedelta(days=1)
_BEGINNING = {"received_at": "-infinity", "id": ""}


def tidy_sign_ins(db: Database, now: datetime) -> None:
    """Deletes sessions that ended and attempts that no limit looks at any more."""
    db.execute(_sql["delete_expired_sessions"], {"now": now})
    db.execute(_sql["delete_old_attempts"], {"before": now - _KEEP_ATTEMPTS})


def prune_inbox(
    db: Database, *, payload_age: timedelta, id_age: timedelta, deadline: Deadline
) -> int:
    """Takes old webhooks their payload, and much older ones altogether; how many lost theirs.

    Goes on where the last run stopped. What was not applied yet keeps everything. An id is kept far
    longer than Commet sends an event again, so a repeat is always known as one.
    """
    found = rounds.take_up(db, _PAYLOADS, start=_BEGINNING, every=timedelta(0))
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
            if len(db.all(_sql["delete_old_events"], params)) < _AT_ONCE:
                break
    finally:
        rounds.leave(db, _PAYLOADS)
    return pruned


def compact_deliveries(db: Database, *, before: datetime, deadline: Deadline) -> int:
    """Merges the sent deliveries of periods closed before then; of how many periods."""
    compacted = 0
    params = {"before": before, "limit": _DELIVERIES_AT_ONCE}
    while deadline.remaining() > 0:
        row = db.one(_sql["compact"], params)
        if row is None or row["looked_at"] == 0:
            break
        compacted += row["finished"]
    return compacted


def prune_ledger(db: Database, *, before: datetime, deadline: Deadline) -> int:
    """Replaces ledger rows booked before then by their keys, which stay for good; how many.

    Once a day, in a round that goes on where the last run stopped. Rows of which something is left
    to send, to decide or to give back keep everything.
    """
    start = {"booked_at": "-infinity", "user_id": "", "key": ""}
    found = rounds.take_up(db, _LEDGER, start=start, every=_DAILY)
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
        }
        rounds.advance(db, _LEDGER, position)
    rounds.leave(db, _LEDGER)
    return pruned
