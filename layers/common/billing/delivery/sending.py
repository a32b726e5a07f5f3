"""Sends deliveries to Commet, so that Commet counts each unit of usage exactly once.

Commet's answers, and what happens to the delivery:

- Taken, or taken before (`duplicate`): the delivery is sent.
- No usable answer: we do not know whether Commet took the delivery. It remains pending and is
  sent again with the same key, after longer and longer pauses. Commet forgets the key 24 hours
  after the first such attempt. Then the delivery is parked as `unconfirmed`, and comparing totals
  decides (`comparing`).
- Asked to wait: the delivery remains pending, and no function of the stack calls Commet until the
  pause is over.
- Our API key was refused: Commet booked nothing, and would refuse every other delivery too. The
  delivery remains pending, and the run ends.
- Any other refusal: the delivery is parked with Commet's code. The run sends the others.

Before a total is replaced, Commet is asked whether it still counts in the same period (`asking`).

Deliveries that were claimed before their interval was over, because the user's overage had become
valuable, come after all others. They make at most half of the calls that background work may make.

Calls run in threads; only the caller's thread uses the database. Any number of runs may overlap,
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
from billing.commet.answers import FeatureAccess
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery import closing, outbox
from billing.delivery.asking import reason_against
from billing.delivery.outbox import MARGIN, QUIET, Delivery, Outcome, Result
from billing.errors import CommetRefused, CommetUnavailable

logger = Logger(child=True)

_CALL_SECONDS = 10.0  # the limit of one call, well inside the lease
_GLANCE_SECONDS = 0.05  # how long finished calls may wait while others are slow
_DEFAULT_PAUSE_SECONDS = 5.0  # if Commet answers "too many requests" without a Retry-After
_PARK_SECONDS = 10.0  # the limit for parking, so that due deliveries do not wait longer
_CLAIM_SHARE = 0.3  # the part of a run's time that claiming may use
_TOKEN_SECONDS = 5.0  # how long a run waits for the call budget before it ends
# A run ends after failures of three users, or after 25 failures, without a success in between:
# Commet is down then, and more time-outs would change nothing. Fewer failures may have reasons that
# concern only these users.
_FAILING_USERS = 3
_FAILURES_IN_A_ROW = 25


class Identified(Protocol):
    """The part of Commet's answer to a delivery that this module uses."""

    @property
    def id(self) -> str: ...


class UsageReceiver(Protocol):
    """The part of the Commet client that sends deliveries. Several threads call it at once."""

    def track_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> Identified: ...

    def replace_usage(
        self, body: str, *, idempotency_key: str, deadline: Deadline
    ) -> Identified: ...

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]: ...


class CallBudget(Protocol):
    """Limits how many calls the whole stack makes to Commet (`call_budget.Budget`)."""

    def wait(self, calls: int, deadline: Deadline) -> bool: ...

    def pause(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What one run did: how many deliveries it claimed, sent, postponed and parked.

    `drained` is true if no due delivery was left. `steps_failed` is the number of steps that the
    database refused; the run did the other steps.
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
    early_budget: CallBudget | None = None,
    workers: int = 8,
    quiet: timedelta = QUIET,
    jitter: Callable[[], float] = random.random,
) -> Summary:
    """Claims growth and sends due deliveries, until none is due or the time is over.

    `interval` is the least time between two deliveries of one user and feature. `early_budget`
    limits, in addition to `budget`, the deliveries that were claimed before their interval was
    over. `workers` is how many calls may run at once. `quiet` is how long Commet's total may lag
    behind its answers. Raises DatabaseUnavailable. Deliveries whose result was not written before
    such an error are sent again, unchanged, when their lease is over.
    """
    now = clock()
    steps = closing.Steps()
    parked = closing.park_unsendable(db, now, steps, deadline.within(_PARK_SECONDS))
    steps.take(partial(closing.redrive_active_again, db), None)
    closing.close(db, now, quiet, steps, deadline)
    share = deadline.within(deadline.remaining() * _CLAIM_SHARE)
    claimed = steps.take(partial(outbox.claim, db, now=now, interval=interval, deadline=share), 0)
    run = _Run(
        db,
        commet,
        clock=clock,
        deadline=deadline,
        budget=budget,
        early_budget=early_budget,
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
    """Sends one leased delivery and returns the result. Errors of Commet become results."""
    send = commet.track_usage
    if delivery.kind == "replacement":
        # PUT replaces the total of the period that runs when Commet gets the call. If the
        # delivery's period may be over by then, it is not sent.
        if now >= delivery.ends_at - MARGIN / 2:
            return _too_late(delivery)
        if (answer := _not_to_be_replaced(commet, delivery, deadline)) is not None:
            return answer
        send = commet.replace_usage
    try:
        taken = send(delivery.body, idempotency_key=delivery.idempotency_key, deadline=deadline)
    except CommetRefused as refusal:
        return _refused(delivery, refusal)
    except CommetUnavailable as failure:
        return _unanswered(delivery, failure)
    return Result(delivery, Outcome.SENT, remote_id=taken.id)


def guarded_attempt(
    commet: UsageReceiver, delivery: Delivery, deadline: Deadline, *, now: datetime
) -> Result:
    """Calls `attempt`. An unexpected error is logged and postpones only this delivery."""
    try:
        return attempt(commet, delivery, deadline, now=now)
    except Exception:
        logger.exception("delivery.broken", event_id=delivery.event_id)
        return Result(delivery, Outcome.POSTPONED)


def _not_to_be_replaced(
    commet: UsageReceiver, delivery: Delivery, deadline: Deadline
) -> Result | None:
    """Asks Commet about the total. Returns a result if a replacement must not be sent, else
    None.
    """
    try:
        reason = reason_against(delivery, commet.feature_access(delivery.user_id, deadline))
    except CommetRefused as refusal:
        return _refused(delivery, refusal)
    except CommetUnavailable as failure:
        return replace(_unanswered(delivery, failure), no_effect=True)
    return None if reason is None else replace(_too_late(delivery, reason), contradicts=True)


def _unanswered(delivery: Delivery, failure: CommetUnavailable) -> Result:
    # If Commet answers `rate_limited`, it has not processed the call.
    limited = failure.commet_code == "rate_limited"
    asked = failure.asked_retry_after or (_DEFAULT_PAUSE_SECONDS if limited else None)
    # Commet is still processing an earlier call with this key. The rest of the stack need not pause
    # for that.
    busy = failure.commet_code == "idempotency_in_progress"
    return Result(
        delivery, Outcome.POSTPONED, no_effect=limited, wait_seconds=None if busy else asked
    )


def _refused(delivery: Delivery, refusal: CommetRefused) -> Result:
    if refusal.commet_code == "duplicate":
        return Result(delivery, Outcome.SENT)
    if refusal.commet_status in (401, 403):
        return Result(delivery, Outcome.POSTPONED, no_effect=True, stop=True)
    return Result(delivery, Outcome.PARKED, reason=refusal.commet_code)


def _too_late(delivery: Delivery, reason: str = "period_over") -> Result:
    if delivery.uncertain_before is None:
        return Result(delivery, Outcome.PARKED, reason=reason)
    # Commet may have booked an earlier attempt, and no longer reports the total of that period.
    return Result(delivery, Outcome.PARKED, reason="unconfirmed")


class _Calls:
    """Calls that a run took from a budget and has not made yet.

    `tokens` is below 0 if the run made more calls than it took, because a replacement makes two
    calls. The missing calls are then taken first.
    """

    def __init__(self, budget: CallBudget, deadline: Deadline) -> None:
        self._budget = budget
        self._deadline = deadline
        self.tokens = 0

    def allowed(self, free: int, *, patient: bool) -> int:
        """Returns how many of `free` workers may make a call. Calls that are not made are kept for
        later.

        Waits for the budget only if `patient`. While calls are running, the run must not wait,
        because it would record their results late.
        """
        at_once = Deadline.after(0)
        if self.tokens < free and self._budget.wait(free - self.tokens, at_once):
            self.tokens = free
        if self.tokens <= 0 and free > 0:
            patience = self._deadline.within(_TOKEN_SECONDS) if patient else at_once
            if self._budget.wait(1 - self.tokens, patience):
                self.tokens = 1
        return max(0, min(free, self.tokens))


class _Run:
    """One run: keeps up to `workers` calls running until none is due or the run has to stop."""

    def __init__(
        self,
        db: Database,
        commet: UsageReceiver,
        *,
        clock: Clock,
        deadline: Deadline,
        budget: CallBudget,
        early_budget: CallBudget | None,
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
        self._calls = _Calls(budget, deadline)
        # If there are no early deliveries, the second budget is not used.
        second = early_budget if outbox.any_early(db) else None
        self._early_calls = _Calls(second, deadline) if second else None
        self._stopped = False
        self._failures = 0
        self._failing: set[str] = set()

    def until_done(self) -> Summary:
        """Sends deliveries. Returns what the run did."""
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
        """Starts calls on free workers, as the call budget allows. Returns whether it started
        any.
        """
        free = self._workers - len(self._flying)
        allowed = self._calls.allowed(free, patient=not self._flying)
        if allowed == 0:
            # If no call is running, this run has waited for the budget without success. So it ends,
            # and the next run continues.
            self._stopped = not self._flying
            return False
        early = allowed
        if self._early_calls:
            early = self._early_calls.allowed(allowed, patient=not self._flying)
        leased = outbox.lease(self._db, allowed, early_limit=early)
        self._calls.tokens -= sum(delivery.calls for delivery in leased)
        if self._early_calls:
            self._early_calls.tokens -= sum(d.calls for d in leased if d.is_early)
        now = self._clock() if leased else None
        for delivery in leased:
            if now is not None:
                limit = self._deadline.within(_CALL_SECONDS)
                call = pool.submit(guarded_attempt, self._commet, delivery, limit, now=now)
                self._flying[call] = delivery
        self._summary = replace(self._summary, drained=not leased and not self._flying)
        return bool(leased)

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
