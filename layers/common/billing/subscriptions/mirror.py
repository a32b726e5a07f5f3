"""The mirror of Commet's subscriptions: what it says, and how news gets into it."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.types.json import Jsonb

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.subscriptions.changes import Change

_sql = Statements(__file__)

LIVE = frozenset({"active", "trialing", "past_due", "paused"})
PENDING = frozenset({"pending_payment", "draft", "unknown"})

# Commet's answers may lag behind its events, which are stamped a moment after the change itself.
# An answer that is older than the newest event by more than this is old news.
READ_LAG = timedelta(seconds=5)

# Each costs a call to Commet.
_ROWS_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Subscription:
    """The row that speaks for a user. `as_of` is when it was last known to be true."""

    id: str
    status: str
    plan_id: str | None
    plan_name: str | None
    billing_interval: str | None
    period_start: datetime | None
    period_end: datetime | None
    cancel_at_period_end: bool
    trial_ends_at: datetime | None
    checkout_url: str | None
    as_of: datetime

    def gives_access(self, statuses: Collection[str]) -> bool:
        """Whether one of these statuses is this row's."""
        return self.status in statuses


def customer_id(db: Database, user_id: str) -> str | None:
    """Commet's id of this user's customer; None before the first checkout."""
    found: str | None = db.value(_sql["customer_id"], {"user_id": user_id})
    return found


def current(db: Database, user_id: str) -> Subscription | None:
    """The user's live subscription, else the newest pending one, else the newest that ended."""
    row = db.one(_sql["current"], {"user_id": user_id})
    return Subscription(**row) if row else None


def in_doubt(db: Database, user_id: str) -> bool:
    """Whether the user may have changed something at Commet that no webhook has told yet."""
    return bool(db.value(_sql["in_doubt"], {"user_id": user_id}))


def doubt(db: Database, user_id: str, *, lasting: timedelta) -> None:
    """Has Commet asked about the user before a refusal, for so long from now on.

    An answer is good for ten seconds meanwhile.
    """
    db.execute(_sql["doubt"], {"user_id": user_id, "lasting": lasting})


def note_answer(db: Database, user_id: str) -> None:
    """Notes that Commet has answered the question that `claim_refresh` gave the right to."""
    db.execute(_sql["note_answer"], {"user_id": user_id})


def record_change(
    db: Database, user_id: str, change: Change, *, at: datetime, now: datetime
) -> None:
    """Applies news that occurred at `at`; older news than what is known changes nothing."""
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
    """Writes what Commet itself says, as of `at`, of a row read at `version`; what became of it.

    `confirmed` or, where the row was wrong, `healed`; `stale` where something newer was applied
    meanwhile: the row then is marked.
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
    """Notes that Commet does not know this subscription, which is left as it is."""
    params = {"id": subscription_id, "version": version}
    db.execute(_sql["keep_unknown"], params)


@dataclass(frozen=True, slots=True)
class Refreshable:
    """A row whose truth is worth asking for, as it was read."""

    id: str
    version: int
    status: str
    event_at: datetime  # of the newest news
    period_end: datetime | None

    @property
    def is_live(self) -> bool:
        """Whether it is believed to have begun and not ended."""
        return self.status in LIVE


def refreshable(db: Database, user_id: str) -> list[Refreshable]:
    """The user's rows that are believed live or pending, or are marked: ten, the live ones first.

    Somebody with more has left many checkouts unpaid; which of them are asked about takes turns.
    """
    params = {"user_id": user_id, "limit": _ROWS_AT_ONCE}
    rows = db.all(_sql["refreshable"], params)
    return [Refreshable(**row) for row in rows]


def claim_refresh(db: Database, user_id: str, now: datetime) -> bool:
    """Whether this caller, and nobody else right now, may ask Commet about the user."""
    params = {"user_id": user_id, "now": now}
    return bool(db.all(_sql["claim_refresh"], params))


def claim_refreshes(db: Database, now: datetime, *, limit: int) -> list[str]:
    """Users whose rows are due, claimed for this caller; those in doubt come first."""
    rows = db.all(_sql["claim_refreshes"], {"now": now, "limit": limit})
    return [row["user_id"] for row in rows]


def unclaim_refresh(db: Database, user_id: str) -> None:
    """Gives back a claim that came to nothing: whoever comes next may ask at once."""
    db.execute(_sql["unclaim_refresh"], {"user_id": user_id})


def unclaim_refreshes(db: Database, users: Collection[str]) -> None:
    """Gives back claims of the schedule."""
    db.execute(_sql["unclaim_refreshes"], {"users": list(users)})


def askable(db: Database, users: Collection[str], now: datetime) -> list[str]:
    """Those of the users about whom asking Commet could tell something new right now."""
    params = {"users": list(users), "now": now}
    return [row["user_id"] for row in db.all(_sql["askable"], params)]


def unanswered(db: Database, users: Collection[str], now: datetime) -> dict[str, datetime]:
    """Those of the users about whom Commet was or is to be asked and has not answered since.

    With each, how old the newest that is known of them is.
    """
    params = {"users": list(users), "now": now}
    rows = db.all(_sql["unanswered"], params)
    newest: dict[str, datetime] = {}
    for row in rows:
        newest[row["user_id"]] = max(row["as_of"], newest.get(row["user_id"], row["as_of"]))
    return newest
