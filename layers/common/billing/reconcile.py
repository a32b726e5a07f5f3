"""What a schedule repairs: events that could not be applied, rows Commet must be asked about."""

from collections.abc import Callable
from datetime import datetime, timedelta

from aws_lambda_powertools import Logger

from billing import subscriptions, webhooks
from billing.commet import Commet
from billing.db import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable, DatabaseUnavailable
from billing.refresh import refresh
from billing.sql import queries

logger = Logger(child=True)

_BATCH = 50
_REFRESH_SECONDS = 10.0
_KEEP_ATTEMPTS = timedelta(days=1)


def run(
    db: Database, commet: Commet, *, mode: str, clock: Callable[[], datetime], deadline: Deadline
) -> dict[str, int]:
    """Works until nothing is due or the time is up; what it did, as counts.

    One user's trouble never stops another's: it is logged, and their row comes due again later.
    """
    summary = {"events_applied": 0, "events_failed": 0, "refreshed": 0, "refresh_failed": 0}
    for outcome, count in webhooks.retry_failed(
        db, mode=mode, clock=clock, limit=_BATCH, has_time=lambda: deadline.remaining() > 0
    ).items():
        applied = outcome in ("applied", "ignored")
        summary["events_applied" if applied else "events_failed"] += count
    while deadline.remaining() > 0:
        users = subscriptions.claim_refreshes(db, clock(), limit=_BATCH)
        for user_id in users:
            done = _refresh(db, commet, user_id, clock(), deadline)
            summary["refreshed" if done else "refresh_failed"] += 1
        if len(users) < _BATCH:
            break
    _tidy(db, clock())
    return summary


def _refresh(db: Database, commet: Commet, user_id: str, now: datetime, deadline: Deadline) -> bool:
    try:
        refresh(db, commet, user_id, now=now, deadline=deadline.within(_REFRESH_SECONDS))
    except (CommetUnavailable, CommetRefused) as error:
        logger.warning(
            "reconcile.refresh_failed",
            user_id=user_id,
            commet_code=error.commet_code,
            commet_request_id=error.request_id,
        )
        return False
    except DatabaseUnavailable:
        raise
    except Exception:  # whatever it is, it is this user's trouble alone
        logger.exception("reconcile.refresh_broken", user_id=user_id)
        return False
    return True


def _tidy(db: Database, now: datetime) -> None:
    db.execute(queries("accounts")["delete_expired_sessions"], {"now": now})
    db.execute(queries("accounts")["delete_old_attempts"], {"before": now - _KEEP_ATTEMPTS})
