"""Sending accepted usage to Commet, each unit of it exactly once.

What becomes of a delivery:

- confirmed, or known to Commet already (`duplicate`): sent.
- no usable answer: the outcome is unknown. Stays pending and is sent again with the same key,
  later each time; 24 hours after the first such attempt it is parked as `unconfirmed`, because
  Commet's memory of the key is over, and decided by comparing totals (`drift`).
- asked to wait: nobody in the whole stack calls Commet until then.
- our API key is refused: nothing was booked and nothing else would be. Stays pending, and the run
  ends.
- any other refusal: parked with Commet's code, and nobody else's delivery waits for it.

Calls run in threads; only the caller's thread touches the database. Any number of runs may overlap,
and each may die at any point.
"""

import random
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from aws_lambda_powertools import Logger

from billing.clock import Clock
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery import closing, outbox
from billing.delivery.outbox import MARGIN, QUIET, Delivery, Outcome, Result
from billing.errors import CommetRefused, CommetUnavailable

logger = Logger(child=True)

_CALL_SECONDS = 10.0  # well inside the lease
_GLANCE_SECONDS = 0.05  # a slow call keeps none of the others waiting for longer
_UNTOLD_PAUSE_SECONDS = 5.0  # where Commet is asked too much and does not say for how long
_PARK_SECONDS = 10.0  # what is due does not wait for longer
_CLAIM_SHARE = 0.3  # of the time of a run
_TOKEN_SECONDS = 5.0  # waiting for the budget any longer is left to the next run
# Commet is down: sitting out one time-out after another helps nobody. One user's trouble is not it.
_FAILING_USERS = 3
_FAILURES_IN_A_ROW = 25


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
    steps = closing.Steps()
    parked = closing.park_unsendable(db, now, steps, deadline.within(_PARK_SECONDS))
    closing.close(db, now, quiet, steps, deadline)
    share = deadline.within(deadline.remaining() * _CLAIM_SHARE)
    claimed = steps.take(partial(outbox.claim, db, now=now, interval=interval, deadline=share), 0)
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
    steps.take(partial(closing.mark_lost, db, deadline), None)
    return replace(
        summary, claimed=claimed, parked=summary.parked + parked, steps_failed=steps.failed
    )


def attempt(
    commet: UsageReceiver, delivery: Delivery, deadline: Deadline, *, now: datetime
) -> Result:
    """Sends one leased delivery; raises nothing of Commet's."""
    send = commet.track_usage
    if delivery.kind == "replacement":
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
        leased = outbox.lease(self._db, allowed)
        self._tokens -= len(leased)
        now = self._clock() if leased else None
        for delivery in leased:
            if now is not None:
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
        outbox.record(self._db, results, now=self._clock(), jitter=self._jitter)
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
