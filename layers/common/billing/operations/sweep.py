"""Going through everything Commet has, once a day and whenever webhooks may have been missed.

Commet's list of subscriptions is held against the mirror page by page: what differs is marked for
a refresh, and what nobody told us of is recorded. Then every row believed live that the list did
not confirm is marked too. Where a run ends for want of time the next one goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
from billing.subscriptions import from_answer, mirror
from billing.subscriptions.changes import Change

_sql = Statements(__file__)

NAME = "sweep"
EVERY = timedelta(days=1)

# Subscriptions that ended need no comparing, nor do checkouts that nobody paid: one that was paid
# is listed as what it has become.
_STATUSES = ("active", "trialing", "past_due", "paused")
_LOOK_AT_ONCE = 5000

# A status whose list cannot be read to the end this often is given up for this round: its rows then
# count as unseen, and each is asked about by itself.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Swept:
    """What one run saw: rows compared, rows found wrong, subscriptions we had not heard of."""

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
    """Has the next run begin a sweep after which everything live is asked about once more.

    Entitlements are not part of Commet's list, so after an outage comparing alone is not enough.
    """
    rounds.request(db, NAME, start=_start(recheck=True))


def run(db: Database, commet: Commet, budget: Budget, *, clock: Clock, deadline: Deadline) -> Swept:
    """Goes on with the round that is due, as far as time and the budget of calls allow.

    Raises CommetUnavailable or CommetRefused; the round then goes on in a later run, and no page
    that cannot be read holds it up for ever.
    """
    swept = Swept()
    found = rounds.take_up(db, NAME, start=_start(recheck=False), every=EVERY)
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
            change = Change(answer.id, from_answer.subscription_change(answer).known, mark=True)
            mirror.record_change(db, missing[answer.id], change, at=answer.updated_at, now=now)
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
    """Where to go on after a page that Commet would not give: a cursor may have grown old."""
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
