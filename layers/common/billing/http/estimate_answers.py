"""What a month's usage would cost on each plan, as the API answers it."""

from decimal import Decimal

from billing.amounts import format_decimal, format_money
from billing.deadline import Deadline
from billing.errors import FieldError, InvalidRequest
from billing.http import estimate, plan_answers
from billing.http.estimate import Line, Row
from billing.http.shapes.estimates import (
    Estimate,
    EstimatedLine,
    EstimateReply,
    ObstacleReply,
    PlanEstimate,
)
from billing.http.shapes.plans import Plans


def answer(body: Estimate, deadline: Deadline) -> EstimateReply:
    """Returns the cost of the usage on each plan that is sold, or on the plan that `body` names.

    Raises InvalidRequest for a feature that no plan has or that is named twice, NotFound
    `plan_not_found`, and the errors of `plan_answers.plans`.
    """
    plans = plan_answers.plans(None, deadline)
    only = body.plan_code and plan_answers.plan_of(plans, body.plan_code)
    found = estimate.rows(plans, _asked(plans, body), interval=body.interval or "")
    return EstimateReply(
        as_of=plans.as_of, plans=[_plan(row) for row in found if not only or row.plan is only]
    )


def _asked(plans: Plans, body: Estimate) -> dict[str, Decimal]:
    """Returns the quantities by feature. Raises InvalidRequest."""
    known = {feature.code for feature in plan_answers.metered(plans.plans)}
    asked: dict[str, Decimal] = {}
    errors = []
    for at, each in enumerate(body.usage):
        field = f"usage.{at}.feature"
        if each.feature not in known:
            message = "No plan that is sold has a metered feature with this code."
            errors.append(FieldError(field, "unknown_feature", message))
        elif each.feature in asked:
            errors.append(FieldError(field, "given_twice", "Name each feature once."))
        asked[each.feature] = each.quantity
    if errors:
        raise InvalidRequest(errors=errors)
    return asked


def _plan(row: Row) -> PlanEstimate:
    return PlanEstimate(
        id=row.plan.id,
        code=row.plan.code,
        name=row.plan.name,
        interval=row.interval or None,
        periods=row.periods,
        price=_sum(row, row.base),
        overage=_sum(row, row.extra),
        total=_sum(row, row.total),
        currency=row.currency,
        usage=[_line(line, row.currency) for line in row.lines],
        obstacle=None
        if row.obstacle is None
        else ObstacleReply(
            reason=row.obstacle.kind, feature=row.obstacle.code, included=row.obstacle.included
        ),
        is_cheapest=row.is_cheapest,
    )


def _sum(row: Row, amount: Decimal) -> str | None:
    return None if row.obstacle else format_money(amount, row.currency)


def _line(line: Line, currency: str) -> EstimatedLine:
    feature = line.feature
    return EstimatedLine(
        feature=feature.code,
        name=feature.name,
        unit=feature.unit,
        quantity=format_decimal(line.quantity),
        included=None if feature.unlimited else feature.included or "0",
        overage_quantity=format_decimal(line.beyond),
        unit_price=feature.overage.unit_price if feature.overage else None,
        cost=format_money(line.cost, currency),
    )
