"""GET /plans, POST /plans/estimate and POST /checkout: prices, and the way to a plan."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing.commet import metered  # noqa: F401 - wiring imports it late; here it loads during INIT
from billing.deadline import LambdaContext
from billing.http import api, checkout_answers, estimate_answers, plan_answers
from billing.http.shapes.checkout import Checkout, CheckoutReply
from billing.http.shapes.estimates import Estimate, EstimateReply
from billing.http.shapes.plans import Plans

app = api.resolver()


@app.get("/plans", responses=api.answers(Plans, 200))
@api.greets
@api.may_answer("billing_provider_error", "billing_provider_unavailable")
def list_plans() -> Response[Plans]:
    """List the plans that are sold, with their prices.

    `as_of` is older than a minute only while the billing provider does not answer. A signed-in user
    who had a trial sees no trial.
    """
    listed = plan_answers.plans(api.user_if_signed_in(app), api.deadline(app))
    return api.json_response(listed)


@app.post("/plans/estimate", responses=api.answers(EstimateReply, 200))
@api.may_answer("billing_provider_error", "billing_provider_unavailable", "plan_not_found")
def estimate_cost(body: Annotated[Estimate, Body()]) -> Response[EstimateReply]:
    """Calculate what a month's usage would cost on each plan.

    Public, and nothing is stored. The quantities are those of a month, and the sums are those of
    `interval`: with `yearly`, twelve such months. For a plan that is charged weekly, a week's part
    of the month is taken. The sums are before tax and without trial days.
    """
    return api.json_response(estimate_answers.answer(body, api.deadline(app)))


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
    status, reply = checkout_answers.checkout(app, user, body)
    return api.json_response(reply, status)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
