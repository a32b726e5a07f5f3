"""Starts checkouts: creates a subscription at Commet, whose `checkout_url` the user then visits.

Each user has one checkout at a time. A request takes the lease in `checkout_attempt` before it
calls Commet, and no transaction or row lock stays open during the call. The idempotency key at
Commet contains the attempt's number. A request that got no answer leaves the attempt as it is, so
the next request repeats it with the same key.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing.accounts.accounts import User
from billing.commet.answers import Subscription
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import (
    BillingError,
    CommetRefused,
    CommetUnavailable,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
)
from billing.subscriptions import from_answer, mirror, plans, refresh

_sql = Statements(__file__)

_WHAT_TO_DO = {
    "past_due": "The last payment failed. Update the payment method in the portal.",
    "paused": "The subscription is paused. Resume it in the portal.",
}
# Commet refused the API key, so it decided nothing about the checkout: the attempt stays as it is.
_KEY_REFUSED = frozenset({401, 403})
_NO_SUCH_PLAN = frozenset({"plan_not_found", "price_not_found", "no_prices_configured"})
# For how long Commet is asked about a user who starts a checkout while the mirror has a
# subscription.
_SECOND_CHECKOUT = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Started:
    """A started checkout. `created` is false where an unpaid checkout was continued."""

    subscription: Subscription
    created: bool


class Checkouts:
    """Starts checkouts."""

    def __init__(self, db: Database, commet: Commet, clock: Callable[[], datetime]) -> None:
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
        """A subscription that waits for payment, or a free one that is active at once.

        Raises NotFound `plan_not_found`; InvalidRequest where the plan does not have the interval;
        Conflict `already_subscribed`, `checkout_in_progress` or `billing_email_taken`;
        CommetUnavailable where Commet does not answer; CommetRefused for any other refusal.
        """
        self._check_plan(plan_code, billing_interval, deadline)
        self._refuse_second(user, deadline)
        attempt = self._lease(user, plan_code, billing_interval, success_url)
        try:
            started = self._taken_up(attempt, deadline)
            if started is None and attempt.subscription_id is not None:
                attempt = self._anew(attempt)  # that subscription has ended
            if started is None:
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
            raise self._translated(error, user, deadline) from error
        except Exception:
            # Commet may not have answered. The next request repeats this attempt with its key.
            self._end(_sql["end_lease"], attempt, subscription_id=None)
            raise
        self._end(_sql["end_lease"], attempt, subscription_id=started.subscription.id)
        return started

    def _lease(
        self, user: User, plan_code: str, billing_interval: str | None, success_url: str
    ) -> "_Attempt":
        row = self._db.one(
            _sql["lease_checkout"],
            {
                "user_id": user.id,
                "plan_code": plan_code,
                "billing_interval": billing_interval,
                "success_url": success_url,
            },
        )
        if row is None:
            raise Conflict(
                "Another checkout of this user is being started. Try again in a few seconds.",
                code="checkout_in_progress",
                retry_after=2,
            )
        return _Attempt(
            user, row["attempt"], plan_code, billing_interval, success_url, row["subscription_id"]
        )

    def _anew(self, attempt: "_Attempt") -> "_Attempt":
        """A new attempt at the same checkout, with a new idempotency key.

        With the key of `attempt`, Commet would repeat its last answer.
        """
        self._end(_sql["abandon_checkout"], attempt)
        return self._lease(
            attempt.user, attempt.plan_code, attempt.billing_interval, attempt.success_url
        )

    def _forget_customer(self, user: User, error: CommetRefused) -> bool:
        """Whether Commet does not know the user's customer any more; if so, unlinks the customer.

        This happens where Commet's sandbox was emptied, or where the API key now belongs to another
        organization. The next attempt creates a new customer.
        """
        linked = mirror.customer_id(self._db, user.id)
        if error.commet_code != "customer_not_found" or linked is None:
            return False
        self._db.execute(_sql["unlink_customer"], {"user_id": user.id, "customer_id": linked})
        return True

    def _check_plan(self, code: str, interval: str | None, deadline: Deadline) -> None:
        now = self._clock()
        plan = plans.catalogue(self._db, self._commet, now=now, deadline=deadline).find(code)
        if plan is None:  # the plan may be newer than the cached catalogue
            plan = plans.catalogue(
                self._db, self._commet, now=now, deadline=deadline, max_age=plans.RECENT
            ).find(code)
        if plan is None:
            raise NotFound("There is no public plan with this code.", code="plan_not_found")
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

    def _refuse_second(self, user: User, deadline: Deadline) -> None:
        current = mirror.current(self._db, user.id)
        if current is None or current.status not in mirror.LIVE:
            return
        # The subscription may have ended without a webhook, and then the user may buy again. Where
        # Commet does not answer, the mirror decides.
        mirror.doubt(self._db, user.id, lasting=_SECOND_CHECKOUT)
        if mirror.claim_refresh(self._db, user.id, self._clock()):
            with suppress(CommetUnavailable, CommetRefused):
                self._refresh(user, deadline)
                mirror.note_answer(self._db, user.id)
            current = mirror.current(self._db, user.id)
        if current is not None and current.status in mirror.LIVE:
            raise _already_subscribed(current.status)

    def _taken_up(self, attempt: "_Attempt", deadline: Deadline) -> Started | None:
        """The attempt's own checkout while it waits for payment, else None.

        Raises Conflict `already_subscribed` where it has been paid.
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
            raise _already_subscribed(found.status)
        if found.status in mirror.PENDING and found.checkout_url:
            return Started(found, created=False)
        return None

    def _create(self, attempt: "_Attempt", deadline: Deadline) -> Started:
        user = attempt.user
        self._ensure_customer(user, deadline)
        known = {row.id for row in mirror.refreshable(self._db, user.id)}
        answer = self._commet.create_subscription(
            user_id=user.id,
            plan_code=attempt.plan_code,
            billing_interval=attempt.billing_interval,
            success_url=attempt.success_url,
            idempotency_key=f"checkout:{user.id}:{attempt.number}",
            deadline=deadline,
        )
        self._record(user, answer)
        self._db.execute(
            _sql["mark_other_pending"],
            {"user_id": user.id, "id": answer.id},
        )
        return Started(answer, created=answer.id not in known)

    def _ensure_customer(self, user: User, deadline: Deadline) -> None:
        if mirror.customer_id(self._db, user.id):
            return
        try:
            customer = self._commet.create_customer(
                user_id=user.id, email=user.email, name=user.name, deadline=deadline
            )
        except CommetRefused as error:
            if error.commet_code != "duplicate":
                raise
            # Commet already has a customer with our user id, or another one with this email.
            found = self._commet.find_customer(user.id, deadline)
            if found is None:
                raise Conflict(
                    "Another customer is already billed at this email address.",
                    code="billing_email_taken",
                ) from error
            customer = found
        self._db.execute(
            _sql["link_customer"],
            {"user_id": user.id, "customer_id": customer.id},
        )

    def _record(self, user: User, answer: Subscription) -> None:
        change = from_answer.subscription_change(answer)
        mirror.record_change(self._db, user.id, change, at=answer.updated_at, now=self._clock())

    def _refresh(self, user: User, deadline: Deadline) -> None:
        refresh.refresh(self._db, self._commet, user.id, now=self._clock(), deadline=deadline)

    def _end(self, statement: str, attempt: "_Attempt", **parameters: object) -> None:
        self._db.execute(
            statement,
            {"user_id": attempt.user.id, "attempt": attempt.number, **parameters},
        )

    def _translated(self, error: CommetRefused, user: User, deadline: Deadline) -> BillingError:
        if error.commet_code == "already_has_active_subscription":
            self._refresh(user, deadline)
            current = mirror.current(self._db, user.id)
            return _already_subscribed(current.status if current else "active")
        if error.commet_code in _NO_SUCH_PLAN:
            return NotFound("The billing provider does not sell this plan.", code="plan_not_found")
        return error


@dataclass(frozen=True, slots=True)
class _Attempt:
    user: User
    number: int
    plan_code: str
    billing_interval: str | None
    success_url: str
    subscription_id: str | None


def _already_subscribed(status: str) -> Conflict:
    detail = _WHAT_TO_DO.get(
        status, "The user already has a subscription. Change it in the portal."
    )
    return Conflict(detail, code="already_subscribed")
