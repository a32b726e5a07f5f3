"""Asking Commet for the truth about one user, and writing it down unless newer news came.

Asking and writing are apart, so that many users can be asked about at once while one connection
to the database writes.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from billing.commet.answers import FeatureAccess, Subscription
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused
from billing.subscriptions import from_answer, mirror
from billing.subscriptions.changes import Change
from billing.subscriptions.mirror import Refreshable

Answer = TypeVar("Answer")

# How long a live subscription that Commet does not know is believed without a word about its end.
_GRACE = timedelta(days=1)


def calls(rows: Sequence[Refreshable]) -> int:
    """What asking about a user with these rows costs at most: the current one, each, the access."""
    return len(rows) + 2


@dataclass(frozen=True, slots=True)
class Truth:
    """What Commet answered about a user at `asked_at`."""

    user_id: str
    asked_at: datetime
    subscriptions: Sequence[Subscription]
    unknown: Collection[str]  # ids of ours that Commet does not know
    entitlements: Change


def refresh(
    db: Database, commet: Commet, user_id: str, *, now: datetime, deadline: Deadline
) -> int:
    """Reads the user's subscriptions and entitlements afresh; how many rows were wrong.

    Raises CommetUnavailable or CommetRefused, and then what was not confirmed stays marked.
    """
    rows = mirror.refreshable(db, user_id)
    return write(db, rows, ask(commet, user_id, rows, now=now, deadline=deadline))


def ask(
    commet: Commet,
    user_id: str,
    rows: Sequence[Refreshable],
    *,
    now: datetime,
    deadline: Deadline,
) -> Truth:
    """What is true of a user; touches no database, so threads may do it side by side.

    "No active subscription" is followed by a read of each row believed live or pending, by id:
    it says nothing about which of them ended. Everything is asked before anything is written: an
    answer that stays out takes no mark away. Raises CommetUnavailable or CommetRefused.
    """
    active = _unless_unknown(commet.active_subscription, user_id, deadline)
    answers = [active] if active else []
    unknown = set()
    for row in rows:
        if active is None or row.id != active.id:
            answer = _unless_unknown(commet.subscription, row.id, deadline)
            if answer is None:
                unknown.add(row.id)
            else:
                answers.append(answer)
    live = next((a for a in answers if a.status in mirror.LIVE), None)
    entitlements = (
        from_answer.entitlement_change(live.id, _features(commet, user_id, deadline))
        if live
        else Change(features=[])
    )
    return Truth(user_id, now, answers, unknown, entitlements)


def write(db: Database, rows: Sequence[Refreshable], truth: Truth) -> int:
    """Writes the truth down, row by row where none has changed since; how many were wrong."""
    known = {row.id: row for row in rows}
    outcomes = {
        each.id: _write(db, truth, each, known.get(each.id)) for each in truth.subscriptions
    }
    kept = [_settle_unknown(db, truth, known[row_id]) for row_id in truth.unknown]
    # What somebody may use belongs to the subscription it was asked for with: where that one, or
    # one that has come alive, has changed since, the newer news of it have brought theirs.
    live = {each.id for each in truth.subscriptions if each.status in mirror.LIVE}
    live |= {row.id for row in mirror.refreshable(db, truth.user_id) if row.is_live}
    changed = {row_id for row_id, outcome in outcomes.items() if outcome == "stale"}
    if not any(kept) and not live & changed:
        # What it says is true at the moment it was asked for, not when it arrived.
        mirror.record_change(
            db, truth.user_id, truth.entitlements, at=truth.asked_at, now=truth.asked_at
        )
    return list(outcomes.values()).count("healed")


def _write(db: Database, truth: Truth, answer: Subscription, row: Refreshable | None) -> str:
    if row is None:
        change = from_answer.subscription_change(answer)
        mirror.record_change(db, truth.user_id, change, at=answer.updated_at, now=truth.asked_at)
        return "healed"
    return mirror.confirm(
        db,
        answer.id,
        row.version,
        from_answer.known_of(answer),
        at=answer.updated_at,
        asked_at=truth.asked_at,
    )


def _settle_unknown(db: Database, truth: Truth, row: Refreshable) -> bool:
    """Whether a subscription that Commet does not know goes on giving what it gave.

    It does until the end of what was paid for: a key of the wrong organization knows nobody, and
    must not lock everybody out at once. After that it is over.
    """
    if row.is_live and (row.period_end or row.event_at + _GRACE) <= truth.asked_at:
        ended = Change(row.id, {"status": "canceled"})
        mirror.record_change(db, truth.user_id, ended, at=truth.asked_at, now=truth.asked_at)
        return False
    mirror.keep_unknown(db, row.id, row.version)
    return row.is_live


def _unless_unknown(
    ask: Callable[[str, Deadline], Answer], of: str, deadline: Deadline
) -> Answer | None:
    """The answer, or None where Commet knows no such customer or subscription."""
    try:
        return ask(of, deadline)
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
        return None


def _features(commet: Commet, user_id: str, deadline: Deadline) -> list[FeatureAccess]:
    try:
        return commet.feature_access(user_id, deadline)
    except CommetRefused as error:
        # Which code tells that a customer may use nothing is not documented; a key that may not
        # ask, or a request that is wrong, says nothing about the customer.
        if error.commet_status in (402, 404):
            return []
        raise
