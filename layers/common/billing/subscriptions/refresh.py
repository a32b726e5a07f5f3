"""A refresh: asks Commet about one user, and writes the answer unless there is a newer change.

Asking and writing are separate functions, so that several threads can ask about users at once while
one connection to the database writes.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from billing.commet.answers import FeatureAccess, Subscription
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused
from billing.subscriptions import customers, from_answer, mirror
from billing.subscriptions.changes import Change
from billing.subscriptions.mirror import Refreshable

if TYPE_CHECKING:
    from billing.commet.client import Commet

Answer = TypeVar("Answer")

# For a live subscription that Commet does not know and whose period has no known end: how long
# after its newest change it still gives access.
_GRACE = timedelta(days=1)


def calls(rows: Sequence[Refreshable]) -> int:
    """Returns how many calls a refresh of a user with these rows needs at most.

    One for the active subscription, one for each row, one for the entitlements.
    """
    return len(rows) + 2


@dataclass(frozen=True, slots=True)
class Truth:
    """Commet's answers about a user. `asked_at` is the time of the questions."""

    user_id: str
    asked_at: datetime
    subscriptions: Sequence[Subscription]
    unknown: Collection[str]  # ids of ours that Commet does not know
    entitlements: Change


def refresh(
    db: Database, commet: "Commet", user_id: str, *, now: datetime, deadline: Deadline
) -> int:
    """Asks about the user's subscriptions and entitlements and writes the answers.

    Returns how many rows were wrong. Raises CommetUnavailable or CommetRefused. Nothing was written
    in that case, and marked rows remain marked.
    """
    rows = mirror.refreshable(db, user_id)
    return write(db, rows, ask(commet, user_id, rows, now=now, deadline=deadline))


def ask(
    commet: "Commet",
    user_id: str,
    rows: Sequence[Refreshable],
    *,
    now: datetime,
    deadline: Deadline,
) -> Truth:
    """Returns Commet's answers about a user. Uses no database, so several threads may call it at
    once.

    Commet is asked for the active subscription, and for each other row by its id, because the
    answer "no active subscription" does not say which of our rows ended. All answers are read
    before anything is written, so a missing answer never removes a mark. Raises CommetUnavailable
    or CommetRefused.
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
    """Writes the answers to rows that have not changed since. Returns how many rows were wrong."""
    known = {row.id: row for row in rows}
    owners = {
        each.id: customers.owner(db, truth.user_id, each.customer_id)
        for each in truth.subscriptions
    }
    own = [each for each in truth.subscriptions if owners[each.id] == truth.user_id]
    outcomes = {each.id: _write(db, truth, each, known.get(each.id)) for each in own}
    unknown = set(truth.unknown)
    for each in truth.subscriptions:
        owner = owners[each.id]
        if owner is None:
            customers.note(db, [each.customer_id] if each.customer_id else [])
            unknown |= {each.id} & known.keys()
        elif owner != truth.user_id:
            outcomes[each.id] = _hand_over(db, truth, each, owner)
    # One customer has one live subscription. So if Commet knows another live one, the unknown one
    # is over.
    replaced = any(each.status in mirror.LIVE for each in own)
    kept = [_keep_or_end_unknown(db, truth, known[i], replaced=replaced) for i in unknown]
    # If a live subscription changed after we asked, drop these entitlements: the newer change
    # brought its own, or has marked the row.
    live = {each.id for each in own if each.status in mirror.LIVE}
    live |= {row.id for row in mirror.refreshable(db, truth.user_id) if row.is_live}
    changed = {row_id for row_id, outcome in outcomes.items() if outcome == "stale"}
    if not any(kept) and not live & changed:
        # The entitlements get the time of the question, and not that of the answer's arrival.
        mirror.record_change(
            db, truth.user_id, truth.entitlements, at=truth.asked_at, now=truth.asked_at
        )
    return list(outcomes.values()).count("healed")


def _write(db: Database, truth: Truth, answer: Subscription, row: Refreshable | None) -> str:
    if row is None:
        change = from_answer.subscription_change(answer, truth.asked_at)
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


def _hand_over(db: Database, truth: Truth, answer: Subscription, owner: str) -> str:
    """Writes a subscription that another user has now, or nobody of ours."""
    if owner:
        change = from_answer.subscription_change(answer, truth.asked_at)
        mirror.record_change(db, owner, change, at=answer.updated_at, now=truth.asked_at)
    else:
        ended = Change(answer.id, {"status": "canceled"})
        mirror.record_change(db, truth.user_id, ended, at=truth.asked_at, now=truth.asked_at)
    return "healed"


def _keep_or_end_unknown(db: Database, truth: Truth, row: Refreshable, *, replaced: bool) -> bool:
    """Returns whether a live subscription that Commet does not know still gives access.

    It does until its paid period ends. It is canceled after that, or once it is `replaced` by a
    subscription that Commet knows. It is not canceled at once, because with an API key of the wrong
    organization Commet knows no subscription at all, and that must not lock everybody out.
    """
    over = replaced or (row.period_end or row.changed_at + _GRACE) <= truth.asked_at
    if row.is_live and over:
        ended = Change(row.id, {"status": "canceled"})
        mirror.record_change(db, truth.user_id, ended, at=truth.asked_at, now=truth.asked_at)
        return False
    mirror.keep_unknown(db, row.id, row.version)
    return row.is_live


def _unless_unknown(
    ask: Callable[[str, Deadline], Answer], of: str, deadline: Deadline
) -> Answer | None:
    """Returns the answer; None if Commet knows no such customer or subscription."""
    try:
        return ask(of, deadline)
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
        return None


def _features(commet: "Commet", user_id: str, deadline: Deadline) -> list[FeatureAccess]:
    try:
        return commet.feature_access(user_id, deadline)
    except CommetRefused as error:
        # Commet does not document the code by which it says that a customer has no features. 402
        # and 404 are read as that. Other refusals concern our key or our request, and not the
        # customer.
        if error.commet_status in (402, 404):
            return []
        raise
