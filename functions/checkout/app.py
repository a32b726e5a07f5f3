"""GET /plans and POST /checkout: lists the plans, and starts a checkout."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing import amounts, metric, wiring
from billing.accounts import accounts
from billing.accounts.accounts import User
from billing.audit.trail import Action
from billing.commet import answers
from billing.deadline import Deadline, LambdaContext
from billing.delivery import flushing  # noqa: F401 - loaded during INIT
from billing.errors import AlreadySubscribed, Conflict
from billing.http import api, auditing, redirects
from billing.http.shapes import (
    Checkout,
    CheckoutReply,
    CheckoutSubscription,
    FeatureChangeReply,
    OveragePrice,
    PlanChangeReply,
    PlanFeatureReply,
    PlanRefReply,
    PlanReply,
    Plans,
    PlanTermsReply,
    PriceReply,
)
from billing.metric import Metric
from billing.subscriptions import customers, mirror, plans, selling
from billing.subscriptions.plan_changes import (
    FeatureChange,
    PaidElsewhere,
    Performed,
    Preview,
    Terms,
)

app = api.resolver()


@app.get("/plans", responses=api.answers(Plans, 200))
@api.greets
@api.may_answer("billing_provider_error", "billing_provider_unavailable")
def list_plans() -> Response[Plans]:
    """List the plans that are sold, with their prices.

    `as_of` is older than a minute only while the billing provider does not answer. A signed-in user
    who had a trial sees no trial.
    """
    user = api.user_if_signed_in(app)
    has_trial = user is None or not mirror.had_trial(wiring.database(), user.id)
    found = plans.catalogue(
        wiring.database(), wiring.metered_commet(), now=wiring.now(), deadline=api.deadline(app)
    )
    currency = wiring.settings().currency
    base = plans.currency(wiring.database(), found, currency)
    listed = [_plan(plan, currency, base, has_trial=has_trial) for plan in found.plans]
    return api.json_response(Plans(as_of=found.as_of, plans=listed))


@app.post(
    "/checkout",
    status_code=201,
    security=api.by_user_or_service("billing:manage"),
    responses=api.answers(CheckoutReply, 201, "A checkout was started")
    | api.answers(CheckoutReply, 200, "A checkout goes on, or the plan of a subscription changes"),
)
@api.may_answer(
    "already_subscribed",
    "billing_email_taken",
    "billing_provider_error",
    "billing_provider_unavailable",
    "checkout_in_progress",
    "confirmation_expired",
    "conflict",
    "debt_open",
    "debt_payment_processing",
    "dispute_open",
    "email_missing",
    "email_unverified",
    "forbidden",
    "free_period_used",
    "payment_failed",
    "payment_method_missing",
    "plan_change_not_offered",
    "plan_change_not_possible",
    "plan_not_found",
    "too_many_requests",
    "unknown_user",
    "usage_pending",
)
def create_checkout(body: Annotated[Checkout, Body()]) -> Response[CheckoutReply]:
    """Start a checkout for a plan, continue the one that waits for payment, or change the plan.

    A free plan is active at once and has no `checkout_url`. A user who owes for usage is refused
    `debt_open`, which says how much and where it is paid. For a user who has a subscription, the
    answer (200) has `change`: what the change of plan costs and means, and a `confirmation`. The
    same request with the confirmation performs the change. From a free plan to a paid one, the
    change is paid at `checkout_url`. Whoever signed up here first confirms the email address:
    `email_unverified`.
    """
    user = api.subject(app, body.user_id)
    action = Action.PLAN_CHANGED if body.confirmation else Action.CHECKOUT
    with auditing.audited(app, action, user.id) as about:
        return _start_checkout(user, body, about)


def _start_checkout(user: User, body: Checkout, about: auditing.Details) -> Response[CheckoutReply]:
    accounts.require_verified(user)
    deadline = api.deadline(app)
    success_url = redirects.allowed_target(wiring.settings(), body.success_url, "success_url")
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
        return api.json_response(_reply(user, change=_performed(performed)), 200)
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
            metric.count(Metric.CHECKOUTS_STARTED)
            return api.json_response(_reply(user, checkout_url=asked.checkout_url), 201)
        about["preview"] = isinstance(asked, Preview)
        change = _performed(asked) if isinstance(asked, Performed) else _preview(asked)
        return api.json_response(_reply(user, change=change), 200)
    if started.created:
        metric.count(Metric.CHECKOUTS_STARTED)
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
    return api.json_response(reply, 201 if started.created else 200)


def _refuse_debtor(user: User, deadline: Deadline) -> None:
    """Raises DebtOpen for a user who owes.

    Somebody who comes back after an erasure may owe before the first checkout, and gets a customer
    first: without one Commet makes no page to pay on.
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


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)


def _plan(plan: answers.Plan, currency: str, base: str, *, has_trial: bool) -> PlanReply:
    """A plan with its prices in `currency` where they are listed in it, else in `base`."""
    return PlanReply(
        code=plan.code,
        name=plan.name,
        description=plan.description,
        is_free=plan.is_free,
        prices=[
            PriceReply(
                amount=amounts.format_minor_units(amount, charged),
                currency=charged,
                interval=price.billing_interval,
                is_default=price.is_default,
                trial_days=price.trial_days if has_trial else 0,
            )
            for price in plan.prices
            for amount, charged in [_amount(price, currency, base)]
        ],
        features=[_feature(feature, currency, base) for feature in plan.features],
    )


def _amount(price: answers.PlanPrice, currency: str, base: str) -> tuple[int, str]:
    listed = selling.price_in(price, currency)
    return (price.price, base) if listed is None else (listed, currency)


def _feature(feature: answers.PlanFeature, currency: str, base: str) -> PlanFeatureReply:
    overage = feature.overage
    listed = selling.overage_in(feature, currency)
    unit_price = listed if listed is not None or overage is None else overage.unit_price
    currency = base if listed is None else currency
    return PlanFeatureReply(
        code=feature.code,
        name=feature.name,
        type=feature.type,
        enabled=feature.enabled,
        unit=feature.unit_name,
        included=None if feature.included_amount is None else str(feature.included_amount),
        unlimited=feature.unlimited,
        overage=None
        if overage is None
        else OveragePrice(
            enabled=overage.enabled,
            unit_price=None
            if unit_price is None
            else amounts.format_unit_price(Decimal(unit_price), currency),
        ),
    )


def _reply(
    user: User, *, checkout_url: str | None = None, change: PlanChangeReply | None = None
) -> CheckoutReply:
    """The answer to a user who has a subscription."""
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
    """What each period costs from then on: as the catalogue lists it, else as Commet says."""
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
