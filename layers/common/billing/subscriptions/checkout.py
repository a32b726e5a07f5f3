"""Starts checkouts: creates a subscription at Commet, whose `checkout_url` the user then visits.

Each user has one checkout at a time. A request takes the lease in `checkout_attempt` before
it calls Commet. No transaction or row lock is held during the call. The idempotency key at
Commet contains the attempt's number. If Commet does not answer, the attempt does not change, so
the next request repeats the call with the same key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from billing.accounts.accounts import User
from billing.accounts.limits import Limit, Turn
from billing.commet.answers import Subscription
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import (
    AlreadySubscribed,
    BillingError,
    CallBudgetSpent,
    CommetRefused,
    CommetUnavailable,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    TooManyRequests,
)
from billing.payments import troubles
from billing.subscriptions import customers, from_answer, mirror, plans, refresh

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

_WHAT_TO_DO = {
    "past_due": "The last payment failed. Update the payment method in the portal.",
    "paused": "The subscription is paused. Resume it in the portal.",
}
_CHANGEABLE = ("active", "trialing")
# If Commet refuses the API key, it decides nothing about the checkout, so the attempt does not
# change.
_KEY_REFUSED = frozenset({401, 403})
_NO_SUCH_PLAN = frozenset({"plan_not_found", "price_not_found", "no_prices_configured"})
# How long a user is in doubt who starts a checkout although the mirror has a subscription.
_SECOND_CHECKOUT = timedelta(minutes=1)
# How many checkouts a user may start or continue. Each costs calls to Commet, and Commet may send a
# mail to the user.
CHECKOUTS = Limit(10, timedelta(hours=1))
# How many times Commet is asked about a user who has a subscription and asks for a checkout. A
# change of plan may follow, which has its own limit.
SECOND_CHECKOUTS = Limit(30, timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class Started:
    """A started checkout. `created` is false if an unpaid checkout was continued."""

    subscription: Subscription
    created: bool


class Checkouts:
    """Starts checkouts."""

    def __init__(self, db: Database, commet: "Commet", clock: Callable[[], datetime]) -> None:
        self._db = db
        self._commet = commet
        self._clock = clock

    def start(
        self,
        user: User,
        *,
        plan_code: str,
        billing_interval: str | None,
        success_url: str,
        deadline: Deadline,
    ) -> Started:
        """Returns a subscription that waits for payment, or a free one that is active at once.

        Raises NotFound `plan_not_found`; InvalidRequest if the plan does not have the interval;
        AlreadySubscribed; Conflict `dispute_open`, `email_missing`, `checkout_in_progress`,
        `free_period_used` or `billing_email_taken`; TooManyRequests if the user's checkouts of this
        hour are used up; CommetUnavailable if Commet does not answer; CommetRefused for any other
        refusal.
        """
        self._refuse_disputed(user)
        if user.email is None:
            raise _email_missing()
        has_trial = self._check_plan(user, plan_code, billing_interval, deadline)
        turn = Turn(self._db, f"checkout:{user.id}", CHECKOUTS, self._clock())
        sent = self._commet.sent
        self._refuse_second(user, deadline)
        attempt = self._lease(user, plan_code, billing_interval, success_url)
        try:
            turn.take()  # under the lease, so that a double click counts once
            started = self._taken_up(attempt, deadline)
            if started is None and attempt.subscription_id is not None:
                attempt = self._anew(attempt)  # the attempt's subscription has ended
            if started is None:
                if has_trial:
                    attempt = self._without_second_trial(attempt, deadline)
                try:
                    started = self._create(attempt, deadline)
                except CommetRefused as error:
                    if not self._forget_customer(user, error):
                        raise
                    attempt = self._anew(attempt)
                    started = self._create(attempt, deadline)
        except CommetRefused as error:
            if error.commet_status in _KEY_REFUSED:
                self._end(_sql["end_lease"], attempt, subscription_id=None)
                raise
            self._end(_sql["abandon_checkout"], attempt)
            translated = self._translated(error, user, deadline)
            if translated is None:
                raise
            raise translated from error
        except Exception as error:
            if isinstance(error, CallBudgetSpent) and self._commet.sent == sent:
                turn.give_back()
            # Commet may not have answered. The next request repeats the call of this attempt with
            # the same key.
            self._end(_sql["end_lease"], attempt, subscription_id=None)
            raise
        self._end(_sql["end_lease"], attempt, subscription_id=started.subscription.id)
        return started

    def _lease(
        self, user: User, plan_code: str, billing_interval: str | None, success_url: str
    ) -> "_Attempt":
        skips_trial = mirror.had_trial(self._db, user.id)
        row = self._db.one(
            _sql["lease_checkout"],
            {
                "user_id": user.id,
                "plan_code": plan_code,
                "billing_interval": billing_interval,
                "success_url": success_url,
                "skips_trial": skips_trial,
            },
        )
        if row is None:
            raise Conflict(
                "Another checkout of this user is being started. Try again in a few seconds.",
                code="checkout_in_progress",
                retry_after=2,
            )
        return _Attempt(
            user,
            row["attempt"],
            plan_code,
            billing_interval,
            success_url,
            skips_trial,
            row["subscription_id"],
        )

    def _anew(self, attempt: "_Attempt") -> "_Attempt":
        """Returns a new attempt for the same checkout, with a new idempotency key.

        If the key of `attempt` were used again, Commet would repeat its last answer.
        """
        self._end(_sql["abandon_checkout"], attempt)
        return self._lease(
            attempt.user, attempt.plan_code, attempt.billing_interval, attempt.success_url
        )

    def _without_second_trial(self, attempt: "_Attempt", deadline: Deadline) -> "_Attempt":
        """Returns the attempt, or a new one without a trial if the user has had a trial that no
        webhook reported.

        No webhook may have reported a trial that began in an unpaid checkout and has ended since.
        So Commet is asked about the user's unpaid checkouts before the checkout offers a trial.
        """
        rows = mirror.refreshable(self._db, attempt.user.id)
        if attempt.skips_trial or all(row.is_live for row in rows):
            return attempt
        self._refresh(attempt.user, deadline)
        return self._anew(attempt) if mirror.had_trial(self._db, attempt.user.id) else attempt

    def _forget_customer(self, user: User, error: CommetRefused) -> bool:
        """Returns whether Commet no longer knows the user's customer. If so, unlinks the customer.

        This happens if Commet's sandbox was emptied, or if the API key now belongs to another
        organization. The next attempt creates a new customer.
        """
        linked = customers.of_user(self._db, user.id)
        if error.commet_code != "customer_not_found" or linked is None:
            return False
        customers.forget(self._db, user.id, linked)
        return True

    def _check_plan(self, user: User, code: str, interval: str | None, deadline: Deadline) -> bool:
        """Returns whether the plan begins with a trial, according to Commet's catalogue."""
        now = self._clock()
        find = partial(plans.catalogue, self._db, lambda: self._commet, now=now, deadline=deadline)
        plan = find().find(code)
        if plan is None:  # the plan may be newer than the cached catalogue
            plan = find(max_age=plans.RECENT).find(code)
        if plan is None:
            raise NotFound(f"There is no public plan with the code {code}.", code="plan_not_found")
        if plan.is_free and (until := mirror.free_until(self._db, user.id)) and until > now:
            raise Conflict(
                "This person's free plan, of an account that was erased, lasts until"
                f" {until:%Y-%m-%d}. From then on the free plan may be chosen again.",
                code="free_period_used",
            )
        if interval is not None and interval not in {p.billing_interval for p in plan.prices}:
            raise InvalidRequest(
                errors=[
                    FieldError(
                        "billing_interval",
                        "unknown_interval",
                        "The plan does not have this interval.",
                    )
                ]
            )
        return any(p.trial_days for p in plan.prices if interval in (None, p.billing_interval))

    def _refuse_disputed(self, user: User) -> None:
        if troubles.has_open_dispute(self._db, user.id):
            raise Conflict(
                "A payment of this user is disputed. When the dispute has ended, the user can"
                " check out again.",
                code="dispute_open",
            )

    def _refuse_second(self, user: User, deadline: Deadline) -> None:
        current = mirror.current(self._db, user.id)
        if current is None or not _is_running(current):
            return
        # The subscription may have ended without a webhook, and then the user may buy again. If
        # Commet does not answer, the mirror decides.
        mirror.doubt(self._db, user.id, lasting=_SECOND_CHECKOUT)
        if mirror.lease_refresh(self._db, user.id, self._clock()):
            turn = Turn(self._db, f"second:{user.id}", SECOND_CHECKOUTS, self._clock())
            self._ask(user, turn, deadline)
            current = mirror.current(self._db, user.id)
        if current is not None and _is_running(current):
            raise _already_subscribed(current)

    def _ask(self, user: User, turn: Turn, deadline: Deadline) -> None:
        """Asks Commet about a user whose refresh is leased. Without a turn, makes no call."""
        sent = self._commet.sent
        try:
            turn.take()
            self._refresh(user, deadline)
            mirror.note_answer(self._db, user.id)
        except (TooManyRequests, CallBudgetSpent) as error:
            mirror.unlease_refresh(self._db, user.id)
            if isinstance(error, TooManyRequests):
                raise
            if self._commet.sent == sent:
                turn.give_back()
        except (CommetUnavailable, CommetRefused):
            pass  # the mirror decides

    def _taken_up(self, attempt: "_Attempt", deadline: Deadline) -> Started | None:
        """Returns the attempt's own checkout while it waits for payment, else None.

        Raises Conflict `already_subscribed` if it has been paid.
        """
        if attempt.subscription_id is None:
            return None
        try:
            found = self._commet.subscription(attempt.subscription_id, deadline)
        except CommetRefused as error:
            if error.commet_status != 404:
                raise
            return None
        self._record(attempt.user, found)
        if found.status in mirror.LIVE:
            raise _already_subscribed(mirror.current(self._db, attempt.user.id))
        if found.status in mirror.PENDING and found.checkout_url:
            return Started(found, created=False)
        return None

    def _create(self, attempt: "_Attempt", deadline: Deadline) -> Started:
        user = attempt.user
        if user.email is None:
            raise _email_missing()
        customers.ensure(
            self._db,
            self._commet,
            user.id,
            email=user.email,
            name=user.name,
            now=self._clock(),
            deadline=deadline,
        )
        known = {row.id for row in mirror.refreshable(self._db, user.id)}
        answer = self._commet.create_subscription(
            user_id=user.id,
            plan_code=attempt.plan_code,
            billing_interval=attempt.billing_interval,
            success_url=attempt.success_url,
            skip_trial=attempt.skips_trial,
            idempotency_key=f"checkout:{user.id}:{attempt.number}",
            deadline=deadline,
        )
        self._record(user, answer)
        self._db.execute(
            _sql["mark_other_pending"],
            {"user_id": user.id, "id": answer.id},
        )
        return Started(answer, created=answer.id not in known)

    def _record(self, user: User, answer: Subscription) -> None:
        change = from_answer.subscription_change(answer, self._clock())
        mirror.record_change(self._db, user.id, change, at=answer.updated_at, now=self._clock())

    def _refresh(self, user: User, deadline: Deadline) -> None:
        refresh.refresh(self._db, self._commet, user.id, now=self._clock(), deadline=deadline)

    def _end(self, statement: str, attempt: "_Attempt", **parameters: object) -> None:
        self._db.execute(
            statement,
            {"user_id": attempt.user.id, "attempt": attempt.number, **parameters},
        )

    def _translated(
        self, error: CommetRefused, user: User, deadline: Deadline
    ) -> BillingError | None:
        if error.commet_code == "already_has_active_subscription":
            self._refresh(user, deadline)
            return _already_subscribed(mirror.current(self._db, user.id))
        if error.commet_code in _NO_SUCH_PLAN:
            return NotFound("The billing provider does not sell this plan.", code="plan_not_found")
        return None


@dataclass(frozen=True, slots=True)
class _Attempt:
    user: User
    number: int
    plan_code: str
    billing_interval: str | None
    success_url: str
    skips_trial: bool
    subscription_id: str | None


def _email_missing() -> Conflict:
    return Conflict(
        "The identity provider's token has no email address, to which invoices could be sent. Set"
        " one with PATCH /account, or have the product set one with PATCH /users/{id}.",
        code="email_missing",
    )


def _is_running(subscription: mirror.Subscription) -> bool:
    """Returns whether the subscription prevents a second one: it is live, and Commet knows it.

    If the API key belongs to another organization, Commet does not know the subscription, and its
    user cannot change it in the portal. So the user may buy again.
    """
    return subscription.status in mirror.LIVE and subscription.is_known


def _already_subscribed(current: mirror.Subscription | None) -> AlreadySubscribed:
    status = current.status if current else "active"
    detail = _WHAT_TO_DO.get(status, "The user already has a subscription.")
    may_change = current is not None and current.status in _CHANGEABLE
    return AlreadySubscribed(detail, may_change=may_change)
