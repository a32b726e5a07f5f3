"""Sending accepted usage to Commet, each unit of it exactly once.

What totals have grown by is claimed as deliveries, whose body is stored and from then on sent
unchanged, under one event id, until Commet has confirmed it or refused it:

- confirmed, or known to Commet already (`duplicate`): sent.
- no usable answer: the outcome is unknown. Stays pending and is sent again with the same key,
  later each time; after 24 hours of that it is parked as `unconfirmed`, because Commet's memory of
  the key is over, and decided by comparing totals (`drift`).
- asked to wait: nobody in the whole stack calls Commet until then.
- our API key is refused: nothing was booked and nothing else would be. Stays pending, and the run
  ends.
- any other refusal: parked with Commet's code, and nobody else's delivery waits for it.

Calls run in threads; only the caller's thread touches the database. Any number of runs may overlap,
and each may die at any point.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Protocol, TypeVar

import psycopg
from aws_lambda_powertools import Logger
from psycopg.types.json import Jsonb

from billing.clock import Clock
from billing.database.connection import Database, Row, place_of
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable

_sql = Statements(__file__)

logger = Logger(child=True)

# Before the end of a period growth is sent at once, so that Commet still bills it in that period.
CLOSING = timedelta(minutes=15)
LEASE = timedelta(seconds=60)
# How long Commet keeps an idempotency key.
KEY_LIFETIME = timedelta(hours=24)
# How far Commet's clock and ours may be apart, answers on their way included.
MARGIN = timedelta(minutes=1)
# Commet counts behind our backs for so long after it has taken something.
QUIET = timedelta(minutes=1)

# A statement may take five seconds, on a database that is busy with others too.
_CLAIM_LIMIT = 10_000
_CLOSE_LIMIT = 1_000
_CREDIT_LIMIT = 100
_LOST_LIMIT = 50
_REDRIVE_LIMIT = 10_000
_CALL_SECONDS = 10.0  # well inside the lease
_GLANCE_SECONDS = 0.05  # a slow call keeps none of the others waiting for longer
_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 600.0
_UNTOLD_PAUSE_SECONDS = 5.0  # where Commet is asked too much and does not say for how long
_CLOSE_SECONDS = 10.0  # each of its steps: what is due does not wait for longer
_CLAIM_SHARE = 0.3  # of the time of a run
_CLAIM_SECONDS = 60.0
_TOKEN_SECONDS = 5.0  # waiting for the budget any longer is left to the next run
# Commet is down: sitting out one time-out after another helps nobody. One user's trouble is not it.
_FAILING_USERS = 3
_FAILURES_IN_A_ROW = 25


T = TypeVar("T")


class Identified(Protocol):
    """What Commet answers to a report of usage."""

    @property
    def id(self) -> str: ...


class UsageReceiver(Protocol):
    """The part of the Commet client that is used here, from several threads at a time."""

    def track_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> Identified: ...

    def set_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> Identified: ...


class CallBudget(Protocol):
    """How often the whole stack may call Commet (`rate.Budget`)."""

    def wait(self, calls: int, deadline: Deadline) -> bool: ...

    def pause(self, seconds: float) -> None: ...


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
class Summary:
    """What one run did. `drained` is true where nothing that was due is left.

    `steps_failed` counts what the database refused: the rest was done without it.
    """

    claimed: int = 0
    sent: int = 0
    postponed: int = 0
    parked: int = 0
    drained: bool = False
    steps_failed: int = 0


@dataclass(frozen=True, slots=True)
class Gauges:
    """How the outbox stands.

    `outbox_age_seconds`: how long the oldest due delivery has been waiting. `parked_deliveries`:
    those that wait for a human. `usage_drift`: user, feature and period whose totals differ.
    """

    outbox_age_seconds: float
    parked_deliveries: int
    usage_drift: int


def deliver(
    db: Database,
    commet: UsageReceiver,
    clock: Clock,
    deadline: Deadline,
    interval: timedelta,
    *,
    budget: CallBudget,
    workers: int = 8,
    quiet: timedelta = QUIET,
    jitter: Callable[[], float] = random.random,
) -> Summary:
    """Claims what has grown and sends what is due, until nothing is or time runs out.

    `interval` is the least time between two deliveries of one user and feature, `workers` how many
    calls are under way at a time. Raises DatabaseUnavailable, and whatever was sent until then is
    sent again, unchanged, when its lease is over.
    """
    now = clock()
    steps = _Steps()
    _close(db, now, quiet, steps, deadline)
    share = deadline.within(deadline.remaining() * _CLAIM_SHARE)
    claimed = steps.take(partial(claim, db, now=now, interval=interval, deadline=share), 0)
    run = _Run(
        db,
        commet,
        clock=clock,
        deadline=deadline,
        budget=budget,
        workers=workers,
        jitter=jitter,
    )
    summary = run.until_done()
    steps.take(partial(_mark_lost, db, deadline), None)
    return replace(summary, claimed=claimed, steps_failed=steps.failed)


class _Steps:
    """Work that each stands for itself: one step the database refuses stops none of the others."""

    def __init__(self) -> None:
        self.failed = 0

    def take(self, step: Callable[[], T], otherwise: T) -> T:
        """What the step answers, or the other where it failed."""
        try:
            return step()
        except psycopg.Error as error:
            logger.exception("delivery.step_failed", extra=place_of(error))
            self.failed += 1
            return otherwise


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
            _settle(db, deadline)
            return claimed


def _close(
    db: Database, now: datetime, quiet: timedelta, steps: _Steps, deadline: Deadline
) -> None:
    """What the end of a period asks for beside sending growth: what shrank is set right."""
    period = {"now": now, "margin": MARGIN, "closing": CLOSING, "limit": _CLOSE_LIMIT}
    steps.take(partial(db.execute, _sql["release_ended"], period), None)
    none: list[Row] = []
    shrunk = steps.take(partial(db.all, _sql["to_be_set"], period), none)
    share = deadline.within(_CLOSE_SECONDS)
    for each in shrunk:
        if share.remaining() <= 0:
            break
        values = {**period, "quiet": quiet, **each}
        steps.take(partial(db.execute, _sql["begin_set"], values), None)
    steps.take(partial(_credit, db, deadline.within(_CLOSE_SECONDS)), None)


def _credit(db: Database, deadline: Deadline) -> None:
    """Notes what closed periods were billed too much."""
    values = {"limit": _CREDIT_LIMIT}
    while deadline.remaining() > 0:
        if db.value(_sql["credit_closed_periods"], values) < _CREDIT_LIMIT:
            return


def _settle(db: Database, deadline: Deadline) -> None:
    """Takes closed periods of which everything is claimed out of what is looked through."""
    while deadline.remaining() > 0:
        if len(db.all(_sql["settle"], {"limit": _CLAIM_LIMIT})) < _CLAIM_LIMIT:
            return


def _mark_lost(db: Database, deadline: Deadline) -> None:
    """Gives what is left unsent of subscriptions that have ended its money value."""
    while deadline.remaining() > 0:
        if db.value(_sql["mark_lost"], {"limit": _LOST_LIMIT}) == 0:
            return


def lease(db: Database, limit: int = 1) -> list[Delivery]:
    """Those that have been due longest; `expired` says that one was parked instead."""
    rows = db.all(
        _sql["lease"],
        {"lease": LEASE, "key_lifetime": KEY_LIFETIME, "limit": limit},
    )
    return [Delivery(**row) for row in rows]


def attempt(
    commet: UsageReceiver, delivery: Delivery, deadline: Deadline, *, now: datetime
) -> Result:
    """Sends one leased delivery; raises nothing of Commet's."""
    send = commet.track_usage
    if delivery.kind == "set":
        # It always means the period that is running, and this one's may be over by then.
        if now >= delivery.ends_at - MARGIN / 2:
            return _too_late(delivery)
        send = commet.set_usage
    try:
        answer = send(delivery.body, idempotency_key=delivery.idempotency_key, deadline=deadline)
    except CommetRefused as refusal:
        return _refused(delivery, refusal)
    except CommetUnavailable as failure:
        # Commet did not look at what it turned away for being too much.
        limited = failure.commet_code == "rate_limited"
        asked = failure.asked_retry_after or (_UNTOLD_PAUSE_SECONDS if limited else None)
        # An answer that is on its way to somebody else asks for patience with this one only.
        busy = failure.commet_code == "idempotency_in_progress"
        return Result(
            delivery, Outcome.POSTPONED, no_effect=limited, wait_seconds=None if busy else asked
        )
    return Result(delivery, Outcome.SENT, remote_id=answer.id)


def _refused(delivery: Delivery, refusal: CommetRefused) -> Result:
    if refusal.commet_code == "duplicate":
        return Result(delivery, Outcome.SENT)
    if refusal.commet_status in (401, 403):
        return Result(delivery, Outcome.POSTPONED, no_effect=True, stop=True)
    return Result(delivery, Outcome.PARKED, reason=refusal.commet_code)


def _too_late(delivery: Delivery) -> Result:
    if delivery.uncertain_before is None:
        return Result(delivery, Outcome.PARKED, reason="period_over")
    # It may have been booked, and Commet no longer tells the total of that period.
    return Result(delivery, Outcome.PARKED, reason="unconfirmed")


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
    replaced = [[r] for r in sent if r.delivery.kind == "set"]
    for some in ([r for r in sent if r.delivery.kind != "set"], *replaced):
        if some:
            told = [_row(r, remote_id=r.remote_id) for r in some]
            values = {"rows": Jsonb(told), "answered_at": now, "margin": MARGIN}
            db.execute(_sql["mark_sent"], values)
    later = [_postponed(r, jitter) for r in results if r.outcome is Outcome.POSTPONED]
    if later:
        db.execute(_sql["postpone"], {"rows": Jsonb(later)})
    parked = [r for r in results if r.outcome is Outcome.PARKED]
    for result in parked:
        logger.warning(
            "delivery.parked",
            user_id=result.delivery.user_id,
            feature=result.delivery.feature,
            event_id=result.delivery.event_id,
            kind=result.delivery.kind,
            reason=result.reason,
        )
    # A replacement that was refused is as if it had never been; what it repairs stays visible.
    undone = [r for r in parked if r.delivery.kind == "set" and r.reason != "unconfirmed"]
    for result in undone:
        undo_replacement(db, _row(result), reason=result.reason)
    rows = [_row(r, reason=r.reason) for r in parked if r not in undone]
    if rows:
        db.execute(_sql["park"], {"rows": Jsonb(rows)})


def undo_replacement(db: Database, key: Mapping[str, object], *, reason: str | None) -> None:
    """Takes back a replacement of a total that Commet did not make, and keeps why.

    `key` names the delivery by period, feature and seq.
    """
    db.execute(_sql["undo_set"], {**key, "reason": reason})


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
    row = db.one(_sql["gauges"])
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


class _Run:
    """Keeps up to `workers` calls under way until nothing is due, or there is a reason to stop."""

    def __init__(
        self,
        db: Database,
        commet: UsageReceiver,
        *,
        clock: Clock,
        deadline: Deadline,
        budget: CallBudget,
        workers: int,
        jitter: Callable[[], float],
    ) -> None:
        self._db = db
        self._commet = commet
        self._clock = clock
        self._deadline = deadline
        self._budget = budget
        self._workers = workers
        self._jitter = jitter
        self._flying: dict[Future[Result], Delivery] = {}
        self._summary = Summary()
        self._tokens = 0
        self._stopped = False
        self._failures = 0
        self._failing: set[str] = set()

    def until_done(self) -> Summary:
        """What was done."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="delivery") as pool:
            while True:
                more = self._may_start() and self._start(pool)
                if not self._flying and not more:
                    return self._summary
                done, _ = wait(self._flying, timeout=_GLANCE_SECONDS)
                self._finish(done)

    def _may_start(self) -> bool:
        return not (
            self._stopped
            or len(self._failing) >= _FAILING_USERS
            or self._failures >= _FAILURES_IN_A_ROW
            or self._deadline.remaining() <= _CALL_SECONDS
        )

    def _start(self, pool: ThreadPoolExecutor) -> bool:
        """Fills what is free with what is due; whether any of it was."""
        allowed = self._allowed(self._workers - len(self._flying))
        if allowed == 0:
            # With nothing under way the budget is spent for long: the next run goes on.
            self._stopped = not self._flying
            return False
        leased = lease(self._db, allowed)
        self._tokens -= len(leased)
        now = self._clock() if leased else None
        for delivery in leased:
            if delivery.expired:
                self._note(Outcome.PARKED)
            elif now is not None:
                self._flying[pool.submit(self._attempt, delivery, now)] = delivery
        self._summary = replace(self._summary, drained=not leased and not self._flying)
        return bool(leased)

    def _allowed(self, free: int) -> int:
        """How many of the free ones may call. What was taken and not used is kept for the next."""
        at_once = Deadline.after(0)
        if self._tokens < free and self._budget.wait(free - self._tokens, at_once):
            self._tokens = free
        if self._tokens == 0 and free > 0:
            # While answers are on their way they are not left waiting to be written down.
            patience = at_once if self._flying else self._deadline.within(_TOKEN_SECONDS)
            self._tokens = int(self._budget.wait(1, patience))
        return min(free, self._tokens)

    def _attempt(self, delivery: Delivery, now: datetime) -> Result:
        try:
            return attempt(self._commet, delivery, self._deadline.within(_CALL_SECONDS), now=now)
        except Exception:  # whatever it is, it is this delivery's trouble alone
            logger.exception("delivery.broken", event_id=delivery.event_id)
            return Result(delivery, Outcome.POSTPONED)

    def _finish(self, done: Iterable[Future[Result]]) -> None:
        results = [future.result() for future in done]
        for future in done:
            del self._flying[future]
        if not results:
            return
        record(self._db, results, now=self._clock(), jitter=self._jitter)
        for result in results:
            self._note(result.outcome)
            self._judge(result)

    def _judge(self, result: Result) -> None:
        if result.wait_seconds is not None:
            self._budget.pause(result.wait_seconds)
        self._stopped = self._stopped or result.stop
        if result.outcome is Outcome.POSTPONED:
            self._failures += 1
            self._failing.add(result.delivery.user_id)
        else:
            self._failures = 0
            self._failing.clear()

    def _note(self, outcome: Outcome) -> None:
        count = {outcome.value: asdict(self._summary)[outcome.value] + 1}
        self._summary = replace(self._summary, **count)
