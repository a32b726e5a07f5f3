"""The sweep: reads Commet's list of subscriptions once a day, and when webhooks may be missing.

Each page of the list is compared with the mirror. A row that differs is marked for a refresh, and a
subscription that is not in the mirror is recorded. Then every live row that the list did not
confirm is marked too. If a run has no time left, the next run continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from psycopg.types.json import Jsonb

from billing.clock import Clock
from billing.commet.answers import Subscription
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database import rounds
from billing.database.connection import Database, Row
from billing.database.rounds import Position, Round
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.subscriptions import customers, from_answer, mirror

_sql = Statements(__file__)

NAME = "sweep"
EVERY = timedelta(days=1)

# Ended subscriptions and unpaid checkouts are not compared. A checkout that was paid is listed
# under its new status.
_STATUSES = ("active", "trialing", "past_due", "paused")
_LOOK_AT_ONCE = 5000

# After this number of failures to read the list of one status to its end, this round skips the
# status. The status's rows then count as unconfirmed, so Commet is asked about each of them.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Swept:
    """Counts of one run: rows compared, rows that differ, subscriptions missing in the mirror."""

    compared: int = 0
    differing: int = 0
    missing: int = 0

    def __add__(self, other: "Swept") -> "Swept":
        return Swept(
            self.compared + other.compared,
            self.differing + other.differing,
            self.missing + other.missing,
        )


def request(db: Database) -> None:
    """Makes the next run begin a sweep after which Commet is asked about every live subscription.

    After an outage, comparing alone is not enough, because Commet's list contains no entitlements.
    """
    rounds.request(db, NAME, start=_start(recheck=True))


def run(db: Database, commet: Commet, budget: Budget, *, clock: Clock, deadline: Deadline) -> Swept:
    """Continues the round that is due, as time and the call budget allow.

    Raises CommetUnavailable or CommetRefused. A later run then continues the round. After three
    failures to read a status, the round skips the status.
    """
    swept = Swept()
    found = rounds.take_up(db, NAME, start=_start(recheck=False), every=EVERY, now=clock())
    if found is None:
        return swept
    try:
        position: Position | None = found.position
        while position is not None and deadline.remaining() > 0:
            if "unseen_after" in position:
                position = _mark_unseen(db, found, position)
            elif budget.wait(1, deadline):
                try:
                    seen, position = _compare_page(
                        db, commet, position, now=clock(), deadline=deadline
                    )
                except (CommetRefused, CommetUnavailable) as error:
                    if isinstance(error, CommetRefused) or error.is_nonsense:
                        rounds.advance(db, NAME, _stumbled(position))
                    raise
                swept += seen
            else:
                break
            if position is None:
                rounds.finish(db, NAME)
            else:
                rounds.advance(db, NAME, position)
    finally:
        rounds.leave(db, NAME)
    return swept


def _start(*, recheck: bool) -> Position:
    return {"status": _STATUSES[0], "cursor": None, "recheck": recheck}


def _compare_page(
    db: Database, commet: Commet, position: Position, *, now: datetime, deadline: Deadline
) -> tuple[Swept, Position]:
    status = str(position["status"])
    page, following = commet.list_subscriptions(
        status=status, cursor=position["cursor"], deadline=deadline
    )
    rows = _compare(db, page, recheck=bool(position["recheck"]))
    missing = {
        row["id"]: row["user_id"]
        for row in rows
        if row["outcome"] == "missing" and row["user_id"] is not None
    }
    for answer in page:
        if answer.id in missing:
            change = replace(from_answer.subscription_change(answer, now), mark=True)
            mirror.record_change(db, missing[answer.id], change, at=answer.updated_at, now=now)
    customers.note(db, {row["customer"] for row in rows if row["user_id"] is None})
    differing = sum(row["outcome"] == "differs" for row in rows)
    return Swept(len(page), differing, len(missing)), _next(position, status, following)


def _next(position: Position, status: str, following: str | None) -> Position:
    if following is not None:
        return {**position, "cursor": following}
    later = _STATUSES[_STATUSES.index(status) + 1 :]
    if later:
        return {"status": later[0], "cursor": None, "recheck": position["recheck"]}
    return {"unseen_after": ""}


def _stumbled(position: Position) -> Position:
    """Returns where to continue after a page that could not be read.

    The status is read again from its first page, because the cursor may have expired. After the
    last try, the next status follows.
    """
    tries = int(position.get("tries", 0)) + 1
    if tries == _TRIES:
        return _next(position, str(position["status"]), None)
    return {**position, "cursor": None, "tries": tries}


def _compare(db: Database, page: Sequence[Subscription], *, recheck: bool) -> list[Row]:
    items = [
        {"id": a.id, "customer": a.customer_id, "known": from_answer.known_of(a)} for a in page
    ]
    params = {"items": Jsonb(items), "recheck": recheck}
    return db.all(_sql["compare"], params)


def _mark_unseen(db: Database, found: Round, position: Position) -> Position | None:
    params = {
        "after": position["unseen_after"],
        "since": found.started_at,
        "limit": _LOOK_AT_ONCE,
    }
    last = db.value(_sql["mark_unseen"], params)
    return None if last is None else {"unseen_after": last}
