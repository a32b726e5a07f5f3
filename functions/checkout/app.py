"""GET /plans and POST /checkout: lists the plans, and starts a checkout."""

from decimal import Decimal
from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing import amounts, metric, wiring
from billing.commet import answers
from billing.deadline import LambdaContext
from billing.http import api, redirects
from billing.http.shapes import (
    Checkout,
    CheckoutReply,
    CheckoutSubscription,
    OveragePrice,
    PlanFeatureReply,
    PlanRefReply,
    PlanReply,
    Plans,
    PriceReply,
)
from billing.metric import Metric
from billing.subscriptions import plans

app = api.resolver()


@app.get("/plans", responses=api.answers(Plans, 200, 502))
def list_plans() -> Response[Plans]:
    """The public plans. `as_of` is older than a minute only while the provider does not answer."""
    found = plans.catalogue(
        wiring.database(), wiring.commet(), now=wiring.now(), deadline=api.deadline(app)
    )
    return api.json_response(Plans(as_of=found.as_of, plans=[_plan(plan) for plan in found.plans]))


@app.post(
    "/checkout",
    status_code=201,
    security=api.BY_USER,
    responses=api.answers(CheckoutReply, 201, 403, 404, 409, 502) | api.answers(CheckoutReply, 200),
)
def start_checkout(body: Annotated[Checkout, Body()]) -> Response[CheckoutReply]:
    """Start a checkout for a plan, or continue the one that waits for payment (200).

    A free plan is active at once and has no `checkout_url`.
    """
    started = wiring.checkouts().start(
        api.user(app),
        plan_code=body.plan_code,
        billing_interval=body.billing_interval,
        success_url=redirects.allowed_target(wiring.settings(), body.success_url, "success_url"),
        deadline=api.deadline(app),
    )
    if started.created:
        metric.count(Metric.CHECKOUTS_STARTED)
    subscription = started.subscription
    reply = CheckoutReply(
        subscription=CheckoutSubscription(
            id=subscription.id,
            status=subscription.status,
            plan=PlanRefReply(id=subscription.plan.id, name=subscription.plan.name),
        ),
        checkout_url=subscription.checkout_url,
    )
    return api.json_response(reply, 201 if started.created else 200)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)


def _plan(plan: answers.Plan) -> PlanReply:
    currency = wiring.settings().currency
    return PlanReply(
        code=plan.code,
        name=plan.name,
        description=plan.description,
        is_free=plan.is_free,
        prices=[
            PriceReply(
                amount=amounts.format_minor_units(price.price, currency),
                currency=currency,
                interval=price.billing_interval,
                is_default=price.is_default,
                trial_days=price.trial_days,
            )
            for price in plan.prices
        ],
        features=[_feature(feature, currency) for feature in plan.features],
    )


def _feature(feature: answers.PlanFeature, currency: str) -> PlanFeatureReply:
    overage = feature.overage
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
            if overage.unit_price is None
            else amounts.format_unit_price(Decimal(overage.unit_price), currency),
        ),
    )
