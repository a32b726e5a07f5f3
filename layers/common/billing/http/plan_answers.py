"""The plans that are sold, with their prices, for the API and the pages."""

from collections.abc import Sequence
from decimal import Decimal

from billing import amounts, wiring
from billing.accounts.accounts import User
from billing.commet import answers
from billing.deadline import Deadline
from billing.errors import NotFound
from billing.http.shapes.plans import OveragePrice, PlanFeatureReply, PlanReply, Plans, PriceReply
from billing.subscriptions import mirror, selling
from billing.subscriptions.plans import catalogue
from billing.subscriptions.plans import currency as currency_of


def plans(user: User | None, deadline: Deadline) -> Plans:
    """Returns the plans that are sold, with their prices. A user who had a trial gets no trial
    days.

    Raises CommetUnavailable or CommetRefused if Commet does not answer and no copy is stored.
    """
    has_trial = user is None or not mirror.had_trial(wiring.database(), user.id)
    found = catalogue(wiring.database(), wiring.metered_commet, now=wiring.now(), deadline=deadline)
    currency = wiring.settings().currency
    base = currency_of(wiring.database(), found, currency)
    listed = [_plan(plan, currency, base, has_trial=has_trial) for plan in found.plans]
    return Plans(as_of=found.as_of, plans=listed)


def plan_of(plans: Plans, code: str) -> PlanReply:
    """Returns the plan that is sold under this code or id. Raises NotFound `plan_not_found`."""
    found = next((plan for plan in plans.plans if code in (plan.code, plan.id)), None)
    if found is None:
        raise NotFound("No such plan is sold.", code="plan_not_found")
    return found


def metered(plans: Sequence[PlanReply]) -> list[PlanFeatureReply]:
    """Returns the metered features of all plans, each once, in the order of the catalogue."""
    found: dict[str, PlanFeatureReply] = {}
    for plan in plans:
        for feature in plan.features:
            if feature.type == "usage":
                found.setdefault(feature.code, feature)
    return list(found.values())


def _plan(plan: answers.Plan, currency: str, base: str, *, has_trial: bool) -> PlanReply:
    """Returns a plan with the prices that it lists in `currency`, else with its prices in
    `base`.
    """
    return PlanReply(
        id=plan.id,
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
            currency=currency,
        ),
    )
