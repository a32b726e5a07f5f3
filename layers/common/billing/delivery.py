"""Sending accepted usage to Commet, each unit of it exactly once.

What totals have grown by is claimed as deliveries, whose body is stored and from then on sent
unchanged, under one event id, until Commet has confirmed it or refused it:

- confirmed, or known to Commet already (`duplicate`): sent.
- no usable answer: the outcome is unknown. Stays pending and is sent again with the same key,
  later each time; after 24 hours of that it is parked as `unconfirmed`, because Commet's memory of
  the key is over.
- our API key is refused: nothing was booked and nothing else would be. Stays pending, and the run
  ends.
- any other refusal: parked with Commet's code, and nobody else's delivery waits for it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from billing.clock import Clock
from billing.db import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.sql import queries

# Before the end of a period growth is sent at once, so that Commet still bills it in that period.
CLOSING = timedelta(minutes=15)
LEASE = timedelta(seconds=60)
# How long Commet keeps an idempotency key.
KEY_LIFETIME = timedelta(hours=24)

_CLAIM_LIMIT = 50_000
_CALL_SECONDS = 10.0  # well inside the lease
_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 600.0
_FAILURES_IN_A_ROW = 3  # Commet is down: sitting out one time-out after another helps nobody


class Tracked(Protocol):
    """What Commet answers to a report of usage."""

    @property
    def id(self) -> str: ...


class UsageTracker(Protocol):
    """The part of the Commet client that is used here."""

    def track_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> Tracked: ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that is ours alone until its lease ends."""

    period: int
    feature: str
    seq: int
    event_id: str
    generation: int
    body: str
    attempts: int
    # The first attempt before this one whose outcome we do not know.
    uncertain_before: datetime | None
    # First tried so long ago that sending it again might count twice: parked instead.
    expired: bool

    @property
    def idempotency_key(self) -> str:
        """Another one only where a refused delivery is driven again: the old would replay that."""
        return f"{self.event_id}:{self.generation}"


class Outcome(Enum):
    """What became of one attempt."""

    SENT = "sent"
    POSTPONED = "postponed"
    PARKED = "parked"
    STOPPED = "stopped"  # postponed, and Commet asks for nothing more right now


@dataclass(frozen=True, slots=True)
class Summary:
    """What one run did. `drained` is true where nothing that was due is left."""

    claimed: int = 0
    sent: int = 0
    postponed: int = 0
    parked: int = 0
    drained: bool = False


def deliver(
    db: Database,
    commet: UsageTracker,
    clock: Clock,
    deadline: Deadline,
    interval: timedelta,
    *,
    jitter: Callable[[], float] = random.random,
) -> Summary:
    """Claims what has grown and sends what is due, until nothing is or time runs out.

    Runs may overlap and may die at any point. `interval` is the least time between two deliveries
    of one user and feature. Raises DatabaseUnavailable.
    """
    summary = Summary(claimed=claim(db, now=clock(), interval=interval))
    failures = 0
    while failures < _FAILURES_IN_A_ROW and deadline.remaining() > _CALL_SECONDS:
        leased = lease(db)
        if leased is None:
            return replace(summary, drained=True)
        outcome = (
            Outcome.PARKED
            if leased.expired
            else send(db, commet, leased, deadline.within(_CALL_SECONDS), jitter=jitter)
        )
        if outcome is Outcome.SENT:
            summary = replace(summary, sent=summary.sent + 1)
        elif outcome is Outcome.PARKED:
            summary = replace(summary, parked=summary.parked + 1)
        else:
            summary = replace(summary, postponed=summary.postponed + 1)
        if outcome is Outcome.STOPPED:
            break
        failures = failures + 1 if outcome is Outcome.POSTPONED else 0
    return summary


def claim(db: Database, *, now: datetime, interval: timedelta) -> int:
    """Turns what totals have grown by into deliveries; returns how many."""
    values = {"now": now, "interval": interval, "closing": CLOSING, "limit": _CLAIM_LIMIT}
    claimed = 0
    while True:
        count = int(db.value(queries("delivery")["claim"], values))
        claimed += count
        if count < _CLAIM_LIMIT:
            db.execute(queries("delivery")["settle"])
            return claimed


def lease(db: Database) -> Delivery | None:
    """The delivery that has been due longest, or None; `expired` says it was parked instead."""
    row = db.one(queries("delivery")["lease"], {"lease": LEASE, "key_lifetime": KEY_LIFETIME})
    return Delivery(**row) if row else None


def send(
    db: Database,
    commet: UsageTracker,
    delivery: Delivery,
    deadline: Deadline,
    *,
    jitter: Callable[[], float] = random.random,
) -> Outcome:
    """Sends one leased delivery and records what came of it."""
    try:
        tracked = commet.track_usage(
            delivery.body, idempotency_key=delivery.idempotency_key, deadline=deadline
        )
    except CommetRefused as refusal:
        return _refused(db, delivery, refusal, jitter)
    except CommetUnavailable as failure:
        # Commet did not look at what it turned away for being too much.
        limited = failure.commet_code == "rate_limited"
        _postpone(db, delivery, jitter, failure.asked_retry_after or 0, no_effect=limited)
        stop = limited or failure.asked_retry_after is not None
        return Outcome.STOPPED if stop else Outcome.POSTPONED
    _record(db, "mark_sent", delivery, remote_id=tracked.id)
    return Outcome.SENT


def _refused(
    db: Database, delivery: Delivery, refusal: CommetRefused, jitter: Callable[[], float]
) -> Outcome:
    if refusal.commet_code == "duplicate":
        _record(db, "mark_sent", delivery, remote_id=None)
        return Outcome.SENT
    if refusal.commet_status in (401, 403):
        _postpone(db, delivery, jitter, 0, no_effect=True)
        return Outcome.STOPPED
    _record(db, "park", delivery, reason=refusal.commet_code)
    return Outcome.PARKED


def _postpone(
    db: Database,
    delivery: Delivery,
    jitter: Callable[[], float],
    at_least_seconds: float,
    *,
    no_effect: bool,
) -> None:
    doubled: float = _FIRST_PAUSE_SECONDS * 2.0 ** min(delivery.attempts - 1, 30)
    pause = min(doubled, _LONGEST_PAUSE_SECONDS) * (0.5 + jitter() / 2)
    _record(
        db,
        "postpone",
        delivery,
        seconds=max(pause, at_least_seconds),
        no_effect=no_effect,
        uncertain_before=delivery.uncertain_before,
    )


def _record(db: Database, statement: str, delivery: Delivery, **values: object) -> None:
    key = {"period": delivery.period, "feature": delivery.feature, "seq": delivery.seq}
    db.execute(queries("delivery")[statement], key | values)
