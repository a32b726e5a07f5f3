"""Changes the plan of a user who has a subscription.

A change that moves money, or takes something away, is first shown as a preview. The preview has a
confirmation, which is valid for ten minutes. The same request with the confirmation performs the
change once, because the idempotency key at Commet is made from the confirmation. For a change from
a free plan to a paid one, Commet asks for a checkout. The user sees the price there, so this module
asks for no confirmation.
"""

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from psycopg.types.json import Jsonb

from billing.accounts.accounts import User
from billing.accounts.limits import Limit, Turn, counted
from billing.commet.answers import Plan, PlanChange, PlanFeature, PlanPrice
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
    NotFound,
    PaymentRequired,
    UsagePending,
)
from billing.subscriptions import customers, mirror, plans, refresh, selling

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

CONFIRMATION_LASTS = timedelta(minutes=10)
# How many changes a user may preview and confirm. Each costs calls to Commet.
CHANGES = Limit(30, timedelta(hours=1))
# How many charges of a user may be declined.
CHARGES = Limit(5, timedelta(days=1))
_CHARGED = frozenset({"charge_failed"})
_UNDER_WAY = "charge_in_progress"
# How long a user is in doubt who was sent to a checkout, or whose plan was changed.
_IN_DOUBT = timedelta(hours=2)

_AGAIN = "The subscription has changed since, or ten minutes are over. Ask for the change again."
_NOT_OFFERED = "Choose another plan, or write to support."
_NOT_POSSIBLE = (
    "The subscription is to be canceled or paused, or is not active. Change that in the portal."
)
_REFUSALS: dict[str, Callable[[], BillingError]] = {
    "charge_failed": lambda: PaymentRequired(
        "The card was declined, and the plan stays as it is. Update the payment method in the"
        " portal, and ask for the change again.",
        code="payment_failed",
    ),
    "no_payment_method": lambda: PaymentRequired(
        "Add a payment method in the portal, and ask for the change again.",
        code="payment_method_missing",
    ),
    "no_change_requested": lambda: AlreadySubscribed("The user already has this plan."),
    "already_scheduled": lambda: AlreadySubscribed("This change is already booked."),
    "plans_not_in_same_group": lambda: Conflict(_NOT_OFFERED, code="plan_change_not_offered"),
    "free_plan_change_not_supported": lambda: Conflict(
        _NOT_OFFERED, code="plan_change_not_offered"
    ),
    "invalid_subscription_status": lambda: Conflict(_NOT_POSSIBLE, code="plan_change_not_possible"),
    "subscription_not_active": lambda: Conflict(_NOT_POSSIBLE, code="plan_change_not_possible"),
    "subscription_has_open_dispute": lambda: Conflict(
        "A payment of this user is disputed. When the dispute has ended, the plan can be changed.",
        code="dispute_open",
    ),
    "plan_not_found": lambda: NotFound(
        "The billing provider does not sell this plan.", code="plan_not_found"
    ),
    "price_not_found": lambda: NotFound(
        "The billing provider does not sell this plan.", code="plan_not_found"
    ),
    "no_prices_configured": lambda: NotFound(
        "The billing provider does not sell this plan.", code="plan_not_found"
    ),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan gives of one feature. `unit_price` is that of overage, in the rate scale."""

    enabled: bool
    included: Decimal | None
    unlimited: bool
    unit_price: Decimal | None


@dataclass(frozen=True, slots=True)
class FeatureChange:
    """How a change of plan changes one feature. `used` is the usage of the running period."""

    code: str
    name: str
    unit: str | None
    before: Terms
    after: Terms
    used: Decimal

    @property
    def used_beyond(self) -> Decimal:
        """How much of the used quantity is above the included quantity of the new plan."""
        if self.after.unlimited:
            return Decimal(0)
        return max(Decimal(0), self.used - (self.after.included or Decimal(0)))


@dataclass(frozen=True, slots=True)
class Preview:
    """The effects of a change of plan. Amounts are in minor units of `currency`.

    `due_now` is charged when the change is confirmed: the new price, overage so far and tax, less
    `credit` for the rest of the old period. It is 0 for a change that waits for the end of the
    period. `then` is the price of each later period; None if Commet does not state it.
    `effective_at` is None if the change happens at once.
    """

    plan: Plan
    price: PlanPrice | None
    currency: str
    due_now: int
    credit: int
    then: int | None
    effective_at: datetime | None
    features: list[FeatureChange]
    confirmation: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Performed:
    """The outcome of a confirmed change.

    `charged` is in minor units; None if nothing was charged yet. `effective_at` is None if the
    change has happened.
    """

    outcome: Literal["completed", "scheduled"]
    charged: int | None
    currency: str
    effective_at: datetime | None


@dataclass(frozen=True, slots=True)
class PaidElsewhere:
    """The change takes effect once the user has paid at `checkout_url`."""

    checkout_url: str


class PlanChanges:
    """Previews and performs changes of plan.

    `deliver` sends all usage of a user to Commet, and returns whether nothing is left.
    """

    def __init__(
        self,
        db: Database,
        commet: "Commet",
        clock: Callable[[], datetime],
        deliver: Callable[[str, Deadline], bool],
        currency: str,
    ) -> None:
        self._db = db
        self._commet = commet
        self._clock = clock
        self._deliver = deliver
        self._currency = currency

    def ask(
        self,
        user: User,
        current: mirror.Subscription,
        *,
        plan_code: str,
        billing_interval: str | None,
        success_url: str,
        deadline: Deadline,
    ) -> Preview | PaidElsewhere | Performed:
        """Returns the effects of a change from `current` to this plan, or the checkout to pay it
        on.

        Raises AlreadySubscribed if the user has this plan and interval. Translates Commet's
        refusals into `plan_change_not_offered`, `plan_change_not_possible`, `dispute_open` or
        `plan_not_found`. Raises TooManyRequests if the user's previews of this hour are used up,
        CommetUnavailable and CommetRefused.
        """
        plan = self._plan(plan_code, deadline)
        price = _price_for(plan, billing_interval, current.billing_interval)
        interval = price.billing_interval if price else None
        if (plan.id, interval) == (current.plan_id, current.billing_interval):
            raise AlreadySubscribed("The user already has this plan.")
        try:
            with self._counted(user):
                if current.billing_interval is None and price is not None:
                    return self._paid_elsewhere(
                        user, current, plan.id, interval, success_url=success_url, deadline=deadline
                    )
                return self._preview(user, current, plan, price, deadline)
        except CommetRefused as error:
            _raise_translated(error)

    def shown(self, user: User, confirmation: str, deadline: Deadline) -> Preview:
        """Returns the preview with this confirmation once more.

        `due_now` and `credit` are as first shown; the later price is the catalogue's present one.
        Commet is not asked about the change. Raises Conflict `confirmation_expired` if the preview
        is confirmed, too old, or not the user's, or if its plan is no longer sold.
        """
        row = self._db.one(_sql["shown"], {"id": confirmation, "user_id": user.id})
        plans = self._catalogue(deadline).plans if row else []
        plan = next((each for each in plans if row and each.id == row["plan_id"]), None)
        if row is None or plan is None:
            raise Conflict(_AGAIN, code="confirmation_expired")
        by_interval = {price.billing_interval: price for price in plan.prices}
        return Preview(
            plan,
            by_interval.get(row["billing_interval"]),
            row["currency"],
            row["due_now"],
            row["credit"],
            row["then_price"],
            row["effective_at"],
            self._features(user, plan, row["currency"]),
            confirmation,
            row["expires_at"],
        )

    def perform(
        self,
        user: User,
        confirmation: str,
        *,
        plan_code: str,
        billing_interval: str | None,
        deadline: Deadline,
    ) -> Performed:
        """Performs the change that was shown with this confirmation, or returns its outcome.

        Raises Conflict `confirmation_expired` or `checkout_in_progress`; UsagePending if usage
        could not be delivered first; PaymentRequired `payment_failed` or `payment_method_missing`;
        the errors of `ask`; CommetUnavailable. After CommetUnavailable, the same request finds out
        whether Commet has performed the change.
        """
        key = {"id": confirmation, "user_id": user.id}
        known = self._db.one(_sql["confirmed"], key)
        if known is not None and not self._is_same(known, plan_code, billing_interval, deadline):
            raise Conflict(
                "The confirmation belongs to another change.", code="confirmation_expired"
            )
        if known is None:
            raise Conflict(_AGAIN, code="confirmation_expired")
        if known["outcome"] is None:
            return self._perform_once(user, key, deadline)
        return _outcome(known["outcome"], known["currency"])

    def _perform_once(self, user: User, key: dict[str, str], deadline: Deadline) -> Performed:
        is_ours = self._db.one(_sql["lease_change"], key) is not None
        try:
            # Read again, because another request may have concluded the change meanwhile.
            known = self._db.one(_sql["confirmed"], key)
            if known is None or (known["outcome"] is None and not is_ours):
                raise self._not_leased(user)
            if known["outcome"] is not None:
                return _outcome(known["outcome"], known["currency"])
            with self._counted(user):
                outcome = self._perform(user, key["id"], known, deadline)
            self._db.execute(_sql["conclude"], {"id": key["id"], "outcome": Jsonb(outcome)})
            mirror.doubt(self._db, user.id, lasting=_IN_DOUBT)
            with suppress(CommetUnavailable, CommetRefused):
                self._refresh(user, deadline)
        except CommetRefused as error:
            _raise_translated(error)
        finally:
            if is_ours:
                self._db.execute(_sql["end_lease"], key)
        return _outcome(outcome, known["currency"])

    def _counted(self, user: User) -> AbstractContextManager[None]:
        key = f"plan-change:{user.id}"
        return counted(self._db, key, CHANGES, now=self._clock(), calling=self._commet)

    def _catalogue(self, deadline: Deadline) -> plans.Catalogue:
        return plans.catalogue(self._db, lambda: self._commet, now=self._clock(), deadline=deadline)

    def _plan(self, code: str, deadline: Deadline) -> Plan:
        plan = self._catalogue(deadline).find(code)
        if plan is None:
            raise NotFound(f"There is no public plan with the code {code}.", code="plan_not_found")
        return plan

    def _is_same(
        self, known: dict[str, Any], plan_code: str, interval: str | None, deadline: Deadline
    ) -> bool:
        # A change that has begun is concluded, even if the plan is no longer sold.
        plan_id = (
            self._catalogue(deadline).id_of(plan_code)
            if known["has_begun"]
            else self._plan(plan_code, deadline).id
        )
        return plan_id == known["plan_id"] and interval in (None, known["billing_interval"])

    def _not_leased(self, user: User) -> Conflict:
        if self._db.value(_sql["is_leased"], {"user_id": user.id}):
            return Conflict(
                "Another change of this user's plan is being performed. Try again in a few"
                " seconds.",
                code="checkout_in_progress",
                retry_after=2,
            )
        return Conflict(_AGAIN, code="confirmation_expired")

    def _perform(
        self, user: User, confirmation: str, known: dict[str, Any], deadline: Deadline
    ) -> dict[str, Any]:
        """Performs the change. Returns its outcome as it is stored. Raises if it is still open."""
        self._check(user, confirmation, known, deadline)
        charges = Turn(self._db, f"charge:{user.id}", CHARGES, self._clock())
        if known["is_immediate"]:
            charges.take()
        self._db.execute(_sql["note_begin"], {"id": confirmation})
        sent = self._commet.sent
        try:
            changed = self._commet.change_plan(
                known["subscription_id"],
                plan_id=known["plan_id"],
                billing_interval=known["billing_interval"],
                success_url=None,
                idempotency_key=f"plan-change:{confirmation}",
                deadline=deadline,
            )
        except CommetRefused as error:
            if error.commet_code not in _CHARGED:
                charges.give_back()
            if error.commet_code == _UNDER_WAY:
                raise Conflict(
                    "The charge is under way. Try again in a few seconds.",
                    code="checkout_in_progress",
                    retry_after=5,
                ) from error
            if error.commet_code not in _REFUSALS:
                raise
            return {"refused": error.commet_code, "status": error.commet_status}
        except BaseException as error:
            charges.give_back()
            if (
                isinstance(error, CallBudgetSpent)
                and self._commet.sent == sent
                and not known["has_begun"]
            ):
                self._db.execute(_sql["undo_begin"], {"id": confirmation})
            raise
        charges.give_back()
        return _told(changed, known)

    def _check(
        self, user: User, confirmation: str, known: dict[str, Any], deadline: Deadline
    ) -> None:
        """Raises Conflict if the change may not be performed as it was shown.

        Commet may have performed the change already. Then this returns, because repeating the call
        with the same key only returns Commet's answer again.
        """
        found = self._commet.subscription(known["subscription_id"], deadline)
        if customers.owner(self._db, user.id, found.customer_id) != user.id:
            self._expire(user, confirmation, deadline)
        on = (found.plan.id, found.billing_interval)
        if known["has_begun"] and on == (known["plan_id"], known["billing_interval"]):
            return
        if on != (known["old_plan_id"], known["old_interval"]):
            self._expire(user, confirmation, deadline)
        if known["has_begun"] and not known["is_immediate"]:
            return  # it may be booked, which this subscription does not show
        if not known["is_valid"]:
            self._expire(user, confirmation, deadline)
        if not known["is_immediate"]:
            return
        if not self._deliver(user.id, deadline):
            raise UsagePending
        # Usage since the preview is owed in any case. The change itself must not cost more than was
        # shown.
        told = self._commet.preview_plan_change(
            known["subscription_id"],
            plan_id=known["plan_id"],
            billing_interval=known["billing_interval"],
            deadline=deadline,
        )
        if told.new_plan_charge - told.current_plan_credit > known["net_price"]:
            self._expire(user, confirmation, deadline)

    def _expire(self, user: User, confirmation: str, deadline: Deadline) -> NoReturn:
        self._db.execute(_sql["expire"], {"id": confirmation})
        with suppress(CommetUnavailable, CommetRefused):
            self._refresh(user, deadline)
        raise Conflict(_AGAIN, code="confirmation_expired")

    def _refresh(self, user: User, deadline: Deadline) -> None:
        refresh.refresh(self._db, self._commet, user.id, now=self._clock(), deadline=deadline)

    def _paid_elsewhere(
        self,
        user: User,
        current: mirror.Subscription,
        plan_id: str,
        interval: str | None,
        *,
        success_url: str,
        deadline: Deadline,
    ) -> PaidElsewhere | Performed:
        # The mirror may be late. If the user has a paid plan by now, the change would charge
        # without a confirmation.
        found = self._commet.subscription(current.id, deadline)
        if (
            found.billing_interval is not None
            or customers.owner(self._db, user.id, found.customer_id) != user.id
        ):
            with suppress(CommetUnavailable, CommetRefused):
                self._refresh(user, deadline)
            raise Conflict(_AGAIN, code="confirmation_expired")
        changed = self._commet.change_plan(
            current.id,
            plan_id=plan_id,
            billing_interval=interval,
            success_url=success_url,
            idempotency_key=None,
            deadline=deadline,
        )
        mirror.doubt(self._db, user.id, lasting=_IN_DOUBT)
        if changed.checkout_url is not None:
            return PaidElsewhere(changed.checkout_url)
        # Since the subscription was read, the user has paid on another page, and then Commet has
        # made this change as well. Commet offers no conditional change, so the user is told what it
        # cost.
        told = _told(changed, {"effective_at": None})
        with suppress(CommetUnavailable, CommetRefused):
            self._refresh(user, deadline)
        return _outcome(told, self._currency)

    def _preview(
        self,
        user: User,
        current: mirror.Subscription,
        plan: Plan,
        price: PlanPrice | None,
        deadline: Deadline,
    ) -> Preview:
        interval = price.billing_interval if price else None
        # deliver first, so that the price contains all overage so far
        self._deliver(user.id, deadline)
        try:
            told = self._commet.preview_plan_change(
                current.id, plan_id=plan.id, billing_interval=interval, deadline=deadline
            )
        except CommetRefused as error:
            if error.commet_code != "plan_change_scheduled":
                raise
            told = None
        effective_at = current.period_end if told is None else None
        currency = told.currency.lower() if told else self._currency_of(user, deadline)
        due_now = told.estimated_total if told else 0
        credit = told.current_plan_credit if told else 0
        then = told.new_plan_charge if told else None
        confirmation = f"chg_{secrets.token_urlsafe(16)}"
        expires_at = self._db.value(
            _sql["keep_preview"],
            {
                "id": confirmation,
                "user_id": user.id,
                "subscription_id": current.id,
                "old_plan_id": current.plan_id,
                "old_interval": current.billing_interval,
                "plan_id": plan.id,
                "billing_interval": interval,
                "is_immediate": told is not None,
                "currency": currency,
                "net_price": told.new_plan_charge - told.current_plan_credit if told else None,
                "due_now": due_now,
                "credit": credit,
                "then_price": then,
                "effective_at": effective_at,
                "lasts": CONFIRMATION_LASTS,
            },
        )
        return Preview(
            plan,
            price,
            currency,
            due_now,
            credit,
            then,
            effective_at,
            self._features(user, plan, currency),
            confirmation,
            expires_at,
        )

    def _currency_of(self, user: User, deadline: Deadline) -> str:
        """Returns the currency in which the user is charged."""
        known: str | None = self._db.value(_sql["currency"], {"user_id": user.id})
        return known or plans.currency(self._db, self._catalogue(deadline), self._currency)

    def _features(self, user: User, plan: Plan, currency: str) -> list[FeatureChange]:
        """Returns the features that differ between the two plans, by code."""
        rows = self._db.all(_sql["terms"], {"user_id": user.id, "now": self._clock()})
        old = {row["code"]: row for row in rows}
        new = {feature.code: feature for feature in plan.features}
        changes = [
            FeatureChange(
                code,
                new[code].name if code in new else old[code]["name"],
                new[code].unit_name if code in new else old[code]["unit"],
                _old_terms(old.get(code)),
                _new_terms(new.get(code), currency),
                old[code]["used"] if code in old else Decimal(0),
            )
            for code in sorted(old.keys() | new.keys())
        ]
        return [each for each in changes if each.before != each.after or each.used_beyond]


def _price_for(plan: Plan, wanted: str | None, current: str | None) -> PlanPrice | None:
    """Returns the plan's price for the wanted interval, else for the current one, else the
    default.
    """
    by_interval = {price.billing_interval: price for price in plan.prices}
    default = next((price for price in plan.prices if price.is_default), None)
    if plan.is_free:
        return None
    price = by_interval.get(wanted or "") or by_interval.get(current or "") or default
    return price or next(iter(plan.prices), None)


_NOTHING = Terms(enabled=False, included=None, unlimited=False, unit_price=None)


def _old_terms(row: dict[str, Any] | None) -> Terms:
    if row is None or not row["enabled"]:
        return _NOTHING
    price = row["unit_price"] if row["overage_enabled"] else None
    return Terms(
        enabled=True, included=row["included"], unlimited=row["unlimited"], unit_price=price
    )


def _new_terms(feature: PlanFeature | None, currency: str) -> Terms:
    if feature is None or not feature.enabled:
        return _NOTHING
    overage = feature.overage
    price = overage.unit_price if overage and overage.enabled else None
    if price is not None:
        listed = selling.overage_in(feature, currency)
        price = price if listed is None else listed
    included = feature.included_amount
    return Terms(
        enabled=True,
        included=None if included is None else Decimal(included),
        unlimited=feature.unlimited,
        unit_price=None if price is None else Decimal(price),
    )


def _told(changed: PlanChange, known: dict[str, Any]) -> dict[str, Any]:
    if changed.outcome not in ("completed", "scheduled"):
        raise CommetUnavailable(nonsense=True)
    at = changed.scheduled_for or known["effective_at"]
    return {
        "outcome": changed.outcome,
        "charged": changed.billing.total_charged if changed.billing else None,
        "effective_at": at.isoformat() if changed.outcome == "scheduled" and at else None,
    }


def _outcome(kept: dict[str, Any], currency: str) -> Performed:
    if "refused" in kept:
        _raise_translated(CommetRefused(kept["refused"], commet_status=kept["status"]))
    at = kept["effective_at"]
    return Performed(
        kept["outcome"],
        kept["charged"],
        currency,
        datetime.fromisoformat(at) if at else None,
    )


def _raise_translated(error: CommetRefused) -> NoReturn:
    """Raises our error for Commet's refusal of a change, or the refusal itself if we have none."""
    refusal = _REFUSALS.get(error.commet_code)
    if refusal is None:
        raise error
    raise refusal() from error
