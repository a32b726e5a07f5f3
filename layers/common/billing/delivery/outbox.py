"""The deliveries that wait to be sent to Commet, and what became of each.

What totals have grown by is claimed as deliveries, whose body is stored and from then on sent
unchanged, under one event id, until Commet has confirmed it or refused it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from aws_lambda_powertools import Logger
from psycopg.types.json import Jsonb

from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.deadline import Deadline

_sql = Statements(__file__)

logger = Logger(child=True)

# Before the end of a period growth is sent at once, so that Commet still bills it in that period.
CLOSING = timedelta(minutes=15)
LEASE = timedelta(seconds=60)
# How long Commet keeps an idempotency key.
KEY_LIFETIME = timedelta(hours=24)
# For how long totals may leave a delivery undecided before a human has to look.
PATIENCE = timedelta(hours=1)
# How far Commet's clock and ours may be apart, answers on their way included.
MARGIN = timedelta(minutes=1)
# Commet counts behind our backs for so long after it has taken something.
QUIET = timedelta(minutes=1)

# A statement may take five seconds, on a database that is busy with others too.
_CLAIM_LIMIT = 10_000
_REDRIVE_LIMIT = 10_000
_FIRST_PAUSE_SECONDS = 2.0
# Refusals by which Commet says that the mirror is wrong about the user.
_CONTRADICTS = frozenset(
    {
        "no_active_subscription",
        "customer_not_found",
        "feature_not_found",
        "feature_not_in_plan",
        "feature_disabled",
    }
)
_LONGEST_PAUSE_SECONDS = 600.0
_CLAIM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that is ours alone until its lease ends."""

    period: int
    feature: str
    seq: int
    user_id: str
    kind: str
    event_id: str
    generation: int
    body: str
    attempts: int
    ends_at: datetime  # of its period, which a plan change ends early
    # The first attempt before this one whose outcome we do not know.
    uncertain_before: datetime | None

    @property
    def idempotency_key(self) -> str:
        """Another one only where a refused delivery is driven again: the old would replay that."""
        return f"{self.event_id}:{self.generation}"


class Outcome(Enum):
    """What became of one attempt."""

    SENT = "sent"
    POSTPONED = "postponed"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Result:
    """One attempt and what follows from it.

    `no_effect`: Commet certainly did not look at it. `wait_seconds`: what Commet asked for.
    `stop`: nothing else would fare better in this run.
    """

    delivery: Delivery
    outcome: Outcome
    remote_id: str | None = None
    reason: str | None = None
    no_effect: bool = False
    wait_seconds: float | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Gauges:
    """How the outbox stands.

    `outbox_age_seconds`: how long the oldest pending delivery has been waiting, since it came due
    or since its first attempt that got no answer. `parked_deliveries`: those that wait for a human,
    and those that totals should have decided by now. `usage_drift`: user, feature and period whose
    totals differ.
    """

    outbox_age_seconds: float
    parked_deliveries: int
    usage_drift: int


def claim(
    db: Database,
    *,
    now: datetime,
    interval: timedelta,
    deadline: Deadline | None = None,
) -> int:
    """Turns what totals have grown by into deliveries; returns how many. Takes a minute at most."""
    deadline = deadline or Deadline.after(_CLAIM_SECONDS)
    values = {"now": now, "interval": interval, "closing": CLOSING, "limit": _CLAIM_LIMIT}
    claimed = 0
    while True:
        count = int(db.value(_sql["claim"], values))
        claimed += count
        if count < _CLAIM_LIMIT or deadline.remaining() <= 0:
            _mark_fully_claimed(db, deadline)
            return claimed


def _mark_fully_claimed(db: Database, deadline: Deadline) -> None:
    """Takes closed periods of which everything is claimed out of what is looked through."""
    while deadline.remaining() > 0:
        if len(db.all(_sql["mark_fully_claimed"], {"limit": _CLAIM_LIMIT})) < _CLAIM_LIMIT:
            return


def lease(db: Database, limit: int = 1) -> list[Delivery]:
    """Those that have been due longest, without those whose key would end before the lease."""
    rows = db.all(
        _sql["lease"],
        {"lease": LEASE, "key_lifetime": KEY_LIFETIME, "limit": limit},
    )
    return [Delivery(**row) for row in rows]


def record(
    db: Database,
    results: Sequence[Result],
    *,
    now: datetime,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Writes down what came of some attempts. `now` is not before any of their answers."""
    sent = [r for r in results if r.outcome is Outcome.SENT]
    # A replacement changes its total: one per statement, so that no two wait for each other's.
    replaced = [[r] for r in sent if r.delivery.kind == "replacement"]
    for some in ([r for r in sent if r.delivery.kind != "replacement"], *replaced):
        if some:
            told = [_row(r, remote_id=r.remote_id) for r in some]
            values = {"rows": Jsonb(told), "answered_at": now, "margin": MARGIN}
            db.execute(_sql["mark_sent"], values)
    later = [_postponed(r, jitter) for r in results if r.outcome is Outcome.POSTPONED]
    if later:
        db.execute(_sql["postpone"], {"rows": Jsonb(later)})
    parked = [r for r in results if r.outcome is Outcome.PARKED]
    named = ("user_id", "feature", "event_id", "kind")
    log_parked([{n: getattr(r.delivery, n) for n in named} | {"reason": r.reason} for r in parked])
    # A replacement that was refused is as if it had never been; what it repairs stays visible.
    undone = [r for r in parked if r.delivery.kind == "replacement" and r.reason != "unconfirmed"]
    for result in undone:
        undo_replacement(db, _row(result), reason=result.reason)
    rows = [_row(r, reason=r.reason) for r in parked if r not in undone]
    if rows:
        db.execute(_sql["park"], {"rows": Jsonb(rows)})
    doubted = {r.delivery.user_id for r in parked if r.reason in _CONTRADICTS}
    if doubted:
        db.execute(_sql["doubt_subscriptions"], {"users": sorted(doubted)})


def log_parked(rows: Sequence[Row]) -> int:
    """Names them, as the runbook promises; how many."""
    for row in rows:
        logger.warning("delivery.parked", **row)
    return len(rows)


def undo_replacement(db: Database, key: Mapping[str, object], *, reason: str | None) -> None:
    """Takes back a replacement of a total that Commet did not make, and keeps why.

    `key` names the delivery by period, feature and seq.
    """
    db.execute(_sql["undo_replacement"], {**key, "reason": reason})


def _row(result: Result, **values: object) -> dict[str, object]:
    delivery = result.delivery
    return {
        "period": delivery.period,
        "feature": delivery.feature,
        "seq": delivery.seq,
        "generation": delivery.generation,
    } | values


def _postponed(result: Result, jitter: Callable[[], float]) -> dict[str, object]:
    delivery = result.delivery
    doubled: float = _FIRST_PAUSE_SECONDS * 2.0 ** min(delivery.attempts - 1, 30)
    pause = min(doubled, _LONGEST_PAUSE_SECONDS) * (0.5 + jitter() / 2)
    before = delivery.uncertain_before
    return _row(
        result,
        seconds=max(pause, result.wait_seconds or 0),
        no_effect=result.no_effect,
        uncertain_before=before.isoformat() if before else None,
    )


def gauges(db: Database) -> Gauges:
    """How the outbox stands now."""
    row = db.one(_sql["gauges"], {"undecided": KEY_LIFETIME + PATIENCE})
    assert row is not None  # noqa: S101 - it has no condition
    return Gauges(**row)


def redrive(
    db: Database,
    *,
    user_id: str | None = None,
    event_id: str | None = None,
    reason: str | None = None,
) -> int:
    """Sends parked deliveries again, as after an upgrade; how many.

    All of a user's, one by its event id, or all with one reason. Not while a total of that user and
    feature is being replaced. Those that may have been counted
    already (`unconfirmed`) and those of a subscription that is over (`lost_to_cancellation`) only
    where the id or the reason names them.
    """
    values = {"user_id": user_id, "event_id": event_id, "reason": reason, "limit": _REDRIVE_LIMIT}
    driven = 0
    while True:
        count = int(db.value(_sql["redrive"], values))
        driven += count
        if count < _REDRIVE_LIMIT:
            return driven


def resolve(
    db: Database, *, user_id: str, event_id: str, note: str, delivered: bool = False
) -> bool:
    """Takes a parked delivery off the list: a human has dealt with it, and says how.

    `delivered` where Commet was found to have it after all, which nobody can say of a credit. False
    where there is no such.
    """
    values = {"user_id": user_id, "event_id": event_id, "note": note, "delivered": delivered}
    return bool(db.value(_sql["resolve"], values))
