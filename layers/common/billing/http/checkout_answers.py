"""Starts checkouts and changes of plan, and makes their answers."""

from typing import Literal

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import amounts, metric, wiring
from billing.accounts import accounts
from billing.accounts.accounts import User
from billing.audit.trail import Action
from billing.deadline import Deadline
from billing.delivery import flushing  # noqa: F401 - wiring imports it late; here it loads in INIT
from billing.errors import AlreadySubscribed, Conflict
from billing.http import api, auditing, redirects
from billing.http.shapes.base import PlanRefReply
from billing.http.shapes.checkout import (
    Checkout,
    CheckoutReply,
    CheckoutSubscription,
    FeatureChangeReply,
    PlanChangeReply,
    PlanTermsReply,
)
from billing.metric import Metric
from billing.subscriptions import customers, mirror, selling
from billing.subscriptions.plan_changes import (
    FeatureChange,
    PaidElsewhere,
    Performed,
    Preview,
    Terms,
)


def checkout(app: APIGatewayHttpResolver, user: User, body: Checkout) -> tuple[int, CheckoutReply]:
    """Starts a checkout, continues the one that waits for payment, or changes the plan.

    Returns the status with the answer: 201 if a checkout was started, else 200. The audit trail
    gets an entry, even if the request is refused.
    """
    action = Action.PLAN_CHANGED if body.confirmation else Action.CHECKOUT
    with auditing.audited(app, action, user.id) as about:
        return _start(app, user, body, about)


def shown(user: User, confirmation: str, deadline: Deadline) -> tuple[str, PlanChangeReply]:
    """Returns a change of plan as it was shown before, with the code of its plan.

    Raises Conflict `confirmation_expired`.
    """
    found = wiring.plan_changes().shown(user, confirmation, deadline)
    return found.plan.code, _preview(found)


def _start(
    app: APIGatewayHttpResolver, user: User, body: Checkout, about: auditing.Details
) -> tuple[int, CheckoutReply]:
    accounts.require_verified(user)
    deadline = api.deadline(app)
    success_url = redirects.allowed_target(
        wiring.settings(), body.success_url, "success_url", own=api.own_origin(app)
    )
    _refuse_debtor(user, deadline)
    if body.confirmation:
        performed = wiring.plan_changes().perform(
            user,
            body.confirmation,
            plan_code=body.plan_code,
            billing_interval=body.billing_interval,
            deadline=deadline,
        )
        about["confirmation"] = body.confirmation
        return 200, _reply(user, change=_performed(performed))
    try:
        started = wiring.checkouts().start(
            user,
            plan_code=body.plan_code,
            billing_interval=body.billing_interval,
            success_url=success_url,
            deadline=deadline,
        )
    except AlreadySubscribed as refusal:
        current = mirror.current(wiring.database(), user.id)
        if current is None or not refusal.may_change:
            raise
        asked = wiring.plan_changes().ask(
            user,
            current,
            plan_code=body.plan_code,
            billing_interval=body.billing_interval,
            success_url=success_url,
            deadline=deadline,
        )
        if isinstance(asked, PaidElsewhere):
            metric.count(Metric.CHECKOUTS_STARTED, service="checkout")
            return 201, _reply(user, checkout_url=asked.checkout_url)
        about["preview"] = isinstance(asked, Preview)
        change = _performed(asked) if isinstance(asked, Performed) else _preview(asked)
        return 200, _reply(user, change=change)
    if started.created:
        metric.count(Metric.CHECKOUTS_STARTED, service="checkout")
    subscription = started.subscription
    about["subscription"] = subscription.id
    reply = CheckoutReply(
        subscription=CheckoutSubscription(
            id=subscription.id,
            status=subscription.status,
            plan=PlanRefReply(id=subscription.plan.id, name=subscription.plan.name),
        ),
        checkout_url=subscription.checkout_url,
        change=None,
    )
    return (201 if started.created else 200), reply


def _refuse_debtor(user: User, deadline: Deadline) -> None:
    """Raises DebtOpen for a user who owes.

    A person who comes back after an erasure may owe before the first checkout. Such a person gets a
    customer first, because without a customer Commet creates no page to pay on.
    """
    db = wiring.database()
    if (
        user.email is not None
        and wiring.debtors().owes(user.id)
        and customers.of_user(db, user.id) is None
    ):
        customers.ensure(
            db,
            wiring.metered_commet(),
            user.id,
            email=user.email,
            name=user.name,
            now=wiring.now(),
            deadline=deadline,
        )
    wiring.debtors().check(user.id, deadline)


def _reply(
    user: User, *, checkout_url: str | None = None, change: PlanChangeReply | None = None
) -> CheckoutReply:
    """Returns the answer to a user who has a subscription."""
    current = mirror.current(wiring.database(), user.id)
    if current is None:
        raise Conflict("The subscription has ended meanwhile. Try again.")
    return CheckoutReply(
        subscription=CheckoutSubscription(
            id=current.id,
            status=current.status,
            plan=PlanRefReply(id=current.plan_id, name=current.plan_name),
        ),
        checkout_url=checkout_url,
        change=change,
    )


def _preview(asked: Preview) -> PlanChangeReply:
    price = asked.price
    return PlanChangeReply(
        state="preview",
        currency=asked.currency,
        due_now=amounts.format_minor_units(asked.due_now, asked.currency),
        credit=amounts.format_minor_units(asked.credit, asked.currency),
        effective_at=asked.effective_at,
        then_amount=_then_amount(asked),
        then_interval=price.billing_interval if price else None,
        features=[_feature_change(each, asked.currency) for each in asked.features],
        confirmation=asked.confirmation,
        confirmation_expires_at=asked.expires_at,
    )


def _then_amount(asked: Preview) -> str:
    """Returns the price of each later period: the catalogue's price, else the one that Commet
    stated.
    """
    price = asked.price
    listed = selling.price_in(price, asked.currency) if price else 0
    if listed is None:
        listed = asked.then if asked.then is not None or price is None else price.price
    return amounts.format_minor_units(listed or 0, asked.currency)


def _performed(done: Performed) -> PlanChangeReply:
    charged = done.charged
    return PlanChangeReply(
        state=done.outcome,
        currency=done.currency,
        due_now=None if charged is None else amounts.format_minor_units(charged, done.currency),
        credit=None,
        effective_at=done.effective_at,
        then_amount=None,
        then_interval=None,
        features=[],
        confirmation=None,
        confirmation_expires_at=None,
    )


def _feature_change(change: FeatureChange, currency: str) -> FeatureChangeReply:
    before, after = change.before, change.after
    if before == after:
        kind: Literal["gained", "lost", "changed", "same"] = "same"
    elif not before.enabled:
        kind = "gained"
    elif not after.enabled:
        kind = "lost"
    else:
        kind = "changed"
    return FeatureChangeReply(
        code=change.code,
        name=change.name,
        unit=change.unit,
        change=kind,
        before=_terms(before, currency),
        after=_terms(after, currency),
        used=amounts.format_decimal(change.used),
        used_beyond=amounts.format_decimal(change.used_beyond),
    )


def _terms(terms: Terms, currency: str) -> PlanTermsReply:
    price = terms.unit_price
    return PlanTermsReply(
        enabled=terms.enabled,
        included=None if terms.included is None else amounts.format_decimal(terms.included),
        unlimited=terms.unlimited,
        overage_unit_price=None if price is None else amounts.format_unit_price(price, currency),
    )
