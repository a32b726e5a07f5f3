"""One run of `reconcile`, which repairs on a schedule what webhooks alone cannot keep right.

The steps, in this order: try failed webhooks again, switch a disabled endpoint on, sweep, ask who
unknown customers are, refresh users who are due, ask about old disputes, check thresholds that were
changed, continue the work on debts, compare totals of usage, delete old rows, count what waits in
the inbox. Each of the first steps has a share of the time, so that none takes the time of the
others.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import psycopg
from aws_lambda_powertools import Logger

from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.config import Settings
from billing.database.connection import Database, place_of
from billing.deadline import Deadline
from billing.debts import invoices, keeping, links, reading
from billing.delivery import comparing, flushing
from billing.errors import CommetRefused, CommetUnavailable, DatabaseUnavailable
from billing.events import telling
from billing.operations import (
    customer_watch,
    dispute_watch,
    endpoint_watch,
    erasure_watch,
    housekeeping,
    sweep,
)
from billing.operations.endpoint_watch import Endpoint
from billing.subscriptions import contacts, inbox, mirror, plans, refresh
from billing.subscriptions.mirror import Refreshable
from billing.subscriptions.refresh import Truth
from billing.usage import thresholds
from billing.usage.rules import Rules

logger = Logger(child=True)

Clock = Callable[[], datetime]
Summary = dict[str, int]

# How many users Commet is asked about at the same time. Asking takes longer than writing the
# answers.
_AT_ONCE = 8
_REFRESH_SECONDS = 10.0
_ENDPOINT_SECONDS = 5.0
_CONTACT_SECONDS = 10.0

# The share of each step in the time that is left when the step begins.
_INBOX_SHARE = 0.4
_SWEEP_SHARE = 0.4
_CUSTOMERS_SHARE = 0.2
_ERASURE_SHARE = 0.3
_REFRESH_SHARE = 0.6
_DISPUTE_SHARE = 0.2
_DEBTS_SHARE = 0.4
_DRIFT_SHARE = 0.6
_THRESHOLDS_SHARE = 0.3


def run(
    db: Database, commet: Commet, settings: Settings, *, clock: Clock, deadline: Deadline
) -> Summary:
    """Works until nothing is due or the time is over. Returns counts of what it did, by name.

    An error about one user stops no other user: it is logged, and the user's row is due again
    later. If the database refuses a step, the other steps still run, and the step counts in
    `steps_failed`. Raises DatabaseUnavailable.
    """
    budget = Budget(db, settings.commet_calls_per_second)
    steps: Sequence[Callable[[], Summary]] = (
        lambda: _inbox(db, settings, clock, _share(deadline, _INBOX_SHARE)),
        lambda: _endpoint(db, commet, settings, deadline.within(_ENDPOINT_SECONDS)),
        lambda: _sweep(db, commet, budget, clock, _share(deadline, _SWEEP_SHARE)),
        lambda: _customers(db, commet, budget, clock, _share(deadline, _CUSTOMERS_SHARE)),
        lambda: _contacts(db, commet, budget, deadline.within(_CONTACT_SECONDS)),
        lambda: _erasures(
            db, commet, budget, settings, clock=clock, deadline=_share(deadline, _ERASURE_SHARE)
        ),
        lambda: _refresh_due(db, commet, budget, clock, _share(deadline, _REFRESH_SHARE)),
        lambda: _disputes(db, commet, budget, clock, _share(deadline, _DISPUTE_SHARE)),
        lambda: _floor(db, settings, deadline),
        lambda: _tell(db, settings, clock(), deadline),
        lambda: _thresholds(db, settings, clock, _share(deadline, _THRESHOLDS_SHARE)),
        lambda: _debts(db, commet, budget, clock, _share(deadline, _DEBTS_SHARE)),
        lambda: _drift(db, commet, budget, clock, _share(deadline, _DRIFT_SHARE)),
        lambda: _tidy_sign_ins(db, clock()),
        lambda: _delete_unverified(db, clock()),
        lambda: _delete_plan_changes(db),
        lambda: _currencies(db, settings),
        lambda: _prune_inbox(db, settings, clock(), deadline),
        lambda: _compact(db, settings, clock(), deadline),
        lambda: _prune_ledger(db, settings, clock(), deadline),
        lambda: _prune_audit(db, settings, deadline),
        lambda: _prune_events(db, settings, deadline),
        lambda: _health(db),
    )
    summary = Counter(steps_failed=0)
    for step in steps:
        summary.update(_attempt(step))
    return dict(summary)


def _attempt(step: Callable[[], Summary]) -> Summary:
    """Returns the counts of one step. If the database refuses the step, logs and counts that
    instead.
    """
    try:
        return step()
    except psycopg.Error as error:
        logger.exception("reconcile.step_failed", extra=place_of(error))
        return {"steps_failed": 1}


def _tidy_sign_ins(db: Database, now: datetime) -> Summary:
    housekeeping.tidy_sign_ins(db, now)
    return {}


def _delete_unverified(db: Database, now: datetime) -> Summary:
    return {"accounts_expired": housekeeping.delete_unverified(db, now)}


def _delete_plan_changes(db: Database) -> Summary:
    housekeeping.delete_plan_changes(db)
    return {}


def _currencies(db: Database, settings: Settings) -> Summary:
    plans.note_currencies(db, settings.currency)
    return {}


def _prune_inbox(db: Database, settings: Settings, now: datetime, deadline: Deadline) -> Summary:
    pruned = housekeeping.prune_inbox(
        db,
        now,
        payload_age=settings.inbox_payload_age,
        id_age=settings.inbox_id_age,
        deadline=deadline,
    )
    return {"payloads_pruned": pruned}


def _compact(db: Database, settings: Settings, now: datetime, deadline: Deadline) -> Summary:
    before = now - settings.delivery_age
    return {
        "periods_compacted": housekeeping.compact_deliveries(db, before=before, deadline=deadline)
    }


def _prune_ledger(db: Database, settings: Settings, now: datetime, deadline: Deadline) -> Summary:
    before = now - settings.ledger_age
    return {"ledger_pruned": housekeeping.prune_ledger(db, now, before=before, deadline=deadline)}


def _prune_audit(db: Database, settings: Settings, deadline: Deadline) -> Summary:
    return {"audit_pruned": housekeeping.prune_audit(db, age=settings.audit_age, deadline=deadline)}


def _prune_events(db: Database, settings: Settings, deadline: Deadline) -> Summary:
    housekeeping.prune_events(db, age=settings.event_age, deadline=deadline)
    return {}


def _share(deadline: Deadline, share: float) -> Deadline:
    return deadline.within(deadline.remaining() * share)


def _inbox(db: Database, settings: Settings, clock: Clock, deadline: Deadline) -> Summary:
    outcomes = inbox.retry_failed(db, mode=settings.commet_mode, clock=clock, deadline=deadline)
    return {
        "webhooks_applied": outcomes.get("applied", 0) + outcomes.get("ignored", 0),
        "webhooks_failed": outcomes.get("failed", 0),
        "webhooks_died": outcomes.get("dead", 0),
    }


def _health(db: Database) -> Summary:
    """Returns how many webhooks wait in the inbox for a later run, and how many for a person."""
    found = inbox.health(db)
    return {
        "inbox_failed": found.failed,
        "inbox_dead": found.dead,
        "inbox_age_seconds": found.oldest_seconds,
    }


def _endpoint(db: Database, commet: Commet, settings: Settings, deadline: Deadline) -> Summary:
    found = Endpoint.UNKNOWN
    try:
        found = endpoint_watch.look_after(
            commet,
            settings.webhook_url,
            # The sweep is requested first. If Commet's answer to the change is lost, the next run
            # finds the endpoint active and cannot know that webhooks were missed.
            before_enabling=lambda: sweep.request(db),
            deadline=deadline,
        )
    except (CommetUnavailable, CommetRefused) as error:
        _log("reconcile.endpoint_unseen", error)
    if found is Endpoint.ENABLED_AGAIN:
        logger.warning("reconcile.endpoint_enabled_again")
    elif found is Endpoint.MISSING:
        logger.error("reconcile.endpoint_missing")
    return {
        "webhook_endpoint_disabled": int(found is Endpoint.ENABLED_AGAIN),
        "webhook_endpoint_missing": int(found is Endpoint.MISSING),
    }


def _sweep(
    db: Database, commet: Commet, budget: Budget, clock: Clock, deadline: Deadline
) -> Summary:
    swept = sweep.Swept()
    try:
        swept = sweep.run(db, commet, budget, clock=clock, deadline=deadline)
    except (CommetUnavailable, CommetRefused) as error:
        _log("reconcile.sweep_stopped", error)
    return {
        "swept_subscriptions": swept.compared,
        "swept_differing": swept.differing,
        "swept_missing": swept.missing,
    }


def _contacts(db: Database, commet: Commet, budget: Budget, deadline: Deadline) -> Summary:
    """Sends changed addresses and names to Commet."""
    told = 0
    try:
        told = contacts.run(db, commet, budget, deadline)
    except (CommetUnavailable, CommetRefused) as error:
        if isinstance(error, CommetUnavailable) and error.asked_retry_after is not None:
            budget.pause(error.asked_retry_after)
        _log("reconcile.contacts_stopped", error)
    return {"contacts_told": told}


def _erasures(
    db: Database,
    commet: Commet,
    budget: Budget,
    settings: Settings,
    *,
    clock: Clock,
    deadline: Deadline,
) -> Summary:
    """Continues erasures."""

    def deliver(user_id: str, limit: Deadline) -> bool:
        return flushing.flush(
            db,
            commet,
            user_id,
            clock=clock,
            interval=settings.delivery_interval,
            budget=budget,
            deadline=limit,
        )

    watched = erasure_watch.Watched()
    try:
        watched = erasure_watch.run(
            db, commet, budget, deliver=deliver, clock=clock, deadline=deadline
        )
    except CommetRefused as error:
        _log("reconcile.erasures_stopped", error)
    return {
        "erasures_worked": watched.worked,
        "erasures_finished": watched.finished,
        "erasures_stuck": erasure_watch.stuck(db),
    }


def _customers(
    db: Database, commet: Commet, budget: Budget, clock: Clock, deadline: Deadline
) -> Summary:
    watched = customer_watch.Watched()
    try:
        watched = customer_watch.run(db, commet, budget, clock=clock, deadline=deadline)
    except (CommetUnavailable, CommetRefused) as error:
        if isinstance(error, CommetUnavailable) and error.asked_retry_after is not None:
            budget.pause(error.asked_retry_after)
        _log("reconcile.customers_stopped", error)
    return {"customers_asked": watched.asked, "customers_linked": watched.linked}


def _refresh_due(
    db: Database, commet: Commet, budget: Budget, clock: Clock, deadline: Deadline
) -> Summary:
    """Asks about the users who are due. Stops for this run if Commet answers about none of them."""
    counts = Counter(refreshed=0, refresh_failed=0, healed=0)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ask") as pool:
        while deadline.remaining() > 0:
            users = mirror.lease_refreshes(db, clock(), limit=_AT_ONCE)
            asked: list[_Asked] = []
            for user in users:
                rows = mirror.refreshable(db, user)
                if not budget.wait(refresh.calls(rows), deadline):
                    mirror.unlease_refreshes(db, users[len(asked) :])
                    break
                limit = deadline.within(_REFRESH_SECONDS)
                question = pool.submit(refresh.ask, commet, user, rows, now=clock(), deadline=limit)
                asked.append(_Asked(user, rows, question))
            failures = _write_down(db, asked, counts)
            if len(asked) < len(users) or not users or _is_down(failures, len(asked), budget):
                break
    return dict(counts)


@dataclass(frozen=True, slots=True)
class _Asked:
    user_id: str
    rows: Sequence[Refreshable]
    answer: "Future[Truth]"


def _write_down(db: Database, asked: Sequence[_Asked], counts: "Counter[str]") -> list[Exception]:
    """Writes the answers and counts them. Returns the errors, each of which concerns one user."""
    failures: list[Exception] = []
    for each in asked:
        try:
            counts["healed"] += refresh.write(db, each.rows, each.answer.result())
            counts["refreshed"] += 1
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - an error about one user must stop no other
            counts["refresh_failed"] += 1
            failures.append(error)
            _log_refresh(each.user_id, error)
    return failures


def _disputes(
    db: Database, commet: Commet, budget: Budget, clock: Clock, deadline: Deadline
) -> Summary:
    watched = dispute_watch.run(db, commet, budget, clock=clock, deadline=deadline)
    return {"disputes_asked": watched.asked, "disputes_ended": watched.ended}


def _drift(
    db: Database, commet: Commet, budget: Budget, clock: Clock, deadline: Deadline
) -> Summary:
    done = comparing.compare(db, commet, budget, clock, deadline)
    return {
        "totals_compared": done.users,
        "totals_differing": done.differing,
        "deliveries_decided": done.decided,
    }


def _floor(db: Database, settings: Settings, deadline: Deadline) -> Summary:
    """Updates users.has_debt if DebtFloor or RefuseDebtors was changed."""
    keeping.keep_floor(db, settings.debt_floor if settings.refuse_debtors else {}, deadline)
    return {}


def _tell(db: Database, settings: Settings, now: datetime, deadline: Deadline) -> Summary:
    """Emits events about what became true by time, or because PastDueHasAccess was changed."""
    telling.keep_statuses(db, settings.live_statuses)
    telling.tell_what_is_due(db, now, deadline)
    return {}


def _thresholds(db: Database, settings: Settings, clock: Clock, deadline: Deadline) -> Summary:
    """Checks all users' thresholds if one of all users, or OverageCeiling, was changed."""
    # The thresholds need only these two of the rules.
    rules = Rules((), ceilings=settings.overage_ceiling, currency=settings.currency)
    looked = thresholds.follow(db, rules, clock, deadline)
    return {"thresholds_evaluated": looked}


def _debts(
    db: Database, commet: Commet, budget: Budget, clock: Clock, deadline: Deadline
) -> Summary:
    """Asks whether payment links were paid, and for the amounts of unread debts."""
    counts = Counter(debt_calls=0)
    try:
        for run in (links.run, invoices.run, reading.run):
            counts["debt_calls"] += run(db, commet, budget, now=clock(), deadline=deadline)
    except CommetUnavailable as error:
        if error.asked_retry_after is not None:
            budget.pause(error.asked_retry_after)
        _log("reconcile.debts_stopped", error)
    found = keeping.gauges(db)
    return dict(counts) | {
        "debtors": found.debtors,
        "debts_paid_twice": found.debts_paid_twice,
    }


def _is_down(failures: Sequence[Exception], asked: int, budget: Budget) -> bool:
    silent = [each for each in failures if isinstance(each, CommetUnavailable)]
    pauses = [each.asked_retry_after for each in silent if each.asked_retry_after is not None]
    if pauses:
        budget.pause(max(pauses))
    return bool(pauses) or len(silent) == asked


def _log_refresh(user_id: str, error: Exception) -> None:
    if isinstance(error, CommetUnavailable | CommetRefused):
        _log("reconcile.refresh_failed", error, user_id=user_id)
    else:
        fields = {"user_id": user_id, **place_of(error)}
        logger.exception("reconcile.refresh_broken", exc_info=error, extra=fields)


def _log(event: str, error: CommetUnavailable | CommetRefused, **fields: str) -> None:
    extra = {"commet_code": error.commet_code, "commet_request_id": error.request_id, **fields}
    logger.warning(event, extra=extra)
