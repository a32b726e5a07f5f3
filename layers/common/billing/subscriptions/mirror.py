"""Reads and writes the mirror of Commet's subscriptions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.subscriptions.changes import Change

_sql = Statements(__file__)

LIVE = frozenset({"active", "trialing", "past_due", "paused"})
PENDING = frozenset({"pending_payment", "draft", "unknown"})

# Commet's answers may be older than its webhooks, and a webhook's time is slightly later than the
# change itself. An answer that is older than the newest webhook by more than this is out of date.
READ_LAG = timedelta(seconds=5)

# How many rows of a user a refresh asks about. Each row costs a call to Commet.
_ROWS_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Subscription:
    """A user's current subscription. `as_of` is the time of our newest information about it."""

    id: str
    status: str
    plan_id: str | None
    plan_name: str | None
    billing_interval: str | None
    period_start: datetime | None
    period_end: datetime | None
    cancel_at_period_end: bool
    scheduled_change: Mapping[str, Any] | None
    trial_ends_at: datetime | None
    checkout_url: str | None
    is_known: bool  # whether Commet knew it when we last asked
    as_of: datetime

    def gives_access(self, statuses: Collection[str]) -> bool:
        """Whether the subscription has one of these statuses."""
        return self.status in statuses


def current(db: Database, user_id: str) -> Subscription | None:
    """Returns the user's live subscription, else the newest pending one, else the newest ended
    one.
    """
    row = db.one(_sql["current"], {"user_id": user_id})
    return Subscription(**row) if row else None


def free_until(db: Database, user_id: str) -> datetime | None:
    """Returns until when a user gets no free plan, because an erased account of the person had
    one.
    """
    found: datetime | None = db.value(_sql["free_until"], {"user_id": user_id})
    return found


def had_trial(db: Database, user_id: str) -> bool:
    """Returns whether a trial of the user has ever begun."""
    return bool(db.value(_sql["had_trial"], {"user_id": user_id}))


def in_doubt(db: Database, user_id: str) -> bool:
    """Returns whether the user may have changed something at Commet, and no webhook has come
    yet.
    """
    return bool(db.value(_sql["in_doubt"], {"user_id": user_id}))


def doubt(db: Database, user_id: str, *, lasting: timedelta, leaves: bool = False) -> None:
    """Puts the user in doubt for `lasting`: Commet is asked before this user is refused anything.

    In this time, an answer of Commet counts as valid for ten seconds. `leaves` says that the user
    gets a link to Commet: then no answer counts for which Commet was asked before.
    """
    db.execute(_sql["doubt"], {"user_id": user_id, "lasting": lasting, "leaves": leaves})


def note_answer(db: Database, user_id: str) -> None:
    """Records that Commet has answered the question for which the caller called `lease_refresh`."""
    db.execute(_sql["note_answer"], {"user_id": user_id})


def record_change(
    db: Database, user_id: str, change: Change, *, at: datetime, now: datetime
) -> None:
    """Applies a change that occurred at `at`. Columns with newer values do not change."""
    db.execute(
        _sql["record_change"],
        {"user_id": user_id, "at": at, "change": change.parameter(), "now": now},
    )


def confirm(
    db: Database,
    subscription_id: str,
    version: int,
    known: dict[str, object],
    *,
    at: datetime,
    asked_at: datetime,
) -> str:
    """Writes Commet's answer of time `at` to a row that was read at `version`.

    Returns `confirmed`; `healed` if the row was wrong; or `stale` if a newer change was applied
    meanwhile. A stale answer is not written, and the row is marked.
    """
    return str(
        db.value(
            _sql["confirm"],
            {
                "id": subscription_id,
                "version": version,
                "at": at,
                "asked_at": asked_at,
                "known": Jsonb(known),
                "lag": READ_LAG,
            },
        )
    )


def keep_unknown(db: Database, subscription_id: str, version: int) -> None:
    """Records that Commet does not know this subscription. Its status and period do not change."""
    params = {"id": subscription_id, "version": version}
    db.execute(_sql["keep_unknown"], params)


@dataclass(frozen=True, slots=True)
class Refreshable:
    """A subscription about which Commet is asked, as it was read."""

    id: str
    version: int
    status: str
    changed_at: datetime  # the time of the newest change
    period_end: datetime | None

    @property
    def is_live(self) -> bool:
        """Whether the subscription has begun and not ended, by our copy."""
        return self.status in LIVE


def refreshable(db: Database, user_id: str) -> list[Refreshable]:
    """Returns at most ten rows of the user that are live, pending or marked, the live ones first.

    A user with more rows has left many checkouts unpaid. After the live and the marked rows, those
    come first that were confirmed longest ago.
    """
    params = {"user_id": user_id, "limit": _ROWS_AT_ONCE}
    rows = db.all(_sql["refreshable"], params)
    return [Refreshable(**row) for row in rows]


def lease_refresh(db: Database, user_id: str, now: datetime) -> bool:
    """Returns whether this caller may ask Commet about the user. Nobody else may for ten
    seconds.
    """
    params = {"user_id": user_id, "now": now}
    return bool(db.all(_sql["lease_refresh"], params))


def lease_refreshes(db: Database, now: datetime, *, limit: int) -> list[str]:
    """Returns at most `limit` users whose rows are due, leased for this caller.

    Users with a row in doubt come first.
    """
    rows = db.all(_sql["lease_refreshes"], {"now": now, "limit": limit})
    return [row["user_id"] for row in rows]


def unlease_refresh(db: Database, user_id: str) -> None:
    """Ends a lease for which no call was made, so that the next caller may ask at once."""
    db.execute(_sql["unlease_refresh"], {"user_id": user_id})


def unlease_refreshes(db: Database, users: Collection[str]) -> None:
    """Ends leases of `lease_refreshes` for which no call was made."""
    db.execute(_sql["unlease_refreshes"], {"users": list(users)})


def askable(db: Database, users: Collection[str], now: datetime) -> list[str]:
    """Returns the users about whom Commet may be asked now, because one of their rows is due."""
    params = {"users": list(users), "now": now}
    return [row["user_id"] for row in db.all(_sql["askable"], params)]


def unanswered(db: Database, users: Collection[str], now: datetime) -> dict[str, datetime]:
    """Returns the users in doubt about whom Commet was not asked, or has not answered.

    Each user has the time of our newest information about the user.
    """
    params = {"users": list(users), "now": now}
    rows = db.all(_sql["unanswered"], params)
    newest: dict[str, datetime] = {}
    for row in rows:
        newest[row["user_id"]] = max(row["as_of"], newest.get(row["user_id"], row["as_of"]))
    return newest


@dataclass(frozen=True, slots=True)
class BooleanFeature:
    """A feature that a plan has (`allowed`) or does not have. It is not metered."""

    feature: str
    name: str
    allowed: bool


def boolean_features(db: Database, user_id: str) -> list[BooleanFeature]:
    """Returns the boolean features of the user's plan, ordered by feature code.

    `allowed` is what Commet last said, even if the user has no access.
    """
    rows = db.all(_sql["boolean_features"], {"user_id": user_id})
    return [BooleanFeature(**row) for row in rows]
