"""Cancels a user's subscription, undoes a cancellation, and finds the page for a failed payment."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from billing.accounts.accounts import User
from billing.accounts.limits import Limit, counted
from billing.commet.answers import Subscription
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import (
    CommetRefused,
    CommetUnavailable,
    Conflict,
    UsagePending,
)
from billing.subscriptions import customers, from_answer, mirror, refresh

if TYPE_CHECKING:
    from billing.commet.client import Commet

# How many times a user may cancel, keep and ask for a page. Each costs calls to Commet.
REQUESTS = Limit(30, timedelta(hours=1))
# How long a user is in doubt who may pay on another page.
_IN_DOUBT = timedelta(hours=2)

# For these statuses, a cancellation waits for the end of the period.
_WAITS = ("active", "trialing")
# Commet's refusals if the subscription already is in the state that the request asks for.
_DONE = frozenset(
    {"subscription_already_canceled", "already_scheduled", "not_scheduled_for_cancellation"}
)
_NOT_POSSIBLE = frozenset(
    {
        "one_time_subscription_not_cancelable",
        "invalid_subscription_status",
        "subscription_not_active",
        "subscription_uncancel_failed",
    }
)


class Management:
    """What a user may do with a subscription. Every method may be repeated.

    `deliver` sends all usage of a user to Commet, and returns whether nothing is left.
    """

    def __init__(
        self,
        db: Database,
        commet: "Commet",
        clock: Callable[[], datetime],
        deliver: Callable[[str, Deadline], bool],
    ) -> None:
        self._db = db
        self._commet = commet
        self._clock = clock
        self._deliver = deliver

    def cancel(self, user: User, *, immediate: bool, deadline: Deadline) -> mirror.Subscription:
        """Cancels at the end of the paid period, or now. Returns the subscription.

        If the subscription ends at once, usage is delivered first. Raises Conflict
        `no_billing_account` or `cancellation_not_possible`, UsagePending, TooManyRequests,
        CommetUnavailable and CommetRefused.
        """
        with self._counted(user):
            found = self._read(user, deadline)
            if found.status in mirror.LIVE and (immediate or not found.cancel_at_period_end):
                # Commet ends a free or an unpaid subscription at once, even if the request names
                # the end of the period.
                waits = is_deferred(found.status, found.billing_interval)
                if (immediate or not waits) and not self._deliver(user.id, deadline):
                    raise UsagePending
                self._change(
                    user,
                    lambda: self._commet.cancel_subscription(
                        found.id, immediate=immediate, deadline=deadline
                    ),
                )
            return self._current(user, deadline)

    def keep(self, user: User, *, deadline: Deadline) -> mirror.Subscription:
        """Undoes a scheduled cancellation. Returns the subscription. Raises the errors of
        `cancel`.
        """
        with self._counted(user):
            found = self._read(user, deadline)
            if found.status not in mirror.LIVE:
                raise _nothing_to_manage()
            if found.cancel_at_period_end:
                self._change(user, lambda: self._commet.uncancel_subscription(found.id, deadline))
            return self._current(user, deadline)

    def recovery_url(self, user: User, *, deadline: Deadline) -> str:
        """Returns the page on which the open invoice of a past due subscription is paid.

        Raises Conflict `nothing_to_recover` if no payment is overdue, and the errors of `cancel`.
        """
        with self._counted(user):
            found = self._read(user, deadline)
            if found.status != "past_due":
                raise Conflict("No payment is overdue.", code="nothing_to_recover")
            mirror.doubt(self._db, user.id, lasting=_IN_DOUBT, leaves=True)
            return self._commet.create_recovery_link(found.id, deadline).url

    def _counted(self, user: User) -> AbstractContextManager[None]:
        return counted(
            self._db, f"manage:{user.id}", REQUESTS, now=self._clock(), calling=self._commet
        )

    def _read(self, user: User, deadline: Deadline) -> Subscription:
        """Reads the user's subscription at Commet, because Commet acts at once and the mirror
        may be late.
        """
        current = mirror.current(self._db, user.id)
        if current is None:
            raise _nothing_to_manage()
        if current.status in mirror.LIVE and not mirror.in_doubt(self._db, user.id):
            found = self._owned(user, current.id, deadline)
            if found is not None and found.status in mirror.LIVE:
                return found
        self._refresh(user, deadline)
        current = mirror.current(self._db, user.id)
        found = self._owned(user, current.id, deadline) if current else None
        if found is None:
            raise _nothing_to_manage()
        return found

    def _owned(self, user: User, subscription_id: str, deadline: Deadline) -> Subscription | None:
        """Returns the subscription; None if it is not the user's or Commet does not know it."""
        try:
            found = self._commet.subscription(subscription_id, deadline)
        except CommetRefused as error:
            if error.commet_status != 404:
                raise
            return None
        is_theirs = customers.owner(self._db, user.id, found.customer_id) == user.id
        return found if is_theirs else None

    def _change(self, user: User, call: Callable[[], Subscription]) -> None:
        asked_at = self._clock()
        try:
            answer = call()
        except CommetRefused as error:
            if error.commet_code in _NOT_POSSIBLE:
                raise Conflict(
                    "The subscription cannot be canceled or kept as it is. Open the portal.",
                    code="cancellation_not_possible",
                ) from error
            if error.commet_code not in _DONE:  # another request has done it already
                raise
        else:
            change = from_answer.subscription_change(answer, asked_at)
            mirror.record_change(self._db, user.id, change, at=answer.updated_at, now=self._clock())
        mirror.doubt(self._db, user.id, lasting=timedelta(minutes=1))

    def _current(self, user: User, deadline: Deadline) -> mirror.Subscription:
        # The subscription is recorded above. The refresh is only for the entitlements, so it may
        # fail.
        with suppress(CommetUnavailable, CommetRefused):
            self._refresh(user, deadline)
        found = mirror.current(self._db, user.id)
        if found is None:
            raise _nothing_to_manage()
        return found

    def _refresh(self, user: User, deadline: Deadline) -> None:
        refresh.refresh(self._db, self._commet, user.id, now=self._clock(), deadline=deadline)


def is_deferred(status: str, billing_interval: str | None) -> bool:
    """Returns whether a cancellation waits for the end of the period. A free plan ends at once."""
    return status in _WAITS and billing_interval is not None


def _nothing_to_manage() -> Conflict:
    return Conflict("There is no subscription to manage.", code="no_billing_account")
